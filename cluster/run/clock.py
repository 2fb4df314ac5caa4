"""Where the wall time of a step goes."""

from __future__ import annotations

import time


class StepClock:
    """Where the wall time of one step went: waiting for groups, learning, weight sync; and how long samplers worked."""

    def __init__(self, sampled_seconds: float) -> None:
        self._started = self._last = time.monotonic()
        self._sampled_at_start = self._sampled = sampled_seconds
        self.laps: dict[str, float] = {}

    def lap(self, name: str, sampled_seconds: float) -> None:
        """The part that just ended is called `name`; `sampled_seconds` is the samplers' busy time so far."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now
        self._sampled = sampled_seconds

    def row(self) -> dict[str, float]:
        """The step's shares under the names of ``cluster/records/metric_names.py``."""
        step_s = max(self._last - self._started, 1e-9)
        sampling = self._sampled - self._sampled_at_start
        learning, sync = self.laps["learning"], self.laps["sync"]
        # While samplers are busy the loop is not idle, and while it learns or syncs neither: what is left is neither.
        covered = min(sampling, self.laps["waiting"]) + learning + sync
        return {
            "time/step_s": step_s,
            "time/sampling_share": sampling / step_s,
            "time/learning_share": learning / step_s,
            "time/sync_share": sync / step_s,
            "time/other_share": max(0.0, step_s - covered) / step_s,
            "time/overlap_efficiency": max(sampling, learning) / step_s,
        }
