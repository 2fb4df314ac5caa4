"""Where a run's metrics go: terminal, trackers and Ray's gauges. One place, so that every number is logged once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

from cluster.config import RunConfig
from cluster.evaluation.curves import comparison_table, differences, evaluation_line, objective_name
from cluster.evaluation.summary import Evaluation, objective_terms
from cluster.exit_status import INTERRUPTED
from cluster.records.disk import RunDirectoryError
from cluster.records.run_directory import RunDirectory
from cluster.telemetry.console import print_table
from cluster.telemetry.mlflow_writer import MlflowWriter
from cluster.telemetry.progress import Progress
from cluster.telemetry.ray_gauges import RayGauges
from cluster.telemetry.tensorboard_writer import TensorBoardWriter
from cluster.telemetry.tracker import Loss, Tracker
from cluster.telemetry.wandb_writer import WandbWriter
from learner.metrics import Difference
from learner.schedule import scheduled_integer

logger = logging.getLogger(__name__)

INTERRUPTED_FINISH_SECONDS = 5.0  # for all trackers together to send the rest of a run that was asked to leave


class Dashboards:
    """Terminal, trackers and gauges of one run (a context manager).

    Args:
        config: the run's configuration.
        directory: where trackers keep their files and metrics.jsonl lies.
        first_step: optimizer steps that a resumed run has behind it.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, first_step: int) -> None:
        self._config = config
        self._directory = directory
        self._first_step = first_step
        self._terms = objective_terms(config)
        self._progress = Progress(objective=self._objective)
        self._gauges = RayGauges(directory.path.name)
        self._status: int | None = None  # how the run ended, once it is known

    def __enter__(self) -> Dashboards:
        self._trackers = make_trackers(self._config, self._directory, self._first_step)
        self._progress.start(total=self._config.run.steps, first_step=self._first_step)
        self.message(f"run directory {self._directory.path} (log files in {self._directory.logs.name}/)")
        for tracker in self._trackers:
            self.message(tracker.describe())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        status = self._status if self._status is not None else int(kind is not None)
        finish_s = INTERRUPTED_FINISH_SECONDS / max(len(self._trackers), 1) if status == INTERRUPTED else None
        for tracker in self._trackers:
            late = tracker.finish(status, deadline_s=finish_s)
            for loss in tracker.losses():
                print(loss.message, flush=True)
                # A disk that is full or hangs: how the run ended is said already.
                with contextlib.suppress(RunDirectoryError, TimeoutError):
                    self._note(loss)
            if late:
                print(late, flush=True)

    def final_message(self, text: str, status: int) -> None:
        """Print how the run ended; called before the shutdown, which may hang."""
        self._status = status
        logger.log(logging.ERROR if status else logging.INFO, "ended with status %d: %s", status, text)
        self._progress.stop()
        print(text, file=sys.stderr if status else sys.stdout, flush=True)

    def message(self, text: str) -> None:
        """Show a line on the terminal, and log it."""
        logger.info("%s", text)
        self._progress.message(text)

    def begin(self) -> None:
        """The actors are up, and training begins."""
        self._progress.begin()

    def phase(self, name: str) -> None:
        """What the run is waiting for now."""
        logger.info("%s", name)
        self._progress.phase(name)

    def step(self, row: Mapping[str, float]) -> None:
        """One finished optimizer step."""
        self._progress.step(dict(row))
        self._log(row)

    def evaluation(self, evaluation: Evaluation) -> None:
        """One finished evaluation."""
        self.message(evaluation_line(evaluation, self._terms))
        found = evaluation.objective
        name = objective_name(self._terms) if len(self._terms) == 1 else "objective"
        text = f"{name} {found.value:.3f}" if found is not None else ""
        self._progress.evaluated(evaluation.step, text)
        self._log(evaluation.row())
        for tracker in self._trackers:
            tracker.log_samples(evaluation.step, evaluation.samples)

    def export(self, row: Mapping[str, float]) -> None:
        """Export values to Prometheus, also between two steps."""
        self._gauges.set(row)

    def _log(self, row: Mapping[str, float]) -> None:
        self.export(row)
        for tracker in self._trackers:
            tracker.log(row)
            for loss in tracker.losses():
                self.message(loss.message)
                self._note(loss)

    def _note(self, loss: Loss) -> None:
        unit = loss.tracker.lower()
        self._directory.append_incident(unit, unit, reason=loss.message, recovered_s=loss.recovered_s)

    def curves(self, evaluations: Sequence[Evaluation]) -> dict[str, Difference]:
        """Shows the first and the last evaluation of the run side by side; returns the paired differences."""
        if not evaluations:
            return {}
        self._progress.stop()
        base, final = evaluations[0] if len(evaluations) > 1 else None, evaluations[-1]
        changes = differences(base, final, self._terms) if base else {}
        first = f"step {base.step}" if base and base.step else "base model"
        headings = first, f"step {final.step}"
        print_table(comparison_table(base, final, self._terms, headings=headings, changes=changes))
        return changes

    def best(self, evaluations: Sequence[Evaluation], best: Evaluation | None) -> None:
        """Show the best evaluated step and the first evaluation side by side."""
        if best is None:
            return
        base = evaluations[0] if evaluations[0].step < best.step else None
        first = f"step {base.step}" if base and base.step else "base model"
        headings = first, f"step {best.step}, the best"
        print_table(comparison_table(base, best, self._terms, headings=headings))

    def _objective(self, step: int) -> str:
        """What the objective is called at an optimizer step, from 1; "objective" for a mixture or an unknown k."""
        if len(self._terms) > 1 or self._config.schedule.k_by_entropy:
            return "objective"
        k = scheduled_integer(self._config.schedule.k, step - 1, self._config.objective.k)
        return objective_name(self._config.objective.terms(k))


def make_trackers(config: RunConfig, directory: RunDirectory, first_step: int) -> list[Tracker]:
    """Start each tracker that ``tracking`` names once, in the order of the list.

    Args:
        first_step: optimizer steps that a resumed run continues from; 0 for a new run.

    Raises:
        WandbError: wandb must be online and cannot start.
    """
    found: list[Tracker] = []
    name, tree = directory.path.name, config.to_mapping()
    for kind in dict.fromkeys(config.tracking):
        if kind == "wandb":
            found.append(WandbWriter(config.wandb, directory.path, config=tree, name=name))
        elif kind == "tensorboard":
            found.append(TensorBoardWriter(directory.path, first_step=first_step, elapsed_s=directory.elapsed_s()))
        else:
            found.append(MlflowWriter(config.mlflow, directory.path, config=tree, name=name, first_step=first_step))
    return found
