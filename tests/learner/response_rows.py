"""Small batches of sequences and what a model returns for them, padded or packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.tiny_architectures import tiny_model
from learner.backends.packing import packed_arguments, prepare_packing
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.packing_check import mixes_packed_sequences
from learner.response_logprobs import ResponseTokens, return_logprobs

MIXING = {"Falcon-H1", "Mamba 2", "gpt-oss", "Qwen3.5 text", "Qwen3.5", "Qwen2.5-VL"}  # mix packed sequences
TEMPERATURE = 0.8
CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_sequences(seed: int = 0) -> list[TrainingSequence]:
    rng = np.random.default_rng(seed)
    return [
        TrainingSequence(
            prompt_tokens=rng.integers(3, 80, prompt).astype(np.int32),
            response_tokens=rng.integers(3, 80, response).astype(np.int32),
            behaviour_logprobs=np.full(response, -4.0, np.float32),
            advantage=1.0,
        )
        for prompt, response in [(5, 1), (2, 9), (7, 4), (3, 6), (1, 2)]
    ]


def batch_of(sequences: list[TrainingSequence], packed: bool) -> MicroBatch:
    (batch,) = make_micro_batches(sequences, 256, 0, 1, 2, packed=packed)
    return batch


def rows(model: Any, batch: MicroBatch, with_entropy: bool = True) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and, with `with_entropy`, entropies [B, R]."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(model.device)

    mask_BT = batch.attention_mask_BT
    responses = ResponseTokens(
        tensor(batch.logit_index_N),
        tensor(batch.cell_index_N),
        batch.response_mask_BR.shape,
        packed=mask_BT is None,
        most_logits=batch.most_logits,
        most_cells=batch.most_cells,
    )
    found = model(
        input_ids=tensor(batch.tokens_BT),
        attention_mask=None if mask_BT is None else tensor(mask_BT),
        position_ids=tensor(batch.positions_BT),
        **(packed_arguments(model.config, batch.lengths_B, model.device) if mask_BT is None else {}),
        responses=responses,
        temperature=TEMPERATURE,
        with_entropy=with_entropy,
    )
    return found if with_entropy else found[:1]


def scores(model: Any, batch: MicroBatch, with_entropy: bool = True) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and entropies [tokens] of the response tokens, in the order of the sequences."""
    order = np.argsort(batch.index_B)
    mask = torch.from_numpy(batch.response_mask_BR[order])
    return tuple(values[order][mask] for values in rows(model, batch, with_entropy))


def mixes(architecture: str, dtype: torch.dtype) -> bool:
    model = tiny_model(architecture).to(dtype)
    return_logprobs(model, None)
    return model._is_stateful or mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)


def results(architecture: str, chunk_bytes: int | None, packed: bool, prepared: bool = False) -> list[torch.Tensor]:
    """Log-probabilities, entropies and every gradient of a loss of both. `prepared`: with the attention for packing."""
    model = tiny_model(architecture)
    if prepared:
        prepare_packing(model, True, CPU)
    return_logprobs(model, chunk_bytes)
    logprobs, entropies = scores(model, batch_of(make_sequences(), packed))
    weights = torch.linspace(-1, 1, len(logprobs))
    (weights * logprobs + 0.1 * entropies).sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return [logprobs.detach(), entropies.detach(), *gradients]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    norm = torch.stack([g.norm() for g in expected[2:]]).norm()
    error = max((one - other).abs().max() for one, other in zip(found[2:], expected[2:], strict=True))
    assert error < 2e-6 * norm
