"""A run as its directory holds it, finished or under way. docs/run-directory.md describes the files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from actors.group import Group
from actors.queue.group_log import groups_file, read_groups
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from cluster.evaluation.summary import Evaluation, NothingJudged, evaluation_file, read_evaluation
from cluster.records.metric_names import TRAIN_STEP, find_metric
from cluster.records.run_directory import INCIDENTS_FILE, read_metrics
from cluster.records.software import GIT_FILE
from cluster.records.user_code import plugins_as_used
from cluster.results.group_records import GroupRecord, advantages, group_records
from verifiers.credentials import masked_tree

CONFIG_FILE, EVALUATION_FILE = "config.yaml", "evaluation.json"
_STEP_FILE = re.compile(r"(step|evaluation)-(\d+)\.parquet")
_PARQUET_MAGIC = b"PAR1"  # the first and the last four bytes of a finished file
_MAX_NAMES = 8  # of runs that a message lists


class ResultsError(UsageError):
    """A path holds no run, or a file of a run cannot be read; the message names the path and what was expected."""


@dataclass(frozen=True)
class RunResults:
    """What a run recorded. Reading writes nothing and does not disturb a running run.

    Metrics and lists of files are read once, when they are first asked for: load the run again to see what it has
    written since.

    Attributes:
        path: the run directory.
        config: the resolved configuration, as recorded.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the directory: `run.name`, or the time at which the run began."""
        return self.path.name

    @cached_property
    def run_config(self) -> RunConfig:
        """The configuration as settings. Plugins are loaded; a file that has changed since, from the run's copy.

        Raises:
            ResultsError: this release does not know the configuration's keys, or a plugin cannot be loaded.
        """
        plugins = plugins_as_used(self.path, self.config.get("plugins") or ())
        try:
            return build_config(self.config | ({"plugins": plugins} if plugins else {}))
        except (UsageError, ValueError) as error:
            raise ResultsError(f"{self.path / CONFIG_FILE} cannot be used by this release: {error}") from error

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return (self.path / "summary.json").is_file()

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The run's result (summary.json); None before its end."""
        return self.read_json("summary.json")

    @cached_property
    def git(self) -> dict[str, Any] | None:
        """Commit of the source tree and whether it was changed."""
        return self.read_json(GIT_FILE)

    @cached_property
    def versions(self) -> dict[str, Any] | None:
        """Python, platform, command and packages."""
        return self.read_json("versions.json")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the directory; None if the run did not write it.

        Raises:
            ResultsError: it cannot be read.
        """
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ResultsError(f"{self.path / name} cannot be read: {error}") from error
        return content if isinstance(content, dict) else None

    @cached_property
    def metrics(self) -> list[dict[str, int | float]]:
        """The rows of metrics.jsonl; a last line that is half written is left out."""
        return read_metrics(self.path)

    def columns(self, axis: str = TRAIN_STEP) -> dict[str, list[int | float | None]]:
        """The rows that hold `axis` (`train/step`, `evaluation/step`) as columns by name.

        A column is None where a row has no value.
        """
        rows = [row for row in self.metrics if axis in row]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}

    def series(self, name: str) -> tuple[list[int | float], list[int | float]]:
        """A metric's values and the points of its axis at which they were logged.

        Raises:
            MetricError: there is no such metric.
        """
        axis = find_metric(name).axis
        points = [(row[axis], row[name]) for row in self.metrics if name in row and axis in row]
        return [x for x, _ in points], [y for _, y in points]

    @property
    def last_step(self) -> int:
        """Optimizer steps done; 0 before the first."""
        return max((int(row[TRAIN_STEP]) for row in self.metrics if TRAIN_STEP in row), default=0)

    def trained_k(self, step: int) -> int | None:
        """The k of the objective at an optimizer step, counted from 1; None if it is not recorded."""
        found = [row["objective/k"] for row in self.metrics if row.get(TRAIN_STEP) == step and "objective/k" in row]
        return int(found[-1]) if found else None

    @cached_property
    def incidents(self) -> list[dict[str, Any]]:
        """Lost actors, warnings and losses of wandb, in order."""
        file = self.path / INCIDENTS_FILE
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        return [row for row in map(_object, lines) if row is not None]

    @cached_property
    def group_steps(self) -> tuple[int, ...]:
        """Optimizer steps whose groups are recorded; the first step is 1."""
        return self._recorded("step")

    @cached_property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps of the weights whose evaluations are recorded; 0 is the base model."""
        return self._recorded("evaluation")

    def groups(self, step: int) -> Iterator[GroupRecord]:
        """The groups that an optimizer step trained on, with advantages, in the learner's order.

        Raises:
            ResultsError: the step is not recorded, or its file cannot be read.
        """
        self._require("optimizer step", step, self.group_steps)
        groups = self._read(groups_file(step))
        yield from group_records(groups, step, advantages(self.run_config, groups, step, self.trained_k(step)))

    def evaluation_groups(self, step: int) -> Iterator[GroupRecord]:
        """The groups of the evaluation of the weights after `step` steps, without advantages.

        Raises:
            ResultsError: the evaluation is not recorded, or its file cannot be read.
        """
        self._require("evaluation after step", step, self.evaluation_steps)
        groups = self._read(evaluation_file(step))
        yield from group_records(groups, step, [None] * len(groups))

    def evaluation(self, step: int) -> Evaluation:
        """Every point of every curve with its interval, standard error and values of prompts.

        Raises:
            ResultsError: the evaluation is not recorded, cannot be read, or the verifier failed on every prompt.
        """
        if step not in self._evaluations:
            file = self.evaluation_path(step)
            try:
                found = read_evaluation(self.run_config, file, step)
            except (OSError, ValueError) as error:
                raise ResultsError(f"{file} cannot be read: {error}") from error
            if found is None:
                raise ResultsError(f"{file} holds no groups; measure the checkpoint of this step with `bonrl eval`")
            self._evaluations[step] = found
        return self._evaluations[step]

    def evaluation_path(self, step: int) -> Path:
        """The Parquet file with the groups of an evaluation.

        Raises:
            ResultsError: the evaluation is not recorded.
        """
        self._require("evaluation after step", step, self.evaluation_steps)
        return self.path / "groups" / evaluation_file(step)

    @property
    def evaluations(self) -> list[Evaluation]:
        """Every recorded evaluation, by step, except those in which the verifier failed on every prompt."""
        found = []
        for step in self.evaluation_steps:
            try:
                found.append(self.evaluation(step))
            except ResultsError as error:
                if not isinstance(error.__cause__, NothingJudged):
                    raise
        return found

    @cached_property
    def _evaluations(self) -> dict[int, Evaluation]:
        return {}

    def _recorded(self, kind: str) -> tuple[int, ...]:
        folder = self.path / "groups"
        names = (file.name for file in folder.glob("*.parquet") if _is_finished(file))
        found = (match for name in names if (match := _STEP_FILE.fullmatch(name)) and match[1] == kind)
        return tuple(sorted(int(match[2]) for match in found))

    def _require(self, what: str, step: int, recorded: tuple[int, ...]) -> None:
        if step not in recorded:
            there = f"recorded: {_ranges(recorded)}" if recorded else "nothing of this kind is recorded"
            raise ResultsError(f"{self.path} has no groups of {what} {step}; {there}")

    def _read(self, name: str) -> list[Group]:
        try:
            return [Group.from_record_batch(batch) for batch in read_groups(self.path / "groups" / name)]
        except (OSError, ValueError) as error:
            raise ResultsError(f"{self.path / 'groups' / name} cannot be read: {error}") from error


def load_run(path: str | Path) -> RunResults:
    """The run in a directory that `bonrl train` wrote; it may still be under way.

    Raises:
        ResultsError: the path holds no run; the message says what it holds.
    """
    path = Path(path).expanduser()
    file = path / CONFIG_FILE
    if not file.is_file():
        raise ResultsError(f"{path} {_other_content(path)}")
    try:
        config = masked_tree(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ResultsError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ResultsError(f"{file} has no sections (`run:`, `model:` ...); give the directory of a run")
    return RunResults(path.absolute(), config)


def runs_in(path: Path) -> list[Path]:
    """Run directories directly below a directory, by name."""
    return sorted(file.parent for file in path.glob(f"*/{CONFIG_FILE}"))


def _other_content(path: Path) -> str:
    """What a path without a run is, and what to give instead."""
    if not path.exists():
        return "does not exist; give the directory of a run, such as runs/NAME"
    if not path.is_dir():
        return f"is a file; give the directory of a run, which holds {CONFIG_FILE} and metrics.jsonl"
    if found := runs_in(path):
        names = ", ".join(run.name for run in found[:_MAX_NAMES]) + (", ..." if len(found) > _MAX_NAMES else "")
        count = "one run" if len(found) == 1 else f"{len(found)} runs"
        return f"is not a run but contains {count} ({names}); give one of them, such as {found[0]}"
    above = next((parent for parent in path.absolute().parents if (parent / CONFIG_FILE).is_file()), None)
    if above is not None:
        return f"is a part of the run {above}; give that"
    if (path / EVALUATION_FILE).is_file():
        return "is a directory of `bonrl eval --output`, not a run; `bonrl compare` and `bonrl samples` read it"
    if (path / "config.json").is_file():
        return "is a model directory; give the directory of a run, such as runs/NAME"
    return f"is not a run: it has no {CONFIG_FILE}; give a directory that `bonrl train` wrote, such as runs/NAME"


def _is_finished(file: Path) -> bool:
    """Whether a Parquet file is whole: it ends with these bytes."""
    try:
        with file.open("rb") as content:
            content.seek(-len(_PARQUET_MAGIC), 2)
            return content.read() == _PARQUET_MAGIC
    except OSError:
        return False


def _object(line: str) -> dict[str, Any] | None:
    """A line of JSON; None of one that is half written."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _ranges(steps: tuple[int, ...]) -> str:
    """`1-4, 8`."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], step]
        else:
            parts.append([step])
    return ", ".join("-".join(map(str, part)) for part in parts)
