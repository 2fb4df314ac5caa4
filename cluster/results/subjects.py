"""What `bonrl compare` compares: the evaluations of a run, or what `bonrl eval --output` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actors.group import Group
from actors.queue.group_log import read_groups
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from cluster.evaluation.summary import evaluation_output, objective_terms
from cluster.results.run_results import EVALUATION_FILE, ResultsError, load_run
from learner.objective_settings import TermSettings
from verifiers.credentials import masked_tree
from verifiers.verdict import Status

LAST = -1  # stands for the step of an evaluation without steps
_CHECKPOINT = re.compile(r".*/checkpoints/(step-\d+)/huggingface/?")
_COLUMNS = ("prompt_id", "prompt_tokens", "prompt_text", "temperature", "finish_reason", "verdict")


@dataclass(frozen=True)
class Subject:
    """The evaluations of one run or one output of `bonrl eval`.

    Attributes:
        name: for people; unique among those compared.
        files: Parquet files of graded groups by step; an output of `bonrl eval` has the one step LAST.
        config: the configuration as recorded; None for outputs of version 0.1.0.
        settings: the same, as settings.
        model: path of the evaluated model, for outputs of `bonrl eval`.
    """

    name: str
    path: Path
    files: Mapping[int, Path]
    config: Mapping[str, Any] | None
    settings: RunConfig | None
    model: str | None = None

    @property
    def is_run(self) -> bool:
        return self.model is None

    @property
    def checkpoint(self) -> str | None:
        """The step of the evaluated checkpoint of a run, such as `step-000160`; None of other models and of runs."""
        found = _CHECKPOINT.fullmatch(self.model or "")
        return None if found is None else found[1]

    @property
    def trained(self) -> bool:
        """Whether `config` is that of the training, and not only of the evaluation of some model."""
        return self.config is not None and (self.is_run or self.checkpoint is not None)

    @property
    def seed(self) -> int | None:
        """`run.seed`."""
        return None if self.settings is None else self.settings.run.seed

    @property
    def terms(self) -> Sequence[TermSettings]:
        """The terms of the objective that was trained for; none where that is unknown."""
        return objective_terms(self.settings) if self.settings is not None and self.trained else []

    @property
    def last(self) -> int:
        """The step of the last evaluation."""
        return max(self.files)


@dataclass(frozen=True)
class Prompts:
    """The prompts of an evaluation that were judged, and how they were sampled.

    Attributes:
        problems: the problem by prompt id: its text, or None where the file has none.
        tokens: the token ids by prompt id, as bytes.
    """

    n: int
    temperature: float
    problems: Mapping[str, str | None]
    tokens: Mapping[str, bytes] = field(repr=False)


def load_subject(path: str | Path, temperature: float | None = None) -> Subject:
    """A run directory, or a directory that `bonrl eval --output` wrote.

    Args:
        temperature: which evaluation of `bonrl eval` is meant, where it has several.

    Raises:
        ResultsError: the path holds neither, or no evaluation.
    """
    path = Path(path).expanduser()
    if (path / EVALUATION_FILE).is_file():
        return _evaluation_output(path, temperature)
    run = load_run(path)
    if not run.evaluation_steps:
        raise ResultsError(
            f"{path} holds no evaluation to compare; set evaluation.every or evaluation.at_end, or run `bonrl eval "
            f"--checkpoint {path} --output DIR` and compare DIR"
        )
    files = {step: run.evaluation_path(step) for step in run.evaluation_steps}
    return Subject(run.name, run.path, files, run.config, run.run_config)


def _evaluation_output(path: Path, temperature: float | None) -> Subject:
    try:
        content = json.loads((path / EVALUATION_FILE).read_text(encoding="utf-8"))
        model, config = str(content["model"]), masked_tree(content.get("config"))
        at = [float(row["temperature"]) for row in content["evaluations"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path / EVALUATION_FILE} cannot be read: {error!r}") from error
    chosen = (
        at if len(at) == 1 else [t for t in at if temperature is not None and isclose(t, temperature, rel_tol=1e-6)]
    )
    if len(chosen) != 1:
        there = ", ".join(f"{t:g}" for t in at)
        raise ResultsError(f"{path} holds evaluations at temperature {there}; choose one of them with --temperature")
    file = path / evaluation_output(chosen[0])
    if not file.is_file():
        raise ResultsError(f"{path} has no {file.name}, to which {EVALUATION_FILE} belongs; run `bonrl eval` again")
    try:
        settings = None if config is None else build_config(config)
    except UsageError as error:
        raise ResultsError(f"{path / EVALUATION_FILE}: another release wrote this configuration: {error}") from error
    return Subject(path.name, path.absolute(), {LAST: file}, config, settings, model)


def read_prompts(file: Path) -> Prompts:
    """The judged prompts of an evaluation's Parquet file.

    Raises:
        ResultsError: it cannot be read, or no prompt was judged.
    """
    try:
        known = set(pq.read_schema(file).names)
        rows = pq.read_table(file, columns=[name for name in _COLUMNS if name in known]).to_pylist()
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file} cannot be read: {error}") from error
    judged = [row for row in rows if row["finish_reason"] and Status.VERIFIER_ERROR not in row["verdict"]]
    if not judged:
        raise ResultsError(
            f"{file} holds no prompt on which the verifier reached a verdict; see why with "
            "`bonrl samples RUN --evaluation --only failed`"
        )
    return Prompts(
        n=len(judged[0]["finish_reason"]),
        temperature=round(judged[0]["temperature"], 6),
        problems={row["prompt_id"]: row.get("prompt_text") for row in judged},
        tokens={row["prompt_id"]: np.array(row["prompt_tokens"], np.int32).tobytes() for row in judged},
    )


def read_judged(file: Path, prompts: Collection[str]) -> list[Group]:
    """The groups of some prompts, sorted by prompt id.

    Raises:
        ResultsError: the file cannot be read.
    """
    return sorted(read_all(file, set(prompts)), key=lambda group: group.prompt_id)


def read_all(file: Path, prompts: Collection[str] | None = None) -> list[Group]:
    """The groups of a file, or those of some prompts, in their order.

    Raises:
        ResultsError: the file cannot be read.
    """
    try:
        return [
            Group.from_record_batch(batch)
            for batch in read_groups(file)
            if prompts is None or batch.column("prompt_id")[0].as_py() in prompts
        ]
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file} cannot be read: {error}") from error
