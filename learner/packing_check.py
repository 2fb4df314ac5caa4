"""A measurement of whether a model keeps packed sequences apart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.settings import LearnerSettings

_LENGTH = 16  # tokens of each sequence
# Shares of the change when one sequence continues the other. A mixture has nearly all of it. The padded form has other
# kernels, so its bfloat16 rounding differs.
_TOLERANCE, _TOLERANCE_TO_PADDED = 0.05, 0.25
Logprobs = Callable[[MicroBatch], torch.Tensor]  # of the response tokens of a micro-batch, [B, R]


def can_pack(logprobs: Logprobs, config: Any, learner: LearnerSettings, pad_token: int) -> bool:
    """Whether the model keeps packed sequences apart. If not, ``learner.packing: true`` is a ValueError."""
    if not mixes_packed_sequences(logprobs, config.get_text_config().vocab_size, pad_token):
        return True
    reason = f"attention of {config.model_type} does not keep packed sequences apart"
    if learner.packing is True:
        raise ValueError(f"learner.packing = true: {reason}; set learner.packing to false")
    logging.getLogger(__name__).warning("learner.packing = auto: sequences are padded, because %s", reason)
    return False


@torch.no_grad()
def mixes_packed_sequences(logprobs: Logprobs, vocabulary: int, pad_token: int) -> bool:
    """Whether a packed sequence depends on the sequence before it, or differs from the same sequence alone.

    It depends on how an architecture and its attention use the positions. Differences are measured in units of the
    change when the second sequence continues the first, so that the rounding of any data type is allowed.
    """
    first, other, second = (np.arange(_LENGTH, dtype=np.int32) * step % (vocabulary - 1) + 1 for step in (3, 5, 7))

    def of_second(*sequences: TrainingSequence, packed: bool) -> torch.Tensor:
        (batch,) = make_micro_batches(sequences, 2 * _LENGTH, 0, 1, pad_token, packed=packed)
        return logprobs(batch)[-1]

    alone = of_second(_sequence(second[:1], second[1:]), packed=False)
    after_first, after_other = (
        of_second(_sequence(before[:1], before[1:]), _sequence(second[:1], second[1:]), packed=True)
        for before in (first, other)
    )
    continued = of_second(_sequence(np.append(first, second[:1]), second[1:]), packed=False)
    change = (continued - alone).abs().mean()
    apart = (after_first - after_other).abs().mean() <= _TOLERANCE * change
    same = (after_first - alone).abs().mean() <= _TOLERANCE_TO_PADDED * change
    return not bool(apart & same)  # NaN of the packed form is a difference


def _sequence(prompt: np.ndarray, response: np.ndarray) -> TrainingSequence:
    return TrainingSequence(prompt, response, np.zeros(len(response), dtype=np.float32), advantage=0.0)
