"""Logits in chunks and packed sequences against one forward pass over padded sequences."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.tiny_architectures import ARCHITECTURES, tiny_model
from learner.backends import packed_attention
from learner.backends.compilation import compiled_passes
from learner.backends.packing import prepare_packing
from learner.batching import MicroBatch, make_micro_batches
from learner.chunked_head import _add_product, _Head
from learner.losses import LogitPasses
from learner.packing_check import mixes_packed_sequences
from learner.response_logprobs import return_logprobs
from tests.learner.response_rows import (
    CPU,
    MIXING,
    TEMPERATURE,
    assert_equal,
    batch_of,
    make_sequences,
    mixes,
    one_thread,
    results,
    scores,
)

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

FAST = {"Llama, tied", "Gemma 2"}


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
    if packed_attention.suitable(tiny_model(architecture)):
        assert_equal(results(architecture, three_positions, packed=True, prepared=True), plain)
        assert_equal(results(architecture, None, packed=False, prepared=True), plain)


def test_one_chunk_is_the_plain_form() -> None:
    plain = results("Llama", None, packed=False)
    assert all(map(torch.equal, results("Llama", 1 << 20, packed=False), plain))
    assert_equal(results("Llama", 1 << 20, packed=True), plain)


@pytest.mark.parametrize("prepared", [False, True])
def test_no_sequence_attends_to_another(prepared: bool) -> None:
    model, sequences = tiny_model("Llama"), make_sequences()
    if prepared:
        prepare_packing(model, True, CPU)
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


def test_the_head_is_called_once_however_many_chunks() -> None:
    """ZeRO-3 gathers its weight in each call, on all ranks at once; also on those with little to do."""
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
    assert counts == [1, 1, 1]


def bfloat16_results(
    architecture: str,
    positions: int | None,
    freeze_head: bool = False,
    with_entropy: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> list[torch.Tensor | None]:
    """Log-probabilities, and the gradients of the body's last layer and of the head, from bfloat16 weights."""
    model = tiny_model(architecture).to(dtype)
    return_logprobs(model, positions and positions * 4 * 96)
    head = model.get_output_embeddings()
    head.weight.requires_grad_(not freeze_head)
    found = scores(model, batch_of(make_sequences(), packed=False), with_entropy)[0]
    (torch.linspace(-1, 1, len(found)) * found).sum().backward()
    return [found.detach(), model.model.layers[-1].mlp.down_proj.weight.grad, head.weight.grad]


def exact_head(architecture: str, rounded: bool = False) -> list[torch.Tensor]:
    """The same from the same hidden states in float64, by autograd over all logits at once. `rounded`: to bfloat16."""
    model = tiny_model(architecture).to(torch.bfloat16)
    hidden: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    batch = batch_of(make_sequences(), packed=False)
    tokens = torch.from_numpy(batch.tokens_BT)
    with torch.no_grad():
        model(
            tokens,
            attention_mask=torch.from_numpy(batch.attention_mask_BT),
            position_ids=torch.from_numpy(batch.positions_BT),
        )
    weight = model.lm_head.weight.detach().double().requires_grad_()
    index = torch.from_numpy(batch.logit_index_N)
    logits = hidden[0].flatten(0, 1)[index].double() @ weight.T
    logits = (logits.bfloat16().double() if rounded else logits) / TEMPERATURE
    logprobs = logits.log_softmax(-1).gather(-1, tokens.flatten()[index + 1, None])[:, 0]
    order = np.argsort(batch.index_B)
    cells = torch.zeros(batch.response_mask_BR.size, dtype=torch.float64).scatter(
        0, torch.from_numpy(batch.cell_index_N), logprobs
    )
    logprobs = cells.view(batch.response_mask_BR.shape)[order][torch.from_numpy(batch.response_mask_BR[order])]
    (torch.linspace(-1, 1, len(logprobs)) * logprobs).sum().backward()
    return [logprobs.detach(), weight.grad]


def test_logits_of_bfloat16_weights_are_rounded_once_on_a_cpu() -> None:
    """As the sampler's are there: equal to those of the same hidden states in float64 that are rounded once."""
    expected, _ = exact_head("Llama", rounded=True)
    for positions in (None, 64, 3):
        found = bfloat16_results("Llama", positions)[0]
        torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=0)


def test_the_gradient_of_a_bfloat16_head_is_rounded_once() -> None:
    """In one chunk and in many: within half a bfloat16 step of the gradient of all logits at once, plus the rounding of
    the logits' gradients, which averages out.
    """
    _, expected = exact_head("Llama")
    many, one = (bfloat16_results("Llama", positions) for positions in (1, None))
    for found in (many, one):
        assert found[2] is not None and found[2].dtype == torch.bfloat16
        assert (found[2].double() - expected).norm() < 3e-3 * expected.norm()
    step = 2.0**-8 * expected.abs()  # two values in float32 that are nearly equal are rounded to neighbors at most
    assert ((many[2].double() - one[2].double()).abs() <= 1.01 * step + 1e-6 * expected.abs().max()).all()


@pytest.mark.parametrize("positions", [None, 2])
def test_a_frozen_head_has_no_gradient(positions: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    free, frozen = (bfloat16_results("Llama", positions, freeze) for freeze in (False, True))
    assert frozen[2] is None and free[1] is not None and frozen[1] is not None
    assert torch.equal(free[0], frozen[0]) and torch.equal(free[1], frozen[1])


@pytest.mark.parametrize("architecture", ["Llama", "Gemma 2"])  # Gemma 2 caps its logits
@pytest.mark.parametrize("positions", [None, 2])
def test_the_slopes_of_a_frozen_head_give_the_same_gradient(architecture: str, positions: int | None) -> None:
    """Without entropies the forward pass computes them; in bfloat16 that rounds once more."""
    for dtype, error in ((torch.float32, 2e-6), (torch.bfloat16, 1e-2)):
        free, frozen = (bfloat16_results(architecture, positions, freeze, False, dtype) for freeze in (False, True))
        assert free[0] is not None and frozen[0] is not None and free[1] is not None and frozen[1] is not None
        torch.testing.assert_close(frozen[0], free[0], atol=1e-6, rtol=0)
        assert (frozen[1].double() - free[1].double()).norm() < error * free[1].double().norm()


@pytest.mark.parametrize(("freeze", "with_entropy", "products"), [(False, True, 4), (True, True, 3), (True, False, 2)])
def test_products_with_the_head_and_passes_over_the_logits(freeze: bool, with_entropy: bool, products: int) -> None:
    """A frozen head is not applied again in the backward pass, and no chunk is normalized twice."""
    calls: Counter[str] = Counter()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(torch.is_tensor(a) and 96 in a.shape for a in args):
                calls[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    model = tiny_model("Llama")
    return_logprobs(model, 6 * 4 * 96)
    model.get_output_embeddings().weight.requires_grad_(not freeze)
    batch = batch_of(make_sequences(), packed=False)
    chunks = -(-batch.most_logits // 6)
    with Watch():
        found = scores(model, batch, with_entropy)
        sum(values.sum() for values in found).backward()
    assert calls["logsumexp"] == chunks > 1
    assert calls["mm"] + calls["addmm_"] == products * chunks


@pytest.mark.slow
def test_compiled_passes_equal_the_plain_ones() -> None:
    """With torch's own compiler for the CPU; sizes change from call to call, as those of chunks do."""
    torch.manual_seed(0)
    passes = compiled_passes()
    for size in (7, 6, 1, 0):
        logits, tokens = 3 * torch.randn(size, 96), torch.randint(0, 96, (size,))
        gradients = torch.randn(2, size)
        for with_entropy in (False, True):
            plain, found = (each.scores(logits, tokens, TEMPERATURE, with_entropy) for each in (LogitPasses(), passes))
            torch.testing.assert_close(tuple(found), tuple(plain), atol=1e-5, rtol=1e-5)
            found_CV, plain_CV = (
                each.gradient(logits, tokens, plain, gradients[0], gradients[1] if with_entropy else None, TEMPERATURE)
                for each in (passes, LogitPasses())
            )
            torch.testing.assert_close(found_CV, plain_CV, atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_the_gradient_of_a_bfloat16_head_is_added_up_in_float32_on_a_gpu() -> None:
    torch.manual_seed(0)
    total = torch.randn(96, 64, device="cuda")
    a, b = (torch.randn(*s, device="cuda", dtype=torch.bfloat16) for s in ((8, 96), (8, 64)))
    expected = total.double() + a.double().t() @ b.double()
    _add_product(total, a.t(), b)
    torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_logits_of_bfloat16_weights_are_not_rounded_on_a_gpu() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, device="cuda", dtype=torch.bfloat16) for s in ((8, 64), (96, 64), (96,)))
    for b in (None, bias):
        found = _Head.apply(hidden, weight, b, None)
        expected = hidden.double() @ weight.double().T + (0 if b is None else b.double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
