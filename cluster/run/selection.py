"""Keeps the best evaluated checkpoint of a run (``evaluation.keep_best``) and ends a run that stops improving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, nan

from cluster.config.keep_best import metric_key
from cluster.config.settings import EvaluationSettings
from cluster.evaluation.summary import Evaluation
from cluster.records.best import FILE, Best
from cluster.records.checkpoints import Checkpoints
from cluster.records.metric_names import EVALUATION_STEP
from cluster.records.run_directory import RunDirectory


class NoFurtherGain(Exception):
    """``evaluation.patience`` evaluations in a row have not improved; the message says so."""


class Selection:
    """The evaluations of a run so far, by the metric that selects.

    On resume everything is derived from the rows of metrics.jsonl up to the checkpoint, and from the checkpoints that
    are there: a crash at any moment, or another metric, needs nothing else.

    Args:
        first_step: optimizer steps that were done before this process.
    """

    def __init__(
        self, settings: EvaluationSettings, directory: RunDirectory, checkpoints: Checkpoints, first_step: int
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._checkpoints = checkpoints
        self._rows: dict[int, dict[str, float]] = {}
        self.best: Best | None = None
        if settings.keep_best is not None and first_step:
            self._restore(first_step)

    def _restore(self, first_step: int) -> None:
        rows = [row for row in self._directory.read_metrics() if row.get(EVALUATION_STEP, first_step + 1) <= first_step]
        self._rows = {int(row[EVALUATION_STEP]): row for row in rows}
        complete = {step for step in self._checkpoints.complete() if step <= first_step}
        step = best_step({step: value for step, value in self._values().items() if step in complete})
        self.best = self._describe(step) if step else None
        if self.best is None:
            self._directory.remove(FILE)
        else:
            self.write()

    def add(self, evaluation: Evaluation) -> bool:
        """Whether the evaluation is the best of all steps so far; the base model (step 0) has no checkpoint."""
        if self._settings.keep_best is None:
            return False
        step = evaluation.step
        self._rows[step] = evaluation.row()
        value = self._values().get(step)
        if not step or value is None or (self.best is not None and value <= self.best.value):
            if self.best is not None:
                self.best = self._describe(self.best.step)  # it is now the best of one more evaluation
            return False
        self.best = self._describe(step)
        return True

    def is_best(self, step: int) -> bool:
        return self.best is not None and self.best.step == step

    @property
    def protected(self) -> tuple[int, ...]:
        """Steps whose checkpoints must stay."""
        return (self.best.step,) if self.best is not None else ()

    def write(self) -> None:
        """Replace best.json; call it when the checkpoint of the best step is complete."""
        if self.best is not None:
            self._directory.write_json(FILE, self.best.to_json())

    @property
    def exhausted(self) -> bool:
        """Whether the run ends, because further steps are not expected to improve the metric."""
        patience = self._settings.patience
        return bool(patience) and self._without_gain() >= patience

    def check(self, step: int) -> None:
        """Raise :class:`NoFurtherGain` if the run ends after `step` steps."""
        if self.exhausted:
            raise NoFurtherGain(
                f"stopped early after step {step}: {self._settings.keep_best} has not risen by more than "
                f"{self._settings.min_gain:g} in the last {self._without_gain()} evaluations (evaluation.patience)"
            )

    @property
    def base_is_better(self) -> bool:
        """Whether the model before training had a larger value than any evaluated step."""
        base = self._values().get(0)
        return base is not None and self.best is not None and base > self.best.value

    def _values(self) -> dict[int, float]:
        assert self._settings.keep_best is not None
        return history(self._rows.values(), metric_key(self._settings.keep_best))

    def _without_gain(self) -> int:
        return evaluations_without_gain(self._values().values(), self._settings.min_gain)

    def _describe(self, step: int) -> Best:
        metric = str(self._settings.keep_best)
        key, row = metric_key(metric), self._rows[step]
        low, high = (row.get(f"{key}_{end}") for end in ("low", "high"))
        return Best(
            metric=metric,
            key=key,
            step=step,
            value=row[key],
            low=low if low is not None and isfinite(low) else None,
            high=high if high is not None and isfinite(high) else None,
            split=self._settings.split,
            checkpoint=self._checkpoints.path_of(step).relative_to(self._directory.path).as_posix(),
            evaluations=sum(step > 0 for step in self._values()),
        )


def history(rows: Iterable[Mapping[str, float]], key: str) -> dict[int, float]:
    """The metric's finite values by evaluated step, in the order in which they were logged."""
    found = {int(row[EVALUATION_STEP]): row.get(key, nan) for row in rows if EVALUATION_STEP in row}
    return {step: value for step, value in found.items() if isfinite(value)}


def best_step(values: Mapping[int, float]) -> int | None:
    """The step with the largest value, the earliest of equals."""
    return max(sorted(values), key=values.__getitem__, default=None)


def evaluations_without_gain(values: Iterable[float], min_gain: float) -> int:
    """How many of the last values did not exceed the best value before them by more than `min_gain`."""
    count, reference = 0, None
    for value in values:
        if reference is None or value > reference + min_gain:
            count, reference = 0, value
        else:
            count += 1
    return count
