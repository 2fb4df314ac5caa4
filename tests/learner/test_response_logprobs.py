"""Logits in chunks and packed sequences against one forward pass over padded sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.tiny_architectures import ARCHITECTURES, tiny_model
from learner.backends.packing import prepare_packing
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.packing_check import mixes_packed_sequences
from learner.response_logprobs import ResponseTokens, return_logprobs

MIXING = {"Falcon-H1", "Mamba 2", "gpt-oss", "Qwen3.5 text", "Qwen3.5", "Qwen2.5-VL"}
FAST = {"Llama, tied", "Gemma 2"}
TEMPERATURE = 0.8
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
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


def rows(model: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies [B, R]."""

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
    return model(
        input_ids=tensor(batch.tokens_BT),
        attention_mask=None if mask_BT is None else tensor(mask_BT),
        position_ids=tensor(batch.positions_BT),
        responses=responses,
        temperature=TEMPERATURE,
        with_entropy=True,
    )


def scores(model: Any, batch: MicroBatch) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and entropies [tokens] of the response tokens, in the order of the sequences."""
    order = np.argsort(batch.index_B)
    mask = torch.from_numpy(batch.response_mask_BR[order])
    return tuple(values[order][mask] for values in rows(model, batch))


def mixes(architecture: str, dtype: torch.dtype) -> bool:
    model = tiny_model(architecture).to(dtype)
    return_logprobs(model, None)
    return model._is_stateful or mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)


def results(architecture: str, chunk_bytes: int | None, packed: bool) -> list[torch.Tensor]:
    """Log-probabilities, entropies and every gradient of a loss of both."""
    model = tiny_model(architecture)
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


@pytest.mark.parametrize(
    "architecture", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_chunks_and_packing_change_nothing(architecture: str) -> None:
    plain = results(architecture, None, packed=False)
    three_positions = 3 * 4 * 96
    assert_equal(results(architecture, three_positions, packed=False), plain)
    assert all(mixes(architecture, dtype) == (architecture in MIXING) for dtype in (torch.float32, torch.bfloat16))
    if architecture not in MIXING:
        assert_equal(results(architecture, three_positions, packed=True), plain)


def test_one_chunk_is_the_plain_form() -> None:
    plain = results("Llama", None, packed=False)
    assert all(map(torch.equal, results("Llama", 1 << 20, packed=False), plain))
    assert_equal(results("Llama", 1 << 20, packed=True), plain)


def test_no_sequence_attends_to_another() -> None:
    model, sequences = tiny_model("Llama"), make_sequences()
    return_logprobs(model, None)
    other = [replace(sequences[0], prompt_tokens=sequences[0].prompt_tokens[::-1].copy()), *sequences[1:]]
    with torch.no_grad():
        before, after = (scores(model, batch_of(each, packed=True))[0] for each in (sequences, other))
    first = len(sequences[0].response_tokens)
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


def test_a_packed_row_without_values_is_not_kept_apart() -> None:
    def logprobs(batch: MicroBatch) -> torch.Tensor:
        value = float("nan") if batch.attention_mask_BT is None else -float(batch.lengths_B[-1])
        return torch.full(batch.response_mask_BR.shape, value)

    assert mixes_packed_sequences(logprobs, 96, 2)


def test_logits_of_more_than_a_chunk_never_exist() -> None:
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            tensors = [t for t in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(t)]
            sizes.extend(t.numel() // 96 for t in tensors if t.shape[-1:] == (96,) and not is_weight(t))
            return result

    def is_weight(tensor: torch.Tensor) -> bool:
        return tensor.shape == (128, 96)

    model = tiny_model("Llama")
    return_logprobs(model, 3 * 4 * 96)
    batch = batch_of(make_sequences(), packed=False)
    with Watch():
        logprobs, entropies = scores(model, batch)
        (logprobs + entropies).sum().backward()
    assert max(sizes) == 3


def test_ranks_call_the_head_equally_often() -> None:
    """A rank with fewer response tokens than another has chunks computes empty chunks."""
    sequences = make_sequences()[:2]
    model, calls = tiny_model("Llama"), []
    return_logprobs(model, 2 * 4 * 96)
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for rank in range(3):
        (batch,) = make_micro_batches(sequences, 256, rank, 3, 2)
        calls.clear()
        with torch.no_grad():
            scores(model, batch)
        counts.append(len(calls))
    assert counts == [5, 5, 5]


def test_what_is_packed() -> None:
    llama, mamba = tiny_model("Llama"), tiny_model("Mamba 2")
    assert prepare_packing(llama, True, CPU)
    assert not prepare_packing(llama, "auto", CPU), "padded is faster on a CPU"
    assert not prepare_packing(mamba, False, CPU)
    with pytest.raises(ValueError, match=r"learner\.packing = true: recurrent states of Mamba2ForCausalLM"):
        prepare_packing(mamba, True, CPU)
    assert mixes("gpt-oss", torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma 3 text", "GPT-NeoX"])
def test_flash_attention_keeps_packed_sequences_apart(architecture: str) -> None:
    model = tiny_model(architecture).to("cuda", torch.bfloat16)
    if not prepare_packing(model, "auto", model.device):
        pytest.skip("flash-attn is not installed")
    return_logprobs(model, None)
    assert not mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)
