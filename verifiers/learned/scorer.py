"""The learned verifier as the score by which Best-of-N selects (BoN-RL-V of arXiv 2412.15287, section 4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from verifiers.learned.classifier import Classifier, Logits, TransformersLogits, read_card
from verifiers.task import Prompt
from verifiers.verdict import Verdict

LoadLogits = Callable[[Path, int], Logits]  # (verifier directory, maximum tokens per batch) -> the network


class LearnedScorer:
    """Scores a whole group in one batch: the calibrated probability that each answer is right.

    Args:
        directory: Written by `bonrl train-verifier`. ``prepare`` or the first group loads the network.
        batch_tokens: Maximum tokens of a batch, padding included.
        load: Loads the network.

    Raises:
        ValueError: The directory is not a trained verifier.
    """

    def __init__(self, directory: Path, batch_tokens: int, load: LoadLogits = TransformersLogits.load) -> None:
        read_card(directory)
        self._directory = directory
        self._batch_tokens = batch_tokens
        self._load = load
        self._classifier: Classifier | None = None
        self._lock = threading.Lock()

    def prepare(self) -> str:
        """Load the network; one line for the log."""
        self._loaded()
        return f"learned verifier {self._directory} loaded"

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See ``verifiers.scorers.Scorer``."""
        return [float(p) for p in self._loaded().probabilities(prompt.transcript, responses)]

    def _loaded(self) -> Classifier:
        with self._lock:
            if self._classifier is None:
                self._classifier = Classifier(self._directory, self._load(self._directory, self._batch_tokens))
            return self._classifier
