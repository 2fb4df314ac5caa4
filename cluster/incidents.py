"""What went wrong and was mended: told on the terminal, and kept in the run directory for whoever looks later.

incidents.jsonl            every loss of an actor: when, which, why, and after how many seconds it served again
quarantine/position-N.json every prompt that was given up: what it was, and each failure with it in hand
"""

from __future__ import annotations

import time

from actors.rollout_pool import Suspicion
from actors.supervision import Incident
from cluster.dashboards import Dashboards
from cluster.run_directory import RunDirectory


class Incidents:
    """Keeps the incidents of one run."""

    def __init__(self, directory: RunDirectory, dashboards: Dashboards) -> None:
        self._directory = directory
        self._dashboards = dashboards

    def report(self, incident: Incident) -> None:
        """An actor was lost, or its successor serves."""
        self._dashboards.message(str(incident))
        self._directory.append_json(
            "incidents.jsonl",
            {
                "time": time.time(),
                "unit": incident.unit,
                "reason": incident.reason,
                "recovered_s": incident.recovered_s,
            },
        )

    def quarantine(self, suspicion: Suspicion) -> None:
        """A prompt is given up; its group goes on without samples."""
        request = suspicion.request
        name = f"quarantine/position-{request.sequence}.json"
        self._directory.write_json(
            name,
            {
                "position": request.sequence,
                "epoch": request.epoch,
                "prompt_id": request.prompt_id,
                "level": request.level,
                "prompt_tokens": request.prompt_tokens.tolist(),
                "seed": request.seed,
                "failures": suspicion.failures,
            },
        )
        self._dashboards.message(
            f"prompt {request.prompt_id!r} (position {request.sequence}) is set aside after {len(suspicion.failures)} "
            f"failures with it in hand: {self._directory.path / name}"
        )
