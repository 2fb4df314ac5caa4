"""Train a classifier on labeled answers and measure what it is worth for selection.

All reported figures, Best-of-k with this verifier included, are for prompts outside training and calibration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.checks.preflight import check_output
from cluster.checks.weight_files import read_tensors
from cluster.commands.verifier_samples import read_all
from cluster.config import RunConfig
from cluster.errors import UsageError
from verifiers.learned.samples import Sample, split_by_prompt
from verifiers.learned.training import Trained, TrainingSettings


@dataclass(frozen=True, slots=True)
class Selection:
    """What a verifier is worth on the test prompts: one answer, Best-of-k by it, and a perfect verifier (pass@k)."""

    k: int
    best_of_k: float
    pass_at_k: float
    prompts: int


def train(
    config: RunConfig,
    sources: Sequence[Path],
    backbone: Path,
    settings: TrainingSettings,
    output: Path,
    *,
    split: str | None = None,
    report: Callable[[str], None],
) -> tuple[Trained, list[Selection]]:
    """Read samples, train on them, write the verifier to `output`, and measure it.

    Args:
        config: of the runs that wrote the samples.
        sources: files or directories; see `read_samples`.
        backbone: model directory to start from.
        settings: of the training.
        output: directory to write.
        split: only prompts of this split of the configured task count; None: all.
        report: gets lines for the user.

    Raises:
        UsageError: sources, backbone or output cannot be used (message names which, and the remedy).
    """
    check_output("--output", output)
    _check_backbone(backbone)
    try:
        samples = read_all(sources, config, split, report)
        parts = split_by_prompt(samples)
        counts = f"{len(parts.train):,} to learn from, {len(parts.calibration):,} to calibrate by, {len(parts.test):,}"
        report(f"{len(samples):,} labeled answers; different ones: {counts} to report on")
        from verifiers.learned.training import train_verifier

        trained = train_verifier(backbone, parts, settings, output, report=report)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return trained, selection(trained, samples)


def check_earlier(directory: Path, settings: TrainingSettings) -> None:
    """Check an earlier verifier, which must render prompts as the new one will.

    Raises:
        UsageError: it is not a trained verifier, or it renders prompts differently.
    """
    from verifiers.learned.classifier import read_card

    try:
        card = read_card(directory)
    except ValueError as error:
        raise UsageError(f"--refresh: {error}") from error
    for key in ("template", "system_prompt"):
        trained_with, configured = getattr(card.prompts, key), getattr(settings, key)
        if trained_with != configured:
            raise UsageError(
                f"--refresh {directory}: it was trained with task.{key} = {trained_with!r}, but the configuration has "
                f"{configured!r}; use the configuration that it was trained with"
            )


def _check_backbone(backbone: Path) -> None:
    """Refuse a directory whose weights are missing or damaged; training reports other errors itself."""
    if (backbone / "config.json").is_file():
        try:
            read_tensors(backbone)
        except UsageError as error:
            raise UsageError(str(error).replace("model.path", "--backbone (or model.path)")) from error


def selection(trained: Trained, samples: Sequence[Sample]) -> list[Selection]:
    """Best-of-k by the verifier on the test prompts, for k = 1, 2, 4 ... the smallest group's size.

    Repeated answers count here, as they do when a deployed verifier selects.
    """
    from learner import strategy_value
    from learner.metrics import default_ks

    score = {(s.prompt_id, s.response): p for s, p in zip(trained.test, trained.probability, strict=True)}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if (sample.prompt_id, sample.response) in score:
            groups[sample.prompt_id].append(sample)
    n = min(map(len, groups.values()))
    rewards = np.array([[float(s.correct) for s in group[:n]] for group in groups.values()])
    scores = np.array([[score[s.prompt_id, s.response] for s in group[:n]] for group in groups.values()])

    def value(strategy: str, k: int) -> float:
        return float(np.mean(strategy_value(rewards, scores=scores, strategy=strategy, k=k)))

    return [Selection(k, value("best_of_k", k), value("pass_at_k", k), len(groups)) for k in default_ks(n)]
