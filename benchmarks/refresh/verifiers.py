"""Trains verifiers, with what it cost, and scores recorded answers with them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as parquet

from benchmarks.refresh.plan import Plan
from cluster.commands.verifier_samples import read_samples
from cluster.config import load_config
from verifiers.learned.classifier import CARD

COST = "cost.json"
BATCH_TOKENS = 16_384


class VerifierCost(NamedTuple):
    """answers: different ones that the verifier was trained on; seconds of `bonrl train-verifier`."""

    answers: int
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Graded answers to P prompts, N each: texts, verdicts bool[P, N], recorded scores float64[P, N]."""

    prompts: list[str]
    responses: list[list[str]]
    right_PN: np.ndarray
    score_PN: np.ndarray


def train(
    command: Callable[..., None],
    plan: Plan,
    output: Path,
    sources: Iterable[Path],
    *,
    seed: int,
    earlier: Path | None = None,
    extra: tuple[str, ...] = (),
) -> None:
    """Train a verifier, unless `output` exists. earlier: the verifier to train further; None: start from the model."""
    if output.is_dir():
        return
    new = output.with_name(f"{output.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    start = ("--refresh", str(earlier)) if earlier else ("--backbone", plan.model)
    began = time.monotonic()
    command(
        "train-verifier",
        *("--config", plan.config, "--split", "train", *start, "--output", str(new), "--epochs", str(plan.epochs)),
        *(part for source in sources for part in ("--samples", str(source))),
        *(*plan.verifier_keys(seed), *extra),
    )
    answers = json.loads((new / CARD).read_text(encoding="utf-8"))["answers"]["train"]
    cost = VerifierCost(answers, time.monotonic() - began)
    (new / COST).write_text(json.dumps(cost._asdict()), encoding="utf-8")
    os.replace(new, output)  # a verifier that is there is complete, with its cost


def cost_of(verifier: Path) -> VerifierCost:
    """What the training of a verifier cost."""
    return VerifierCost(**json.loads((verifier / COST).read_text(encoding="utf-8")))


def read_answers(file: Path, plan: Plan) -> Answers:
    """The answers of an evaluation, in the order of the prompts.

    Raises:
        RuntimeError: an answer has no verdict, or the prompts have different numbers of answers.
    """
    table = parquet.read_table(file, columns=["sequence", "verdict", "score"])
    samples = read_samples(file, load_config(plan.config, list(plan.sampling_keys())))
    P, N = table.num_rows, len(table["verdict"][0])
    if len(samples) != P * N or any(len(row) != N for row in table["verdict"].to_pylist()):
        raise RuntimeError(f"{file}: {len(samples)} graded answers, wanted {P} x {N}; evaluate again")
    rows = [samples[i * N : (i + 1) * N] for i in range(P)]
    right_PN = np.array([[sample.correct for sample in row] for row in rows])
    score_PN = np.array(table["score"].to_pylist(), float)
    order = np.argsort(table["sequence"].to_numpy())
    return Answers(
        [rows[i][0].prompt for i in order],
        [[sample.response for sample in rows[i]] for i in order],
        right_PN[order],
        score_PN[order],
    )


def probabilities(verifier: Path, answers: Answers) -> np.ndarray:
    """The verifier's probability that each answer is right, float64[P, N], on one core."""
    import torch

    from verifiers.learned.classifier import Classifier, TransformersLogits

    torch.set_num_threads(1)
    classifier = Classifier(verifier, TransformersLogits.load(verifier, BATCH_TOKENS))
    pairs = zip(answers.prompts, answers.responses, strict=True)
    return np.stack([classifier.probabilities(prompt, responses) for prompt, responses in pairs])
