"""What went wrong and was mended: told on the terminal, and kept in the run directory for whoever looks later.

incidents.jsonl            every loss of an actor: when, which, why, how its log ended, and after how many seconds it served again
quarantine/PURPOSE-N.json  every prompt that was given up: what it was, and each failure with it in hand (PURPOSE is
                           training, with the position N of its group, or evaluation, with the number N of the prompt)
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from actors.group import SampleRequest
from actors.quarantine import TRAINING, Quarantine, Suspicion
from actors.supervision import Incident
from cluster.dashboards import Dashboards
from cluster.errors import UsageError
from cluster.run_directory import RunDirectory

QUARANTINE = "quarantine"


class Incidents:
    """Keeps the incidents of one run."""

    def __init__(self, directory: RunDirectory, dashboards: Dashboards) -> None:
        self._directory = directory
        self._dashboards = dashboards
        self.quarantine = QuarantineFiles(directory, dashboards)

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
                "log": incident.log.splitlines(),
            },
        )


class QuarantineFiles(Quarantine):
    """The prompts that a run gave up, one file for each, which holds across ``--resume``.

    Raises:
        UsageError: a file of an earlier process cannot be read.
    """

    def __init__(self, directory: RunDirectory, dashboards: Dashboards) -> None:
        super().__init__()
        self._directory = directory
        self._dashboards = dashboards
        for path in sorted((directory.path / QUARANTINE).glob("*.json")):
            self._known.add(_read(path))

    def add(self, suspicion: Suspicion) -> None:
        """Write the evidence, and say where it lies."""
        super().add(suspicion)
        request = suspicion.request
        name = f"{QUARANTINE}/{suspicion.purpose}-{request.sequence}.json"
        self._directory.write_json(
            name,
            {
                "purpose": suspicion.purpose,
                "position": request.sequence,
                "epoch": request.epoch,
                "prompt_id": request.prompt_id,
                "level": request.level,
                "prompt_tokens": request.prompt_tokens.tolist(),
                "seed": request.seed,
                "failures": [asdict(failure) for failure in suspicion.failures],
            },
        )
        self._dashboards.message(
            f"prompt {request.prompt_id!r} (position {request.sequence}, {suspicion.purpose}) is set aside after "
            f"{len(suspicion.failures)} failures with it in hand: {self._directory.path / name}"
        )

    def met_again(self, purpose: str, request: SampleRequest) -> None:
        """Say that a later group of the prompt is set aside too."""
        self._dashboards.message(
            f"prompt {request.prompt_id!r} (position {request.sequence}, {purpose}) is set aside untried, as before: "
            f"see {self._directory.path / QUARANTINE}; when its file is deleted, the next --resume tries it again"
        )


def _read(path: Path) -> tuple[str, str]:
    try:
        evidence = json.loads(path.read_text())
        return evidence.get("purpose", TRAINING), evidence["prompt_id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it names a prompt that was set aside; delete "
            "the file, and the prompt is tried again"
        ) from error
