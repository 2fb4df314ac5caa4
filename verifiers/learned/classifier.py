"""A trained verifier: a Hugging Face sequence classifier with one logit, and its metadata file."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from verifiers.learned.calibration import Platt
from verifiers.learned.sequences import encode
from verifiers.text.rendering import PromptFormat

CARD = "verifier.json"
FORMAT = 2
_EARLIER = 1  # with BOS before every plain prompt, even if the tokenizer adds none


class Logits(Protocol):
    """Runs the classifier's network: token ids in, one logit per sequence out."""

    def __call__(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float64 [M] of M sequences of token ids, none of them empty."""
        ...


@dataclass(frozen=True, slots=True)
class Card:
    """The content of ``verifier.json``: how answers become token ids, and logits become probabilities."""

    format: int
    prompts: PromptFormat
    max_tokens: int
    platt: Platt


def read_card(directory: Path) -> Card:
    """Read ``verifier.json``.

    Raises:
        ValueError: The directory is not a trained verifier, or one of a later release.
    """
    try:
        row: dict[str, Any] = json.loads((directory / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{directory} is not a trained verifier (no {CARD} there); use a directory that `bonrl train-verifier` "
            "wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory / CARD} cannot be read ({error}); train the verifier again") from error
    if row.get("format") not in (_EARLIER, FORMAT):
        raise ValueError(
            f"{directory / CARD} has format {row.get('format')}, this release reads {FORMAT}; train it again"
        )
    day = row.get("date")
    prompts = PromptFormat(
        row["template"],
        row.get("system_prompt"),
        row.get("chat_template_kwargs") or {},
        dt.date.fromisoformat(day) if day else None,
    )
    return Card(row["format"], prompts, row["max_tokens"], Platt(**row["platt"]))


class Classifier:
    """Calibrated probabilities of answers.

    Args:
        directory: Written by `bonrl train-verifier`.
        logits: Runs its network.

    Raises:
        ValueError: The directory is not a trained verifier.
    """

    def __init__(self, directory: Path, logits: Logits) -> None:
        from transformers import AutoTokenizer

        self.card = read_card(directory)
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if self.card.format == _EARLIER and _lacks_bos(self._tokenizer, self.card.prompts):
            raise ValueError(
                f"{directory} was trained by an earlier release, with a BOS token before every prompt that its "
                "tokenizer does not add: train it again with `bonrl train-verifier`"
            )
        self._logits = logits
        self._lock = threading.Lock()  # one batch at a time: the threads of a worker share the network

    def probabilities(self, prompt: str, responses: Sequence[str]) -> np.ndarray:
        """Probability that each response is right, float64 [n]; equal responses are evaluated once.

        Raises:
            TypeError: `responses` is one text, whose characters would be taken for responses.
        """
        if isinstance(responses, str):
            raise TypeError("responses is one text; give a list of texts, [response] for a single one")
        unique = list(dict.fromkeys(responses))
        sequences = [encode(prompt, r, self._tokenizer, self.card.prompts, self.card.max_tokens) for r in unique]
        with self._lock:
            logits = self._logits(sequences)
        known = dict(zip(unique, self.card.platt.probability(logits), strict=True))
        return np.array([known[response] for response in responses])


def load_verifier(directory: str | Path, batch_tokens: int = 16_384) -> Classifier:
    """A verifier that `bonrl train-verifier` wrote, to choose among answers where a model is served.

    Args:
        directory: of the verifier; it is loaded onto the GPU if there is one.
        batch_tokens: maximum tokens of a batch, padding included.

    Raises:
        ValueError: the directory is not a trained verifier.
    """
    path = Path(directory)
    read_card(path)  # before its weights are loaded
    return Classifier(path, TransformersLogits.load(path, batch_tokens))


def _lacks_bos(tokenizer: Any, prompts: PromptFormat) -> bool:
    """Whether an earlier release put a BOS before prompts that the tokenizer does not add."""
    bos = tokenizer.bos_token_id
    plain = prompts.template == "plain" and tokenizer.cls_token_id is None and bos is not None
    return plain and tokenizer("1").input_ids[:1] != [bos]


class TransformersLogits:
    """Runs a ``transformers`` sequence classifier in batches of similar length, on a GPU if there is one."""

    def __init__(self, model: Any, pad_token_id: int, batch_tokens: int) -> None:
        self._model = model
        self._pad = pad_token_id
        self._batch_tokens = batch_tokens

    @classmethod
    def load(cls, directory: Path, batch_tokens: int) -> TransformersLogits:
        """From a directory, without a network connection."""
        import torch
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True)
        return cls(
            model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), model.config.pad_token_id, batch_tokens
        )

    def __call__(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """See :class:`Logits`."""
        import torch

        result = np.empty(len(sequences))
        for rows in batches([len(ids) for ids in sequences], self._batch_tokens):
            inputs = pad([sequences[row] for row in rows], self._pad, self._model.device)
            with torch.inference_mode():
                result[rows] = self._model(**inputs).logits[:, 0].double().cpu().numpy()
        return result


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of sequences in batches of similar length whose padded size stays within `batch_tokens`."""
    result: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the newest is the longest and sets the padded length of its batch.
        if not result or (len(result[-1]) + 1) * lengths[index] > batch_tokens:
            result.append([])
        result[-1].append(index)
    return result


def pad(sequences: Sequence[Sequence[int]], pad_token_id: int, device: Any) -> dict[str, Any]:
    """Token ids and attention mask, int64 [B, T], padded on the right."""
    import torch

    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
