"""Adapters in models of several architectures: the merged weights are the same policy, and targets are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.tiny_architectures import save_tiny_model
from learner.backends.checkpoint_layout import CheckpointLayout
from learner.backends.lora import Adapters, adapter_sizes, sent_layers, target_layers
from learner.backends.model_directory import empty_causal_lm, load_causal_lm, write_model_directory
from learner.checkpoint_identity import learner_identity
from learner.settings import LearnerSettings, LoraSettings

TOKENS = torch.arange(3, 40)[None]


@pytest.mark.parametrize(
    "architecture",
    [
        "Llama, tied",
        "GPT-2",  # transposed weights
        "Qwen3-MoE",  # experts, which transformers merges into one tensor
        pytest.param("Phi-3", marks=pytest.mark.slow),  # fused in the checkpoint
        pytest.param("Gemma 3", marks=pytest.mark.slow),  # multimodal
    ],
)
def test_the_merged_model_is_the_policy_that_is_trained(architecture: str, tmp_path: Path) -> None:
    save_tiny_model(architecture, tmp_path / "base")
    settings = LoraSettings(rank=4, alpha=8)
    model = load_causal_lm(tmp_path / "base", "float32").eval()
    layout = CheckpointLayout(model)
    initial = {name: tensor.detach().clone() for unit in layout.units for name, tensor in layout.convert(unit)}
    base = model(input_ids=TOKENS).logits
    adapters = Adapters(model, settings)
    torch.testing.assert_close(model(input_ids=TOKENS).logits, base, rtol=0, atol=0)

    torch.manual_seed(0)
    with torch.no_grad():
        for _, factors in adapters.parameters:
            factors.add_(0.05 * torch.randn_like(factors))
    adapted = model(input_ids=TOKENS).logits
    assert (adapted - base).abs().max() > 0.5
    with adapters.disabled():
        torch.testing.assert_close(model(input_ids=TOKENS).logits, base, rtol=0, atol=0)
    torch.testing.assert_close(model(input_ids=TOKENS).logits, adapted, rtol=0, atol=0)

    merged = {
        name: tensor.clone()
        for unit in layout.units
        for name, tensor in layout.convert([(name, adapters.merged(tensor)) for name, tensor in unit])
    }
    write_model_directory(tmp_path / "base", tmp_path / "merged", merged, model.dropped_weights)
    exported = load_causal_lm(tmp_path / "merged", "float32").eval()
    torch.testing.assert_close(exported(input_ids=TOKENS).logits, adapted, rtol=0, atol=1e-4)

    changed = {name for name in merged if not torch.equal(merged[name], initial[name])}
    sent = [name for unit in adapters.units(layout.units) for name, _ in layout.convert(unit)]
    assert changed and changed <= set(sent) < set(merged)
    trained = sum(p.numel() for _, p in adapters.parameters)
    assert adapter_sizes(tmp_path / "base", settings) == (trained, sum(merged[name].numel() for name in sent))
    assert {p.requires_grad for p in model.parameters()} == {True, False}
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_merged_weight_is_rounded_once(tmp_path: Path) -> None:
    save_tiny_model("Llama", tmp_path)
    model = load_causal_lm(tmp_path, "bfloat16")
    adapters = Adapters(model, LoraSettings(rank=2, alpha=6, targets=("q_proj",)))
    factors = dict(adapters.parameters)
    a, b = (factors[f"model.layers.1.self_attn.q_proj.lora_{x}.default.weight"] for x in "AB")
    with torch.no_grad():
        b.normal_(0, 0.02)
    weight = model.model.layers[1].self_attn.q_proj.base_layer.weight
    exact = weight.double() + 3 * b.double() @ a.double()
    error = (adapters.merged(weight).double() - exact).abs()
    assert (error <= 2**-8 * exact.abs() + 1e-7).all(), "half a unit in the last place of bfloat16"
    assert torch.equal(adapters.merged(weight), adapters.merged(weight)), "the frozen weight is not changed"


def test_engines_get_every_part_of_the_layers_that_they_fuse(tmp_path: Path) -> None:
    save_tiny_model("Llama", tmp_path)
    model = load_causal_lm(tmp_path, "float32")
    layout = CheckpointLayout(model)
    units = Adapters(model, LoraSettings(targets=("layers.1.self_attn.v_proj",))).units(layout.units)
    names = {name for unit in units for name, _ in unit}
    assert names == {f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkvo"}


@pytest.mark.parametrize("architecture", ["Llama, tied", pytest.param("Gemma 3", marks=pytest.mark.slow)])
def test_sent_adapters_have_the_names_of_layers_in_the_checkpoint(architecture: str, tmp_path: Path) -> None:
    save_tiny_model(architecture, tmp_path)
    settings = LoraSettings(rank=4, send="adapters")
    model = load_causal_lm(tmp_path, "float32")
    layout = CheckpointLayout(model)
    adapters = Adapters(model, settings)
    factors = dict(adapters.factors(layout))
    shapes = {name: shape for name, _, shape in layout.metadata}
    for layer in sent_layers(tmp_path, settings):
        wide, narrow = shapes[f"{layer}.weight"]
        a, b = (factors.pop(f"{layer}.lora_{x}.weight") for x in "AB")
        assert a.shape == (4, narrow) and b.shape == (wide, 4)
    assert not factors
    trained = sum(p.numel() for _, p in adapters.parameters)
    assert adapter_sizes(tmp_path, settings) == (trained, trained)


def test_what_is_sent_may_differ_from_that_of_the_checkpoint() -> None:
    kinds = LoraSettings(), LoraSettings(send="adapters")
    merged, adapters = (learner_identity(LearnerSettings(lora=lora), 1)["learner.lora"] for lora in kinds)
    assert merged == adapters == {"rank": 16, "alpha": 32.0, "targets": "all-linear"}


def test_a_layer_that_the_checkpoint_does_not_have_is_not_sent(tmp_path: Path) -> None:
    save_tiny_model("Llama", tmp_path)
    model = load_causal_lm(tmp_path, "float32")
    layout = CheckpointLayout(model)
    adapters = Adapters(model, LoraSettings(targets=("v_proj",)))
    del layout.stored[id(model.model.layers[1].self_attn.v_proj.base_layer.weight)]
    with pytest.raises(ValueError, match=r"fuses or splits model\.layers\.1\.self_attn\.v_proj.*send = merged"):
        adapters.factors(layout)


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (("q_prj",), ("'q_prj' names no layer of LlamaForCausalLM", "did you mean q_proj?", "all-linear")),
        (("q_proj", "proj"), ("'proj' names no layer", "gate_proj")),
        (("embed_tokens",), ("'embed_tokens' is the embedding, which stays frozen",)),
        (("lm_head",), ("'lm_head' is the output head, which stays frozen",)),
        (("norm",), ("layers of type LlamaRMSNorm, which are not linear",)),
        (("self_attn",), ("layers of type LlamaAttention",)),
    ],
)
def test_targets_that_cannot_have_an_adapter(targets: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    save_tiny_model("Llama", tmp_path)
    with pytest.raises(ValueError, match=r"^learner\.lora\.targets: ") as caught:
        target_layers(empty_causal_lm(tmp_path), targets)
    for part in parts:
        assert part in str(caught.value)


def test_layers_that_peft_does_not_adapt_are_named(tmp_path: Path) -> None:
    save_tiny_model("Mamba 2", tmp_path)
    with pytest.raises(ValueError, match=r"learner\.lora\.targets: .*'out_proj'"):
        adapter_sizes(tmp_path, LoraSettings())
    assert adapter_sizes(tmp_path, LoraSettings(targets=("in_proj",)))[0] > 0
