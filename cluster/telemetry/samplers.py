"""How loaded the samplers' engines are: in every step's row, and per sampler in Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from actors.engine_load import EngineLoad
from actors.process_stats import Heartbeat

EXPORT_SECONDS = 5.0  # between two exports of a sampler's gauges; Prometheus reads them less often


class SamplerLoads:
    """Collects the loads that heartbeats carry.

    Args:
        export: called with the gauges of a sampler, by their names in the table of metrics.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        export: Callable[[dict[str, float]], None] = lambda row: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._export = export
        self._clock = clock
        self._step: EngineLoad | None = None  # of all samplers since the last row
        self._unexported: dict[str, EngineLoad] = {}
        self._exported_at: dict[str, float] = {}
        self._preemptions: Counter[str] = Counter()  # so far, so that Prometheus misses none between two readings

    def on_heartbeat(self, actor: str, heartbeat: Heartbeat) -> None:
        """Take note of an actor's heartbeat; only samplers report a load."""
        load = heartbeat.load
        if load is None:
            return
        self._step = load if self._step is None else self._step | load
        self._unexported[actor] = self._unexported.get(actor, EngineLoad()) | load
        self._preemptions[actor] += load.preemptions
        now = self._clock()
        if now - self._exported_at.get(actor, -EXPORT_SECONDS) >= EXPORT_SECONDS:
            self._exported_at[actor] = now
            self._export(_gauges(actor, self._unexported.pop(actor), self._preemptions[actor]))

    def row(self) -> dict[str, float]:
        """The metrics of the period since the last call; empty if no sampler has answered in it."""
        load, self._step = self._step, None
        if load is None:
            return {}
        row: dict[str, float] = {
            "sampler/kv_cache_use_max": load.kv_cache_use,
            "sampler/running_max": load.running,
            "sampler/waiting_max": load.waiting,
            "sampler/preemptions": load.preemptions,
        }
        if (rate := load.prefix_cache_hit_rate) is not None:
            row["sampler/prefix_cache_hit_rate"] = rate
        return row


def _gauges(actor: str, load: EngineLoad, preemptions: int) -> dict[str, float]:
    gauges: dict[str, float] = {
        f"sampler/kv_cache_use_of/{actor}": load.kv_cache_use,
        f"sampler/running_of/{actor}": load.running,
        f"sampler/waiting_of/{actor}": load.waiting,
        f"sampler/preemptions_of/{actor}": preemptions,
    }
    if (rate := load.prefix_cache_hit_rate) is not None:
        gauges[f"sampler/prefix_cache_hit_rate_of/{actor}"] = rate
    return gauges
