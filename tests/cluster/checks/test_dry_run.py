"""Derived figures against hand-computed ones, and what cannot fit is refused with the keys to change."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.dry_run import learning_rate_warnings, load_model_facts, multiplies_bfloat16, report, warnings_of
from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems
from cluster.checks.memory.shape import GIB
from cluster.checks.model_facts import ModelFacts, read_model
from cluster.config import build_config
from cluster.errors import UsageError

MODEL = ModelFacts(
    parameters=1_000_000,
    layers=4,
    hidden=192,
    vocabulary=64,
    kv_values_per_token=1536,
    context=128,
)


def write_model(
    directory: Path, config: dict[str, Any] | None = None, shapes: dict[str, list[int]] | None = None
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    content = (
        config
        if config is not None
        else {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": 2,
            "hidden_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "max_position_embeddings": 64,
        }
    )
    (directory / "config.json").write_text(json.dumps(content))
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in (shapes or {"a": [3, 4], "b": [5]}).items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_figures_follow_from_the_configuration() -> None:
    config = build_config(
        {
            "rollout": {"n": 16, "prompts_per_step": 8, "max_prompt_tokens": 30, "max_response_tokens": 20},
            "queue": {"staleness": 2, "overtake": 1},
            "learner": {"ranks": 2, "tokens_per_micro_batch": 510},
            "actors": {"samplers": 3, "verifiers": 5},
        }
    )
    derived = derive(config, MODEL)
    assert derived.slots == 24  # (S + 1) P
    assert derived.staleness_bound == 3  # S + W
    assert derived.samples_per_step == 128
    assert derived.max_tokens_per_step == 128 * 50
    assert derived.micro_batches_per_rank == 7  # ceil(64 / 10)
    assert (derived.cpus, derived.gpus) == (10, 0)
    assert derived.group_memory == 24 * 16 * 20 * 16


@pytest.mark.parametrize(
    # float32: weights 4, gradients 4, Adam 8, sharded over 4 ranks from the stage on; a copy of the gradients' part
    ("stage", "per_parameter"),
    [(0, 16.0), (1, 4 + 4 + 2 + 1.0), (2, 4 + 1 + 2 + 1.0), (3, 1 + 1 + 2 + 1.0)],
)
def test_learner_memory_by_zero_stage(stage: int, per_parameter: float) -> None:
    config = build_config({"learner": {"ranks": 4, "zero_stage": stage}})

    def memory(parameters: int) -> float:
        found = derive(config, replace(MODEL, parameters=parameters)).learner_memory
        assert found is not None
        return found

    # From 1e9 parameters on, what ZeRO-3 gathers for a while no longer grows.
    assert memory(2 * 10**9) - memory(10**9) == pytest.approx(per_parameter * 1e9)


def test_figures_without_a_model_say_unknown() -> None:
    config = build_config({})
    rows = dict(report(config, derive(config, None)))
    assert rows["model parameters"] == "unknown"


def test_groups_larger_than_the_object_store_are_refused() -> None:
    config = build_config({"rollout": {"n": 4096, "prompts_per_step": 4096}})
    (problem,) = memory_problems(config, derive(config, MODEL), MODEL, available=1e12)
    assert "rollout.n = 4096" in problem and "cluster.object_store_mib = 512" in problem


def test_more_memory_than_the_machine_has_is_refused() -> None:
    config = build_config({"sampler": {"kv_cache_gib": 500}})
    (problem,) = memory_problems(config, derive(config, MODEL), MODEL, available=16 * GIB)
    assert "16.0 GiB" in problem and "sampler.kv_cache_gib" in problem
    assert not memory_problems(config, derive(config, MODEL), MODEL, available=600 * GIB)


def test_sequences_beyond_the_models_context_are_refused() -> None:
    config = build_config({"rollout": {"max_response_tokens": 100}})
    (problem,) = memory_problems(config, derive(config, MODEL), MODEL, available=1e12)
    assert "164 tokens" in problem and "context of 128" in problem


def test_key_value_cache_too_small_for_one_sequence_is_refused() -> None:
    config = build_config({"sampler": {"kv_cache_gib": 1e-4}})
    (problem,) = memory_problems(config, derive(config, MODEL), MODEL, available=1e12)
    assert "sampler.kv_cache_gib" in problem


def test_models_too_large_for_the_gpus_are_refused() -> None:
    config = build_config(
        {
            "model": {"parameters_billions": 70, "dtype": "bfloat16"},
            "sampler": {"gpus": 1},
            "learner": {"gpus_per_rank": 1, "ranks": 2, "zero_stage": 1},
        }
    )
    sampler, rank = memory_problems(config, derive(config, None), None, available=1e12)
    assert "sampler.tensor_parallel" in sampler and "learner.zero_stage" in rank


def test_more_weights_than_8bit_adamw_counts_are_refused_before_the_start() -> None:
    def refused(**learner: object) -> bool:
        chosen = {"gpus_per_rank": 1, "ranks": 2, "optimizer": "adamw_8bit", "lora": None, **learner}
        tree = {"model": {"parameters_billions": 8, "dtype": "bfloat16"}, "sampler": {"gpus": 1}, "learner": chosen}
        config = build_config(tree)
        problems = memory_problems(config, derive(config, None), None, available=1e12)
        return any("learner.optimizer = adamw_8bit" in p and "rank has 4000000000" in p for p in problems)

    assert refused(zero_stage=1) and refused(zero_stage=2)
    assert not refused(zero_stage=3) and not refused(zero_stage=1, lora={}) and not refused(optimizer="adamw")


def test_a_learning_rate_for_small_models_is_warned_about_with_a_large_one() -> None:
    def warned(parameters: float, rate: object = None, **learner: object) -> list[str]:
        tree = {"model": {"path": "elsewhere", "parameters_billions": parameters}, "learner": learner}
        tree["schedule"] = {"learning_rate": rate}
        config = build_config(tree)
        return learning_rate_warnings(config, derive(config, None).shape)

    (warning,) = warned(0.6)
    assert "learner.learning_rate = 5e-05 is high" in warning and "600,000,000 weights" in warning
    (scheduled,) = warned(0.6, {"start": 1e-3, "end": 1e-6}, learning_rate=1e-6)
    assert "schedule.learning_rate = 0.001 is high" in scheduled
    assert not warned(0.6, {"start": 1e-6, "end": 0}) and warned(0.6, {"end": 0})
    assert not warned(0.6, {"shape": "steps", "at": {0: 1e-5, 100: 1e-6}})
    assert not warned(0.01) and not warned(0.6, learning_rate=1e-5) and not warned(0.6, lora={})
    assert not learning_rate_warnings(build_config({}), None)


def test_odd_combinations_are_warned_about() -> None:
    config = build_config(
        {
            "learner": {"warmup_steps": 9},
            "run": {"steps": 3},
            "model": {"dtype": "bfloat16"},
            "cluster": {"address": "auto"},
            "broadcast": {"transport": "shared_memory"},
        }
    )
    assert len(warnings_of(config)) == 3
    assert not warnings_of(build_config({}))


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx2 fma\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor\t: 0\n", True),
    ],
)
def test_processors_that_multiply_bfloat16(cpuinfo: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is expected
    assert multiplies_bfloat16(tmp_path / "missing"), "unknown"


def test_bfloat16_on_a_slow_processor_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.checks.dry_run.multiplies_bfloat16", lambda: False)
    bfloat16: dict[str, dict] = {"model": {"dtype": "bfloat16"}, "agreement": {"max_gap": 0.1}}
    (warning,) = warnings_of(build_config(bfloat16))
    assert "on a processor without instructions for it" in warning and "set model.dtype: float32" in warning
    assert not warnings_of(build_config(bfloat16 | {"cluster": {"address": "auto"}})), "the nodes may be others"
    on_gpus = {"sampler": {"gpus": 1}, "learner": {"gpus_per_rank": 1}}
    assert not warnings_of(build_config(bfloat16 | on_gpus))


def test_model_directory_is_read_without_loading_weights(tmp_path: Path) -> None:
    facts = read_model(write_model(tmp_path / "m"))
    assert facts == ModelFacts(17, 2, 128, 100, 2 * 2 * 2 * 32, 64, mapped={"float32": 17})


def test_multimodal_configuration_holds_its_text_model(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32, "vocab_size": 10}
    facts = read_model(
        write_model(tmp_path / "m", {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    )
    assert facts.kv_values_per_token == 2 * 2 * 4 * 32 and facts.context is None


@pytest.mark.parametrize(
    ("settings", "inner"),
    [
        ({"intermediate_size": 512}, 512),
        ({"intermediate_size": 512, "num_experts_per_tok": 2}, 1024),  # Mixtral
        ({"intermediate_size": 512, "moe_intermediate_size": 96, "num_experts_per_tok": 8}, 768),  # Qwen3-MoE
        ({}, None),
        ({"moe_intermediate_size": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}, 24),
        ({"moe_intermediate_size": 8, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 30}, 46),
    ],
)
def test_width_of_the_feed_forward_part_of_one_token(
    settings: dict[str, int], inner: int | None, tmp_path: Path
) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 10}
    model = write_model(tmp_path / "m", {"architectures": ["LlamaForCausalLM"], **sizes, **settings})
    assert read_model(model).inner == inner


def test_shipped_model_is_readable(repository: Path) -> None:
    facts = read_model(repository / "models" / "countdown-base")
    assert 1e6 < facts.parameters < 4e6


@pytest.mark.parametrize("damage", ["missing", "no config", "bad json", "no weights", "lfs pointer", "encoder"])
def test_broken_model_directories_are_refused(tmp_path: Path, damage: str) -> None:
    model = write_model(tmp_path / "m")
    if damage == "missing":
        model = tmp_path / "other"
    elif damage == "no config":
        (model / "config.json").unlink()
    elif damage == "bad json":
        (model / "config.json").write_text("{")
    elif damage == "no weights":
        (model / "model.safetensors").unlink()
    elif damage == "lfs pointer":
        (model / "model.safetensors").write_text("version 1\noid sha256:abc\nsize 7000000\n")
    elif damage == "encoder":
        (model / "config.json").write_text(json.dumps({"architectures": ["ViT"], "image_size": 3}))
    with pytest.raises(UsageError, match=r"model\.path"):
        read_model(model)


def test_missing_model_is_a_warning_only_in_dry_runs(tmp_path: Path) -> None:
    config = build_config({"model": {"path": str(tmp_path / "x"), "parameters_billions": 4}})
    facts, warning = load_model_facts(config, must_exist=False)
    assert facts is None and warning and "model.parameters_billions = 4" in warning
    with pytest.raises(UsageError):
        load_model_facts(config, must_exist=True)
