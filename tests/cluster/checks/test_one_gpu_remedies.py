"""One GPU for sampler and learner: what a message suggests is allowed there, and is enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.model_facts import ModelFacts
from cluster.checks.ray_cluster import stated_problems
from cluster.config import load_config

PRESET = Path(__file__).resolve().parents[3] / "cluster" / "presets" / "one-gpu.yaml"
# Public facts: parameters, layers, width, vocabulary, 2 x layers x KV heads x head size, context.
QWEN25_7B = ModelFacts(7_615_616_512, 28, 3584, 152_064, 2 * 28 * 4 * 128, 32_768)


def problems(*overrides: str) -> list[str]:
    config = load_config(PRESET, ["cluster.gpu_memory_gib=24", "learner.lora.rank=16", *overrides])
    return memory_problems(config, derive(config, QWEN25_7B), QWEN25_7B, available=1e12)


def test_the_remedy_for_a_model_that_is_too_large_for_a_shared_gpu_works() -> None:
    """More GPUs for the sampler would be refused there."""
    problem = " ".join(problems())
    assert "cluster.placement = colocated: one GPU has 24.0 GiB, of which the learner rank keeps" in problem
    assert "the weights alone take 14.2 GiB" in problem
    assert "set learner.offload = all and learner.zero_stage = 3" in problem
    assert "sampler.gpus" not in problem and "tensor_parallel" not in problem
    assert "learner.offload = optimizer" not in problem, "it would not be enough"
    assert problems("learner.offload=all", "learner.zero_stage=3") == []


@pytest.mark.parametrize(("gib", "outcome"), [(84, ""), (80, "warned"), (75, "warned"), (70, "refused")])
def test_less_than_the_error_of_the_estimate_is_a_warning(gib: float, outcome: str) -> None:
    """All weights of 7 B parameters with Adam's state on the host take 80.3 GiB by the estimate."""
    overrides = [f"cluster.gpu_memory_gib={gib}", "learner.offload=optimizer"]
    config, model = load_config(PRESET, overrides), replace(QWEN25_7B, inner=18_944)
    figures = derive(config, model)
    refused = [line for line in memory_problems(config, figures, model, available=1e12) if "a learner rank" in line]
    refused += [line for line in memory_problems(config, figures, model, available=1e12) if "one learner rank" in line]
    warned = [line for line in memory_warnings(config, figures) if "the estimate may be wrong by 10%" in line]
    assert (len(refused), len(warned)) == (outcome == "refused", outcome == "warned")
    assert all("set learner.offload = all and learner.zero_stage = 3" in line for line in warned if gib == 80)


def test_a_fixed_share_of_the_gpu_is_to_be_left_out() -> None:
    fixed = ("sampler.gpu_memory_utilization=0.5", "learner.offload=all", "learner.zero_stage=3")
    [problem] = problems(*fixed)
    assert "leave sampler.gpu_memory_utilization out" in problem and "set learner.offload" not in problem


def test_no_offload_is_suggested_that_would_not_fit() -> None:
    [text] = [line for line in problems("cluster.gpu_memory_gib=10") if line.startswith("cluster.placement")]
    assert "set learner.offload" not in text and "take a smaller model.path" in text


def test_a_cache_without_room_for_a_sequence_has_another_remedy_than_more_gpus() -> None:
    keys = ("learner.offload=all", "learner.zero_stage=3", "sampler.gpu_memory_utilization=0.62")
    [problem] = problems(*keys)
    assert "has no room for the key-value cache of one sequence" in problem
    assert "lower rollout.max_response_tokens" in problem and "tensor_parallel" not in problem


@pytest.mark.parametrize("keys", [(), ("cluster.num_gpus=null",)])
def test_a_judge_on_the_gpu_of_sampler_and_learner(keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.checks import preflight

    overrides = ["actors.verifier_gpus=0.1", *keys]
    if keys:
        monkeypatch.setattr(preflight, "local_gpus", lambda: 1)
        [text] = preflight.gpu_problems(load_config(PRESET, overrides))
    else:
        [text] = stated_problems(load_config(PRESET, overrides))
    assert "the layout takes 2 GPUs (learner.ranks, each with a sampler on its GPU, + actors.verifiers x" in text
    assert "actors.verifier_gpus = 0.1 needs a GPU of its own" in text
    assert "actors.verifier_gpus = 0)" in text and "task.reward = http://" in text


def test_separate_roles_keep_the_remedy_of_more_gpus() -> None:
    separate: tuple[Any, ...] = ("cluster.placement=separate", "sampler.sleep=none", "cluster.num_gpus=2")
    text = " ".join(problems(*separate, "cluster.gpu_memory_gib=12"))
    assert "raise sampler.gpus and sampler.tensor_parallel" in text and "colocated" not in text
