"""Weights leave the learner by the names, in the shapes and with the values that the checkpoint's files have."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.tiny_architectures import ARCHITECTURES, save_tiny_model
from learner.backends.checkpoint_layout import CheckpointLayout, into_buckets
from learner.backends.model_directory import load_causal_lm, write_model_directory

MULTIMODAL = {"Qwen3.5", "Gemma 3", "Qwen2.5-VL", "Qwen3-VL"}
RENAMED = {"GPT-NeoX", "Mixtral", "Qwen3-MoE", "DeepSeek-V2", "DeepSeek-V3", "Gemma 3", "Qwen2.5-VL"}
"""transformers 5 renames or merges these while it loads them."""
FAST = {"GPT-NeoX", "Mixtral", "DeepSeek-V3", "gpt-oss", "Gemma 3", "Qwen2.5-VL", "Llama, tied"}


def test_the_cases_name_architectures_that_exist():
    assert set(ARCHITECTURES) >= MULTIMODAL | RENAMED | FAST


@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=[] if a in FAST else pytest.mark.slow) for a in ARCHITECTURES]
)
def test_weights_leave_as_the_checkpoint_has_them(architecture, tmp_path):
    source, export = tmp_path / "source", tmp_path / "export"
    save_tiny_model(architecture, source)
    stored = load_file(source / "model.safetensors")
    model = load_causal_lm(source, "float32")
    layout = CheckpointLayout(model)

    sent = {name: tensor for unit in layout.units for name, tensor in layout.convert(unit)}
    assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sent.items()] == layout.metadata
    for name, tensor in sent.items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
    assert set(stored) == set(sent) | set(model.dropped_weights)
    assert bool(model.dropped_weights) == (architecture in MULTIMODAL)
    assert (set(dict(model.named_parameters())) != set(sent)) == (architecture in RENAMED)

    changed = {name: tensor.clone() + 1 for name, tensor in sent.items()}
    write_model_directory(source, export, changed, model.dropped_weights)
    exported = load_file(export / "model.safetensors")
    assert set(exported) == set(stored)
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, changed.get(name, stored[name]), rtol=0, atol=0)
    assert type(load_causal_lm(export, "float32")) is type(model)


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [("Llama, tied", "sdpa"), ("Gemma 2", "eager"), ("Gemma 3 text", "sdpa"), ("gpt-oss", "eager")],
)
def test_the_attention_computes_what_the_architecture_says(architecture, attention, tmp_path):
    """SDPA has no attention sinks, which transformers knows, and no soft cap, which it does not."""
    from transformers import AutoModelForCausalLM

    save_tiny_model(architecture, tmp_path)
    model = load_causal_lm(tmp_path, "float32").eval()
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert model.config._attn_implementation == attention
    tokens = torch.arange(3, 40)[None]
    torch.testing.assert_close(model(input_ids=tokens).logits, exact(input_ids=tokens).logits, rtol=0, atol=1e-4)


def test_an_export_keeps_the_source_configuration_with_its_new_dtype(tmp_path):
    source = tmp_path / "source"
    save_tiny_model("Gemma 3", source)
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["a_key_of_the_future"] = {"kept": True}
    (source / "config.json").write_text(json.dumps(config))
    write_model_directory(source, tmp_path / "export", {"w": torch.zeros(2, dtype=torch.bfloat16)})
    exported = json.loads((tmp_path / "export" / "config.json").read_text())
    assert exported["a_key_of_the_future"] == {"kept": True}
    assert (exported["dtype"], exported["text_config"]["dtype"]) == ("bfloat16", "bfloat16")
    assert "torch_dtype" not in exported


def test_a_checkpoint_without_some_weights_is_refused(tmp_path):
    """transformers fills the gap with random numbers and only warns."""
    from safetensors.torch import save_file

    save_tiny_model("Llama, tied", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.path: .* lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(tmp_path, "float32")


def test_units_are_cut_by_bytes_and_a_large_one_stands_alone():
    def unit(name: str, count: int) -> list[tuple[str, torch.Tensor]]:
        return [(name, torch.zeros(count))]

    units = [unit("a", 10), unit("b", 10), unit("c", 100), unit("d", 10)]
    names = [[name for unit in bucket for name, _ in unit] for bucket in into_buckets(units, 80)]
    assert names == [["a", "b"], ["c"], ["d"]]
