"""Models are judged by their config.json: accepted where sampler and learner both run them, else refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.model_facts import read_model
from cluster.checks.model_support import (
    support_problems,
    text_settings,
    transformers_tables,
    vllm_adapts,
    vllm_architectures,
)
from cluster.commands.printing import print_dry_run
from cluster.config import load_config
from cluster.errors import UsageError
from tests.cluster.checks.test_dry_run import write_model

SMALL = ("task.train_size=8", "task.validation_size=2", "evaluation.prompts=2")
PUBLISHED = Path(__file__).parent / "published"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


def problems(*, gpus: float | None = 0, dtype: str = "float32", **changes: Any) -> str:
    return "\n".join(support_problems("DIR", {**LLAMA, **changes}, sampler_gpus=gpus, dtype=dtype))


@pytest.mark.parametrize("file", ["8xh100", "multinode"])
def test_the_models_of_the_shipped_configurations_are_accepted(file, repository, tmp_path):
    """From their published config.json, with the weights' sizes left out."""
    config = load_config(repository / "cluster" / "presets" / f"{file}.yaml", [])
    published = json.loads((PUBLISHED / Path(config.model.path).name / "config.json").read_text())
    gpus, dtype = config.sampler.gpus, config.model.dtype
    assert list(support_problems(config.model.path, published, sampler_gpus=gpus, dtype=dtype)) == []
    facts = read_model(write_model(tmp_path / "model", published))
    assert (facts.vocabulary, facts.context) == {"8xh100": (151936, 40960), "multinode": (262208, 131072)}[file]


def test_a_sound_model_is_accepted_on_cpu_and_gpu():
    assert problems() == problems(gpus=1) == ""


def test_where_nothing_is_sampled_vllm_need_not_support_the_model():
    odd = {"hidden_size": 4 * 100}  # heads of 100, which vLLM's attention on CPUs does not have
    assert "vLLM" in problems(**odd) and problems(**odd, gpus=None) == ""
    assert "vLLM cannot sample" in problems(architectures=["Own"]) and problems(architectures=["Own"], gpus=None) == ""
    assert "does not know the model_type" in problems(model_type="llama9", gpus=None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["BertModelOfMine"]}, "vLLM cannot sample from the architecture 'BertModelOfMine'"),
        ({"architectures": []}, "config.json names no architecture"),
        ({"model_type": None}, "config.json has no model_type"),
        ({"model_type": "llama9"}, "does not know the model_type 'llama9'"),
        ({"model_type": "my-own", "auto_map": {"AutoModel": "m.M"}}, "its own code"),
        (
            {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "is_encoder_decoder": True},
            "an encoder and a decoder",
        ),
        ({"model_type": "clip"}, "cannot load the model_type 'clip' as a causal language model"),
        ({"model_type": "llama", "text_config": {"vocab_size": 9}}, "cannot load the model_type 'llama' as an image"),
        ({"hidden_size": 192}, "its heads have size 48, but vLLM's attention on CPUs supports only 32, 64"),
        ({"rotary_pct": 0.25}, "8 dimensions of its heads are rotated"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "8 dimensions of its heads are rotated"),
        ({"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}, "8 dimensions of its heads are rotated"),
        ({"linear_num_value_heads": 4}, "set model.dtype: bfloat16"),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, "latent attention (kv_lora_rank) on CPUs does not agree"),
    ],
)
def test_what_a_start_would_refuse_is_refused_by_name(changes, reason):
    found = problems(**changes)
    assert found.startswith("model.path = DIR: ") and reason in found and "set model.path" in found
    assert len(found.splitlines()) == 1


def test_sizes_of_heads_are_a_matter_of_cpus():
    assert problems(hidden_size=64, gpus=1) == ""


def test_linear_attention_on_cpus_is_a_matter_of_the_dtype():
    assert problems(linear_num_value_heads=4, dtype="bfloat16") == problems(linear_num_value_heads=4, gpus=1) == ""


def test_the_installed_tables_can_be_read():
    """When a package moves them this fails, and the early check needs a new home; runs are not affected."""
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForConditionalGeneration"} <= vllm_architectures()
    tables = transformers_tables()
    assert {"llama", "qwen3_moe", "gpt_oss", "mamba2"} <= set(tables["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"])
    assert {"gemma3", "qwen2_5_vl"} <= set(tables["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"])
    assert {"llama", "whisper"} <= set(tables["CONFIG_MAPPING_NAMES"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_embd": 128, "n_layer": 3, "n_head": 4, "vocab_size": 99}, (3, 128, 4, 99)),
        (
            {
                "architectures": ["Mamba2ForCausalLM"],
                "model_type": "mamba2",
                "hidden_size": 128,
                "num_hidden_layers": 2,
                "num_heads": 8,
                "head_dim": 32,
                "vocab_size": 99,
            },
            (2, 128, 0, 99),
        ),
    ],
)
def test_sizes_under_other_names_and_in_defaults_are_found(config, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = text_settings(tmp_path, config)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    assert tuple(text[name] for name in names) == expected


@pytest.mark.parametrize(
    ("architecture", "adapts"),
    [
        ("LlamaForCausalLM", True),
        ("MixtralForCausalLM", True),
        ("GPTNeoXForCausalLM", True),  # through vLLM's class for models of transformers
        ("GPT2LMHeadModel", False),
        ("Mamba2ForCausalLM", False),
        ("OfMine", None),
    ],
)
def test_whether_vllm_adapts_a_model_is_read_from_its_source(architecture, adapts):
    assert vllm_adapts(architecture) is adapts


def test_a_dry_run_refuses_adapters_for_a_model_that_vllm_does_not_adapt(tmp_path, repository):
    """Merged weights need no such support, and neither does a replay."""
    model = write_model(tmp_path / "model", {**LLAMA, "architectures": ["GPT2LMHeadModel"]})
    message = "learner.lora.send = adapters: vLLM applies no adapters to the architecture 'GPT2LMHeadModel'"
    for send, replay, refused in (("adapters", None, True), ("merged", None, False), ("adapters", tmp_path, False)):
        keys = [f"model.path={model}", f"learner.lora={{rank: 4, send: {send}}}", *SMALL]
        config = load_config(repository / "cluster" / "presets" / "local.yaml", keys)
        with pytest.raises(UsageError) as caught:  # also the model's files, which are not those of GPT-2
            print_dry_run(config, list, replay=replay)
        assert (message in str(caught.value)) is refused, (send, replay)


def test_a_dry_run_refuses_the_model(tmp_path, repository):
    model = write_model(tmp_path / "model", {**LLAMA, "model_type": "llama9"})
    config = load_config(repository / "cluster" / "presets" / "local.yaml", [f"model.path={model}", *SMALL])
    with pytest.raises(UsageError, match="llama9"):
        print_dry_run(config)
