"""The attention that packed sequences get: which one is chosen, and what it is asked to compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.tiny_architectures import ARCHITECTURES, tiny_model
from learner.backends import packed_attention
from learner.backends.packed_attention import ROWS, VARLEN
from learner.backends.packing import prepare_packing
from learner.packing_check import mixes_packed_sequences
from learner.response_logprobs import return_logprobs
from tests.learner.response_rows import (
    CPU,
    MIXING,
    assert_equal,
    batch_of,
    make_sequences,
    mixes,
    one_thread,
    rows,
    scores,
)

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

FLASH = ["Llama", "Qwen3", "Gemma 3 text", "GPT-NeoX"]


def test_what_is_packed() -> None:
    llama, mamba, windows = tiny_model("Llama"), tiny_model("Mamba 2"), tiny_model("Gemma 3 text")
    assert not prepare_packing(llama, "auto", CPU) and llama.config._attn_implementation == "sdpa"
    assert prepare_packing(llama, True, CPU) and llama.config._attn_implementation == ROWS
    assert prepare_packing(windows, True, CPU) and windows.config._attn_implementation == "sdpa"
    assert not prepare_packing(mamba, False, CPU)
    with pytest.raises(ValueError, match=r"learner\.packing = true: recurrent states of Mamba2ForCausalLM"):
        prepare_packing(mamba, True, CPU)
    assert mixes("gpt-oss", torch.bfloat16)


@pytest.mark.parametrize(
    "changes", [{"sliding_window": 8}, {"attention_chunk_size": 8}, {"layer_types": ["sliding_attention"] * 2}]
)
def test_attention_of_windows_keeps_its_mask(changes: dict[str, Any]) -> None:
    model = tiny_model("Llama")
    assert packed_attention.suitable(model)
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert not packed_attention.suitable(model)


def test_attention_pads_less_than_half_of_its_rows() -> None:
    """Also with one long sequence among short ones; every token is in one row, at its place."""
    lengths = np.array([1, 300, 2, 3, 4, 5, 8, 9, 1, 299, 17, 16, 64, 33])
    arguments = packed_attention.row_arguments(lengths, CPU)
    shapes, places = arguments["packed_shapes"], arguments["packed_places"].numpy()
    assert lengths.sum() <= sum(rows * length for rows, length in shapes) < 2 * lengths.sum()
    assert [length for _, length in shapes] == [1, 2, 4, 8, 16, 17, 64, 300]
    lengths_of_rows = [length for rows, length in shapes for _ in range(rows)]
    row_of_cell = np.repeat(np.arange(len(lengths)), lengths_of_rows)
    sequences = np.split(places, lengths.cumsum()[:-1])
    rows = [set(row_of_cell[cells].tolist()) for cells in sequences]
    assert all(len(row) == 1 for row in rows) and set().union(*rows) == set(range(len(lengths)))
    assert all((np.diff(cells) == 1).all() for cells in sequences), "the padding is on the right"
    firsts = np.append(0, np.cumsum(lengths_of_rows))
    assert all(cells[0] in firsts for cells in sequences)


def test_attention_of_a_packed_row_has_no_mask_of_it() -> None:
    sizes: list[tuple[int, ...]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            sizes.extend(
                tuple(t.shape[-2:]) for t in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(t)
            )
            return result

    model = tiny_model("Llama")
    batch = batch_of(make_sequences(), packed=True)
    T = batch.tokens_BT.size
    for prepared in (False, True):
        if prepared:
            prepare_packing(model, True, CPU)
        else:
            return_logprobs(model, None)
        sizes.clear()
        with Watch(), torch.no_grad():
            scores(model, batch)
        assert ((T, T) in sizes) != prepared


@pytest.fixture
def flash_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """FlashAttention 2 that transformers finds and that computes on a CPU; collects `cu_seqlens` of the calls."""
    import transformers.modeling_flash_attention_utils as transformers_flash

    calls: list[list[int]] = []

    def attention(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        """Of whole sequences [B, T, heads, size]."""
        assert causal and not dropout_p
        T, shared = q.shape[1], q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(shared, dim=2) for x in (k, v))
        distance_TT = torch.arange(T)[:, None] - torch.arange(T)
        seen_TT = (distance_TT >= 0) & ((window_size[0] < 0) | (distance_TT <= window_size[0]))
        scores = torch.einsum("bthd,bshd->bhts", q.float(), k.float()) * (softmax_scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen_TT, -torch.inf).softmax(-1)
        return torch.einsum("bhts,bshd->bthd", weights, v.float()).to(q.dtype)

    def varlen_attention(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
        sizes = cu_seqlens_q.diff().tolist()
        assert int(max_seqlen_q) == int(max_seqlen_k) == max(sizes)
        calls.append(cu_seqlens_q.tolist())
        parts = zip(*(x.split(sizes) for x in (q, k, v)), strict=True)
        arguments = dropout_p, softmax_scale, causal, window_size
        return torch.cat([attention(*(x[None] for x in part), *arguments)[0] for part in parts])

    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(transformers.PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    monkeypatch.setattr(transformers_flash, "_loaded_implementation", None)
    monkeypatch.setattr(transformers_flash, "_prepare_from_posids", None)  # not needed by any layer
    padding = transformers_flash._pad_input, transformers_flash._unpad_input
    functions = attention, varlen_attention, None, *padding
    monkeypatch.setattr(transformers_flash, "_lazy_imports", lambda *_, **__: functions)
    return calls


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in FLASH else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
        if name not in MIXING
    ],
)
def test_the_calls_of_flash_attention_keep_packed_sequences_apart(
    architecture: str, flash_calls: list[list[int]]
) -> None:
    """What transformers asks of FlashAttention for a packed row, computed on a CPU."""
    plain, model = (tiny_model(architecture).to(torch.bfloat16) for _ in range(2))
    if not model._supports_flash_attn or model.config._attn_implementation == "eager":
        assert not prepare_packing(model, "auto", torch.device("cuda"))
        return
    assert prepare_packing(model, "auto", torch.device("cuda")) and not flash_calls
    assert model.config._attn_implementation == "flash_attention_2"
    exact = architecture != "GPT-2"  # in float32 transformers reads the type of an nn.Linear, and GPT-2 has none
    for each in (plain, model):
        return_logprobs(each.float() if exact else each, None)
    assert not mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)
    flash_calls.clear()
    packed = batch_of(make_sequences(), packed=True)
    with torch.no_grad():
        found, expected = scores(model, packed)[0], scores(plain, batch_of(make_sequences(), packed=False))[0]
    assert flash_calls == [[0, *packed.lengths_B.cumsum().tolist()]] * model.config.get_text_config().num_hidden_layers
    torch.testing.assert_close(found, expected, atol=2e-5 if exact else 0.05, rtol=0)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "DeepSeek-V3"])
def test_the_calls_of_torchs_flash_attention_keep_packed_sequences_apart(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of torch's kernel, which has no version for CPUs, computed there."""
    calls: list[list[int]] = []

    def attention(
        q: Any, k: Any, v: Any, bounds: Any, other: Any, longest: int, _: int, **options: Any
    ) -> torch.Tensor:
        assert q.shape[2] == k.shape[2] == v.shape[2] and bounds is other and bounds.dtype == torch.int32
        assert options["window_size"] == (-1, 0) and options["enable_gqa"] == (q.shape[1] != k.shape[1])
        sizes = bounds.diff().tolist()
        assert longest == max(sizes)
        calls.append(bounds.tolist())
        parts = zip(*(x.transpose(0, 1).split(sizes, dim=1) for x in (q, k, v)), strict=True)
        exact = torch.nn.functional.scaled_dot_product_attention
        outputs = [exact(*part, is_causal=True, scale=options["scale"], enable_gqa=True) for part in parts]
        return torch.cat(outputs, dim=1).transpose(0, 1)

    monkeypatch.setattr(packed_attention, "varlen_attn", attention)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    model = tiny_model(architecture).to(torch.bfloat16)
    assert prepare_packing(model, "auto", torch.device("cuda")) and model.config._attn_implementation == VARLEN
    return_logprobs(model.float(), None)
    packed = batch_of(make_sequences(), packed=True)
    found = scores(model, packed)
    assert calls == [[0, *packed.lengths_B.cumsum().tolist()]] * model.config.num_hidden_layers
    plain = tiny_model(architecture).to(torch.bfloat16).float()
    return_logprobs(plain, None)
    expected = scores(plain, batch_of(make_sequences(), packed=False))
    for each in (found, expected):
        each[0].sum().backward()
    gradients = [[p.grad for p in m.parameters() if p.grad is not None] for m in (model, plain)]
    assert_equal([*found, *gradients[0]], [*expected, *gradients[1]])


@pytest.mark.parametrize(
    ("installed", "dtype", "attention", "expected"),
    [
        ((2, 3), torch.bfloat16, "sdpa", "flash_attention_3"),
        ((2,), torch.bfloat16, "sdpa", "flash_attention_2"),
        ((), torch.bfloat16, "sdpa", VARLEN),
        ((2, 3), torch.float32, "sdpa", None),
        ((2, 3), torch.bfloat16, "eager", None),
    ],
)
def test_packing_on_a_gpu_follows_flash_attention(
    installed: tuple[int, ...],
    dtype: torch.dtype,
    attention: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    flash_calls: list[list[int]],
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    for version in (2, 3):
        monkeypatch.setattr(
            transformers.utils, f"is_flash_attn_{version}_available", lambda version=version: version in installed
        )
    for wanted in (False, "auto", True):
        model = tiny_model("Llama").to(dtype)
        model.set_attn_implementation(attention)
        packs = prepare_packing(model, wanted, torch.device("cuda"))
        assert packs == (wanted is True or (wanted == "auto" and expected is not None))
        without = ROWS if attention == "sdpa" else attention
        assert model.config._attn_implementation == ((expected or without) if packs else attention)


def test_an_old_or_unfit_gpu_packs_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    for capability, changes in (((7, 5), {}), ((9, 0), {"head_dim": 512})):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        model = tiny_model("Llama").to(torch.bfloat16)
        for name, value in changes.items():
            setattr(model.config, name, value)
        assert not prepare_packing(model, "auto", device)
        assert prepare_packing(model, True, device) and model.config._attn_implementation == ROWS


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", FLASH)
def test_flash_attention_keeps_packed_sequences_apart(architecture: str) -> None:
    model = tiny_model(architecture).to("cuda", torch.bfloat16)
    if not prepare_packing(model, "auto", model.device):
        pytest.skip("flash-attn is not installed, and this model is not for torch's FlashAttention")
    return_logprobs(model, None)
    assert not mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)
