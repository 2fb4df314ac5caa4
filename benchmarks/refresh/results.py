"""The measurements: what each verifier makes of each model's answers, by prompt, and the course of every run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.planned.store import Measurements
from learner import strategy_value

ACCEPTED = 0.5  # least probability of an accepted answer, as in the report of `bonrl train-verifier`
_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float64())
_EVALUATION = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("seed", pa.int32()),
        pa.field("verifier", pa.string()),
        pa.field("samples", pa.int32()),  # per prompt
        pa.field("right", _INTS),  # by prompt, as all below
        pa.field("accepted_right", _INTS),
        pa.field("accepted_wrong", _INTS),
        pa.field("best_of_k", pa.map_(pa.int32(), _FLOATS)),
    ]
)
_COURSE = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("seed", pa.int32()),
        pa.field("answers", _INTS),  # by optimizer step, as all below: sampled
        pa.field("right", _INTS),
        pa.field("accepted_wrong", _INTS),  # by the verifier of that step
        pa.field("seconds", _FLOATS),
        pa.field("verifier_step", _INTS),  # by training of a verifier: after which step
        pa.field("verifier_answers", _INTS),  # different answers that it was trained on
        pa.field("verifier_seconds", _FLOATS),
        pa.field("first_verifier", pa.string()),  # which one the run started with
    ]
)


class Key(NamedTuple):
    """A model and the verifier that scored its answers."""

    model: str
    seed: int
    verifier: str


@dataclass(frozen=True)
class Scored:
    """Answers to P prompts, `samples` of each, int[P], as one verifier scores them.

    best_of_k: unbiased value of picking the best of k by the verifier, float64[P] for each k.
    """

    samples: int
    right: np.ndarray
    accepted_right: np.ndarray
    accepted_wrong: np.ndarray
    best_of_k: Mapping[int, np.ndarray]

    @property
    def wrong(self) -> np.ndarray:
        return self.samples - self.right


class RunKey(NamedTuple):
    """A run. BASE and seed 0: the samples of the base model, as one step, and the first verifier."""

    model: str
    seed: int


@dataclass(frozen=True)
class Course:
    """A training run by step, [T], and the trainings of its verifiers, [V]. first_verifier: tells it from others."""

    answers: np.ndarray
    right: np.ndarray
    accepted_wrong: np.ndarray
    seconds: np.ndarray
    verifier_step: np.ndarray
    verifier_answers: np.ndarray
    verifier_seconds: np.ndarray
    first_verifier: str


class Evaluations(Measurements[Key, Scored]):
    """The evaluations in `path`."""

    def __init__(self, path: Path, digest: str) -> None:
        super().__init__(path, digest, _EVALUATION, _read_scored, lambda key, one: key._asdict() | _plain(one))


class Courses(Measurements[RunKey, Course]):
    """The courses of the runs in `path`."""

    def __init__(self, path: Path, digest: str) -> None:
        super().__init__(path, digest, _COURSE, _read_course, lambda key, one: key._asdict() | _plain(one))


def scored(right_PN: np.ndarray, probability_PN: np.ndarray, ks: Iterable[int]) -> Scored:
    """What a verifier with these probabilities makes of answers."""
    accepted_PN, reward_PN = probability_PN >= ACCEPTED, right_PN.astype(float)
    return Scored(
        right_PN.shape[1],
        right_PN.sum(axis=1),
        (right_PN & accepted_PN).sum(axis=1),
        (~right_PN & accepted_PN).sum(axis=1),
        {k: strategy_value(reward_PN, scores=probability_PN, strategy="best_of_k", k=k) for k in ks},
    )


def answers_of_steps(files: Iterable[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, right ones and accepted wrong ones in the groups of each step, int[T] each."""
    found = []
    for file in files:
        table = parquet.read_table(file, columns=["verdict", "score"])
        right = np.array(table["verdict"].combine_chunks().flatten().to_pylist()) == "correct"
        score = np.array(table["score"].combine_chunks().flatten().to_pylist(), float)
        found.append((len(right), int(right.sum()), int((~right & (score >= ACCEPTED)).sum())))
    answers_T, right_T, accepted_T = np.array(found).T
    return answers_T, right_T, accepted_T


def _plain(one: Scored | Course) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(part) for key, part in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return {name: plain(value) for name, value in asdict(one).items()}


def _read_scored(row: Mapping[str, Any]) -> tuple[Key, Scored]:
    counts = (np.array(row[name]) for name in ("right", "accepted_right", "accepted_wrong"))
    best = {k: np.array(values) for k, values in row["best_of_k"].items()}
    return Key(*(row[name] for name in Key._fields)), Scored(row["samples"], *counts, best)


def _read_course(row: Mapping[str, Any]) -> tuple[RunKey, Course]:
    arrays = [np.array(row[name]) for name in Course.__dataclass_fields__ if name != "first_verifier"]
    return RunKey(row["model"], row["seed"]), Course(*arrays, row["first_verifier"])
