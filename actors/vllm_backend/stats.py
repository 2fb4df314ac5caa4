"""Collects what vLLM reports after every engine step, for the metrics `sampler/*`.

vLLM adds its Prometheus logger, which takes time for every sample in every step, unless one of the given loggers is
derived from it. Ours is, and exports nothing.

A weight update that keeps running requests (``sampler.in_flight: keep``) clears the cache, for which vLLM preempts all
of them. The front end gets no reason with a preemption, only the number, each with the next token of its request. So
the requests that ran when the cache was cleared are subtracted from the preemptions that follow.
"""

from __future__ import annotations

from typing import Any

from actors.engine_load import EngineLoad


class EngineStats:
    """The load of one engine."""

    def __init__(self) -> None:
        self._cleared = 0  # requests that lost their cache to a weight update, and have not reported it yet
        self._now = EngineLoad()  # after the last engine step
        self._since_taken = EngineLoad()

    def record(self, scheduler: Any, iteration: Any) -> None:
        """One engine step: vLLM's SchedulerStats or None, and its IterationStats or None if there was no output."""
        preemptions = 0
        if iteration is not None and iteration.num_preempted_reqs:
            ours = min(self._cleared, iteration.num_preempted_reqs)
            self._cleared -= ours
            preemptions = iteration.num_preempted_reqs - ours
        if scheduler is None:
            step = EngineLoad(preemptions=preemptions)
        else:
            waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
            self._now = EngineLoad(scheduler.kv_cache_usage, scheduler.num_running_reqs, waiting)
            begun = scheduler.prefix_cache_stats  # vLLM counts continued requests apart
            step = self._now | EngineLoad(0.0, 0, 0, preemptions, begun.queries, begun.hits)
        self._since_taken |= step

    def cache_cleared(self) -> None:
        """A finished pause has cleared the cache of the requests that were running."""
        self._cleared += self._now.running
        self._now = EngineLoad(waiting=self._now.running + self._now.waiting)

    def take(self) -> EngineLoad:
        """The load since the last call; an idle engine reports the state at the end of its last step."""
        taken, self._since_taken = self._since_taken, self._now
        return taken

    def logger(self) -> Any:
        """The class of which vLLM makes its logger (an item of `stat_loggers`); it passes everything on to this."""
        from vllm.v1.metrics.loggers import PrometheusStatLogger

        stats = self

        class Logger(PrometheusStatLogger):
            """Replaces every method, because the base class would register and set Prometheus metrics."""

            def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
                pass

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
            ) -> None:
                stats.record(scheduler_stats, iteration_stats)

            def record_admission_rejection(self, reason: str) -> None:
                pass

            def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
                pass

            def log_engine_initialized(self) -> None:
                pass

        return Logger
