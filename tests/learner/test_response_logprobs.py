"""Logits in chunks and packed sequences against one forward pass over padded sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.tiny_architectures import ARCHITECTURES, tiny_model
from learner.backends import packed_attention
from learner.backends.packed_attention import ROWS, VARLEN
from learner.backends.packing import packed_arguments, prepare_packing
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.chunked_head import _Head
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
        **(packed_arguments(model.config, batch.lengths_B, model.device) if mask_BT is None else {}),
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


def bfloat16_results(architecture: str, positions: int | None, freeze_head: bool = False) -> list[torch.Tensor | None]:
    """Log-probabilities, and the gradients of the body's last layer and of the head, from bfloat16 weights."""
    model = tiny_model(architecture).to(torch.bfloat16)
    return_logprobs(model, positions and positions * 4 * 96)
    head = model.get_output_embeddings()
    head.weight.requires_grad_(not freeze_head)
    found = scores(model, batch_of(make_sequences(), packed=False))[0]
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
    sizes = [rows.numel() for rows in arguments["packed_rows"]]
    assert lengths.sum() <= sum(sizes) < 2 * lengths.sum()
    assert [rows.shape[1] for rows in arguments["packed_rows"]] == [1, 2, 4, 8, 16, 17, 64, 300]
    tokens = torch.cat([rows.flatten() for rows in arguments["packed_rows"]])
    assert torch.equal(tokens[arguments["packed_places"]], torch.arange(lengths.sum()))


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


FLASH = ["Llama", "Qwen3", "Gemma 3 text", "GPT-NeoX"]


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
def test_logits_of_bfloat16_weights_are_not_rounded_on_a_gpu() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, device="cuda", dtype=torch.bfloat16) for s in ((8, 64), (96, 64), (96,)))
    for b in (None, bias):
        found = _Head.apply(hidden, weight, b, None)
        expected = hidden.double() @ weight.double().T + (0 if b is None else b.double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", FLASH)
def test_flash_attention_keeps_packed_sequences_apart(architecture: str) -> None:
    model = tiny_model(architecture).to("cuda", torch.bfloat16)
    if not prepare_packing(model, "auto", model.device):
        pytest.skip("flash-attn is not installed, and this model is not for torch's FlashAttention")
    return_logprobs(model, None)
    assert not mixes_packed_sequences(lambda batch: rows(model, batch)[0], 96, 2)
