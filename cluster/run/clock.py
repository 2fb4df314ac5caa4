"""How the wall time of one optimizer step divides into waiting for groups, learning and weight sync."""

from __future__ import annotations

import time

from actors.fleet.rollout_pool import RolloutPool


class StepClock:
    """Measures one optimizer step; started when it is made.

    Args:
        pool: the samplers, whose busy time and tokens are counted; None: nothing is sampled.
    """

    def __init__(self, pool: RolloutPool | None) -> None:
        self._pool = pool
        self._started = self._last = time.monotonic()
        self._sampled_at_start = self._sampled = self._sampling()
        self.laps: dict[str, float] = {}
        self._sync_s = 0.0  # within the other parts

    def lap(self, name: str, sync_s: float = 0.0) -> None:
        """End the current part of the step; it is called `name`. `sync_s`: seconds of it that are weight sync."""
        now = time.monotonic()
        self.laps[name] = now - self._last - sync_s
        self._sync_s += sync_s
        self._last = now
        self._sampled = self._sampling()

    def row(self) -> dict[str, float]:
        """The step's metrics, under the names of ``cluster/records/metrics.yaml``."""
        step_s = max(self._last - self._started, 1e-9)
        sampling = self._sampled[0] - self._sampled_at_start[0]
        tokens = self._sampled[1] - self._sampled_at_start[1]
        learning, sync = self.laps["learning"], self.laps["sync"] + self._sync_s
        covered = min(sampling, self.laps["waiting"]) + learning + sync
        row = {
            "time/step_s": step_s,
            "time/sampling_share": sampling / step_s,
            "time/learning_share": learning / step_s,
            "time/sync_share": sync / step_s,
            "time/other_share": max(0.0, step_s - covered) / step_s,
            "time/overlap_efficiency": max(sampling, learning) / step_s,
        }
        if self._pool is not None:
            row["throughput/sampled_tokens_per_s"] = tokens / max(sampling, 1e-9)
        return row

    def _sampling(self) -> tuple[float, int]:
        """(seconds in which a sampler worked, tokens sampled) so far."""
        return (self._pool.sampling_seconds(), self._pool.sampled_tokens) if self._pool else (0.0, 0)
