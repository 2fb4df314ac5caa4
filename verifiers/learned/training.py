"""Trains a verifier on labeled answers: one process, AdamW, the best epoch is kept."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from verifiers.learned.calibration import Platt, Quality, fit_platt, quality
from verifiers.learned.classifier import CARD, FORMAT, Classifier, TransformersLogits, batches, pad
from verifiers.learned.samples import Parts, Sample
from verifiers.learned.sequences import encode
from verifiers.section import Section


class TrainingSettings(Section):
    """Hyperparameters of the training of a verifier."""

    epochs: int = Field(
        4, ge=1, description="Passes over the training answers; the best on the calibration part is kept."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of AdamW: warm-up over 5 % of the steps, then linear decay to 0. Null: 1e-5 "
        "for a backbone of 0.1 billion parameters or more, else 3e-4.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    batch_tokens: int = Field(8192, ge=64, description="Tokens of one optimizer step, padding included.")
    max_tokens: int = Field(
        1024, ge=8, description="Longest prompt with answer; longer ones are truncated at the beginning."
    )
    template: str = Field("plain", description="How a prompt becomes tokens, as task.template.")
    system_prompt: str | None = Field(None, description="As task.system_prompt.")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="As task.chat_template_kwargs.")
    date: dt.date | None = Field(None, description="As task.date.")
    seed: int = Field(0, ge=0, description="Seed of the new head and of the order of the answers.")


@dataclass(frozen=True, slots=True)
class Trained:
    """Quality of a new verifier on the test part, and its probability of each answer there."""

    quality: Quality
    test: list[Sample]
    probability: np.ndarray  # float64 [M], of `test`


def train_verifier(
    backbone: Path, parts: Parts, settings: TrainingSettings, output: Path, *, report: Callable[[str], None]
) -> Trained:
    """Train a classifier with one logit and write it, its tokenizer and ``verifier.json`` to `output`.

    Raises:
        ValueError: The backbone cannot be loaded as a sequence classifier, or the loss is not finite.
    """
    import torch

    torch.manual_seed(settings.seed)
    model, tokenizer = _load(backbone)
    max_tokens = min(settings.max_tokens, getattr(model.config, "max_position_embeddings", settings.max_tokens))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    rate = settings.learning_rate or default_rate(sum(p.numel() for p in model.parameters()))
    settings = settings.model_copy(update={"learning_rate": rate})
    report(f"learning rate {rate:g}")

    train, calibration, test = (
        [encode(s.prompt, s.response, tokenizer, settings, max_tokens) for s in samples]
        for samples in (parts.train, parts.calibration, parts.test)
    )
    if cut := sum(len(sequence) == max_tokens for sequence in train):
        report(
            f"warning: {cut:,} of {len(train):,} prompts with their answers reach --max-tokens = {max_tokens}, so the "
            "beginnings of longer ones are cut off; raise it if they hold the problem"
        )
    platt = _train_to_best(model, settings, parts, train, calibration, report)
    found = _logits(model, settings, test)
    measured = _quality(found, parts.test, platt)
    card = {
        "format": FORMAT,
        **settings.model_dump(mode="json", include={"template", "system_prompt", "chat_template_kwargs", "date"}),
        "max_tokens": max_tokens,
        "platt": {"slope": platt.slope, "intercept": platt.intercept},
        "backbone": str(backbone),
        "settings": settings.model_dump(mode="json"),
        "answers": {name: len(getattr(parts, name)) for name in ("train", "calibration", "test")},
        "test": measured.to_json(),
    }
    _write(output, model, tokenizer, card)
    return Trained(measured, parts.test, platt.probability(found))


def _train_to_best(
    model: Any,
    settings: TrainingSettings,
    parts: Parts,
    train: Sequence[Sequence[int]],
    calibration: Sequence[Sequence[int]],
    report: Callable[[str], None],
) -> Platt:
    """Train on all epochs; the model gets the weights of the best one on the calibration part, with its calibration."""
    labels, calibration_labels = (_labels(samples) for samples in (parts.train, parts.calibration))
    steps = _Steps(model, settings, len(batches([len(s) for s in train], settings.batch_tokens)) * settings.epochs)
    best: tuple[float, dict[str, Any], Platt] | None = None
    for epoch in range(settings.epochs):
        loss = steps.epoch(train, labels, epoch)
        found = _logits(model, settings, calibration)
        platt = fit_platt(found, calibration_labels)
        held = _quality(found, parts.calibration, platt)
        report(f"epoch {epoch + 1}/{settings.epochs}  {_line(loss, held)}")
        if best is None or held.log_loss < best[0]:
            best = held.log_loss, {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}, platt
    assert best is not None  # epochs >= 1
    model.load_state_dict(best[1])
    return best[2]


def _logits(model: Any, settings: TrainingSettings, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    return TransformersLogits(model.eval(), model.config.pad_token_id, settings.batch_tokens)(sequences)


def _labels(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([s.correct for s in samples])


def _quality(logits: np.ndarray, samples: Sequence[Sample], platt: Platt) -> Quality:
    return quality(logits, _labels(samples), [s.prompt_id for s in samples], platt)


def default_rate(parameters: int) -> float:
    """The peak learning rate for a backbone of this size, where none is given."""
    return 1e-5 if parameters >= 1e8 else 3e-4


def measure(directory: Path, samples: Sequence[Sample], batch_tokens: int) -> Quality:
    """The quality of a trained verifier on labeled answers.

    Raises:
        ValueError: The directory is not a trained verifier.
    """
    classifier = Classifier(directory, TransformersLogits.load(directory, batch_tokens))
    by_prompt: dict[tuple[str, str], list[str]] = {}
    for sample in samples:
        by_prompt.setdefault((sample.prompt_id, sample.prompt), []).append(sample.response)
    known = {
        (prompt_id, response): p
        for (prompt_id, prompt), responses in by_prompt.items()
        for response, p in zip(responses, classifier.probabilities(prompt, responses), strict=True)
    }
    p = np.clip([known[s.prompt_id, s.response] for s in samples], 1e-12, 1 - 1e-12)
    return _quality(np.log(p) - np.log1p(-p), samples, Platt())


def _line(loss: float, held: Quality) -> str:
    within = "none" if held.auc_within is None else f"{held.auc_within:.4f}"
    return (
        f"training loss {loss:.4f} nats  calibration part: log loss {held.log_loss:.4f}  AUC {held.auc:.4f}  "
        f"within prompts {within}"
    )


def _load(backbone: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns that the head is new
    logging.disable_progress_bar()
    if not (backbone / "config.json").is_file():
        raise ValueError(f"--backbone {backbone}: no config.json there; use a Hugging Face model directory")
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbone, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--backbone {backbone}: cannot be loaded as a sequence classifier: {error}") from error
    model.float()  # small updates would be lost in bfloat16
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if model.config.pad_token_id is None:
        raise ValueError(f"--backbone {backbone}: its tokenizer has neither a pad nor an end token; add one")
    return model, tokenizer


class _Steps:
    """AdamW over batches of similar length in random order."""

    def __init__(self, model: Any, settings: TrainingSettings, total: int) -> None:
        import torch

        self._model, self._settings = model, settings
        assert settings.learning_rate is not None  # train_verifier has chosen one
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        warm_up = max(1, total // 20)
        self._rate = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / warm_up, max(0.0, (total - step) / max(1, total - warm_up)))
        )

    def epoch(self, sequences: Sequence[Sequence[int]], labels: np.ndarray, epoch: int) -> float:
        """One pass over the answers; returns their mean loss in nats."""
        import torch

        model = self._model.train()
        order = batches([len(ids) for ids in sequences], self._settings.batch_tokens)
        np.random.default_rng([self._settings.seed, epoch]).shuffle(order)
        total = 0.0
        for rows in order:
            inputs = pad([sequences[row] for row in rows], model.config.pad_token_id, model.device)
            target = torch.tensor(labels[rows], dtype=torch.float32, device=model.device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(**inputs).logits[:, 0].float(), target)
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self._optimizer.step()
            self._rate.step()
            total += loss.item() * len(rows)
        if not math.isfinite(total):
            raise ValueError("the loss is not finite; lower --learning-rate")
        return total / len(sequences)


def _write(output: Path, model: Any, tokenizer: Any, card: dict[str, Any]) -> None:
    """Write to a temporary directory and rename it, so that it is complete or absent."""
    temporary = output.with_name(f".{output.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
