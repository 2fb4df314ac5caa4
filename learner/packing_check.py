"""A measurement of whether a model keeps packed sequences apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from learner.batching import MicroBatch, TrainingSequence, make_micro_batches

_LENGTH = 16  # tokens of each sequence
_TOLERANCE = 0.05


@torch.no_grad()
def mixes_packed_sequences(logprobs: Callable[[MicroBatch], torch.Tensor], vocabulary: int, pad_token: int) -> bool:
    """Whether a packed sequence depends on the sequence before it, or differs from the same sequence alone.

    It depends on how an architecture and its attention use the positions. Differences are measured in units of the
    change when the second sequence continues the first, so that the rounding of any data type is allowed.

    Args:
        logprobs: of the response tokens of a micro-batch, [B, R].
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
    error = torch.stack([after_first - alone, after_first - after_other]).abs().mean(dim=1).max()
    return not bool(error <= _TOLERANCE * (continued - alone).abs().mean())  # NaN of the packed form is a difference


def _sequence(prompt: np.ndarray, response: np.ndarray) -> TrainingSequence:
    return TrainingSequence(prompt, response, np.zeros(len(response), dtype=np.float32), advantage=0.0)
