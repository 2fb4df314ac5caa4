"""What went wrong during a run: printed on the terminal, and kept in the run directory.

incidents.jsonl            every loss of an actor (`kind: actor`): when, which, why, how its log ended, and after how
                           many seconds it served again; every warning of health.py (`kind: warning`): when, at which
                           step, and what to change; every loss of a tracker (`kind: wandb`, `tensorboard`,
                           `mlflow`); every notice that a node will be lost (`kind: node`), and every actor that then
                           serves on another node (`kind: move`)
quarantine/PURPOSE-N.json  every quarantined prompt: what it was, and each failure while it was being processed
                           (PURPOSE is training, with the position N of its group, or evaluation, with the number N of
                           the prompt)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from actors.fleet.quarantine import TRAINING, FailureHistory, Quarantine
from actors.fleet.units import Incident
from actors.group import SampleRequest
from cluster.errors import UsageError
from cluster.records.run_directory import RunDirectory
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.health import Warning

QUARANTINE = "quarantine"


class Incidents:
    """Keeps the incidents of one run."""

    def __init__(self, directory: RunDirectory, dashboards: Dashboards) -> None:
        self._directory = directory
        self._dashboards = dashboards
        self.quarantine = QuarantineFiles(directory, dashboards)

    def report(self, incident: Incident) -> None:
        """An actor was lost or moves, its replacement is ready, or a node will be lost."""
        self._dashboards.message(str(incident))
        self._directory.append_incident(
            incident.kind,
            incident.unit,
            reason=incident.reason,
            recovered_s=incident.recovered_s,
            log=incident.log.splitlines(),
        )

    def warn(self, warning: Warning) -> None:
        """The run works, but something keeps it from learning."""
        self._dashboards.message(str(warning))
        keep_warnings(self._directory, [warning])


def keep_warnings(directory: RunDirectory, warnings: Sequence[Warning]) -> None:
    """Append warnings to the incidents of a run."""
    for warning in warnings:
        directory.append_incident("warning", "run", **asdict(warning))


class QuarantineFiles(Quarantine):
    """The quarantined prompts of a run, one file each; they stay quarantined across ``--resume``.

    Raises:
        UsageError: a file of an earlier process cannot be read.
    """

    def __init__(self, directory: RunDirectory, dashboards: Dashboards) -> None:
        super().__init__()
        self._directory = directory
        self._dashboards = dashboards
        for path in sorted((directory.path / QUARANTINE).glob("*.json")):
            self._known.add(_read(path))

    def add(self, history: FailureHistory) -> None:
        """Write the evidence and print its path."""
        super().add(history)
        request = history.request
        name = f"{QUARANTINE}/{history.purpose}-{request.sequence}.json"
        self._directory.replace_json(
            name,
            {
                "purpose": history.purpose,
                "position": request.sequence,
                "epoch": request.epoch,
                "prompt_id": request.prompt_id,
                "level": request.level,
                "prompt_tokens": request.prompt_tokens.tolist(),
                "seed": request.seed,
                "failures": [{"reason": failure.reason, "loss": failure.loss} for failure in history.failures],
            },
        )
        self._dashboards.message(
            f"prompt {request.prompt_id!r} ({history.purpose}, position {request.sequence}) is quarantined: actors "
            f"failed {len(history.failures)} times while they processed it; evidence in {self._directory.path / name}"
        )

    def report_skip(self, purpose: str, request: SampleRequest) -> None:
        """Print that a later group of the prompt is skipped."""
        self._dashboards.message(
            f"prompt {request.prompt_id!r} ({purpose}, position {request.sequence}) is quarantined and was skipped; to "
            f"try it again, delete its file in {self._directory.path / QUARANTINE} and use --resume"
        )


def _read(path: Path) -> tuple[str, str]:
    try:
        evidence = json.loads(path.read_text())
        return evidence.get("purpose", TRAINING), evidence["prompt_id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it records a quarantined prompt; delete "
            "the file, and the prompt is sampled again"
        ) from error
