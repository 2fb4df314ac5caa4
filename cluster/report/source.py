"""The run that a page is about, as every part of the page reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.queue.group_log import groups_file
from cluster.config import RunConfig
from cluster.evaluation.summary import Evaluation, evaluation_file
from cluster.records.checkpoints import QUEUE_FILE
from cluster.records.disk import RunDirectoryError
from cluster.records.metric_names import EVALUATION_STEP, TIME, TRAIN_STEP
from cluster.records.run_directory import check_unused
from cluster.results import ResultsError, RunResults, load_run

Row = Mapping[str, float]

# A live page is built again and again, and reading an evaluation takes seconds.
_EVALUATIONS: dict[tuple[Path, int, int], Evaluation | None] = {}
_MAX_KEPT = 8


@dataclass(frozen=True)
class Source:
    """One run, read up to its last whole records.

    config: None where another release wrote the configuration. rows, evaluations: of metrics.jsonl, by step.
    """

    run: RunResults
    config: RunConfig | None
    rows: list[Row]
    evaluations: list[Row]
    summary: dict[str, Any]
    running: bool

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a run directory.

        Raises:
            ResultsError: there is no run at `path`, or a file of the run is damaged.
        """
        run = load_run(path)
        return cls(
            run=run,
            config=_config(run),
            rows=_by(TRAIN_STEP, run),
            evaluations=_by(EVALUATION_STEP, run),
            summary=run.summary or {},
            running=_running(run.path),
        )

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint with a replay queue; a run that replays another one saves none."""
        return any((self.path / "checkpoints").glob(f"step-*/{QUEUE_FILE}"))

    @property
    def seconds(self) -> float:
        """Wall time from the start of the run to its last record; evaluations after the last step included."""
        at_the_end = sum(
            row.get("eval/seconds", 0.0) for row in self.evaluations if row[EVALUATION_STEP] >= self.run.last_step
        )
        return float(max((row.get(TIME, 0.0) for row in self.rows), default=0.0) + at_the_end)

    def value(self, key: str, default: Any = None) -> Any:
        """A configuration value by its dotted key."""
        found: Any = self.run.config
        for name in key.split("."):
            if not isinstance(found, Mapping) or name not in found:
                return default
            found = found[name]
        return found

    def evaluation(self, step: int) -> Evaluation | None:
        """An evaluation with the values of each prompt; None where its groups cannot be read or judged."""
        if step not in self.run.evaluation_steps:
            return None
        key = self.path, step, _stamp(self.group_file("evaluation", step))
        if key not in _EVALUATIONS:
            if len(_EVALUATIONS) >= _MAX_KEPT:
                _EVALUATIONS.clear()
            _EVALUATIONS[key] = _evaluation(self.run, step)
        return _EVALUATIONS[key]

    def group_file(self, kind: str, step: int) -> Path:
        """The file with the groups of a training step or an evaluation (`kind`)."""
        return self.path / "groups" / (evaluation_file(step) if kind == "evaluation" else groups_file(step))


def _evaluation(run: RunResults, step: int) -> Evaluation | None:
    try:
        return run.evaluation(step)
    except ResultsError:
        return None


def _stamp(file: Path) -> int:
    """Changes when a file is written again, as after a resume from an earlier step."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _config(run: RunResults) -> RunConfig | None:
    try:
        return run.run_config
    except ResultsError:
        return None


def _by(axis: str, run: RunResults) -> list[Row]:
    return sorted((row for row in run.metrics if axis in row), key=lambda row: row[axis])


def _running(path: Path) -> bool:
    """Whether a process holds the run's lock; it leaves the lock file empty when it ends in an orderly way."""
    try:
        if (path / "lock").stat().st_size == 0:
            return False
        check_unused(path)
    except RunDirectoryError:
        return True
    except OSError:
        return False
    return False
