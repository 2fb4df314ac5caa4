"""Two large layouts against arithmetic done by hand (docs/memory.md), and what is said about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.adapters import AdapterSizes
from cluster.checks.dry_run import report
from cluster.checks.memory import limits
from cluster.checks.memory.estimates import Derived, derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.memory.shape import GIB
from cluster.checks.model_facts import ModelFacts
from cluster.checks.model_notes import active_parameters, cache_is_bounded
from cluster.checks.placement import sizes_of
from cluster.config import RunConfig, load_config
from cluster.config.settings import ModelSettings
from tests.cluster.checks.test_dry_run import write_model

# Public facts: parameters, layers, width, vocabulary, 2 x layers x KV heads x head size, context, feed-forward width.
QWEN3_4B = ModelFacts(4_022_468_096, 36, 2560, 151_936, 2 * 36 * 8 * 128, 40_960, inner=9728)
GEMMA3_27B = ModelFacts(27_009_002_240, 62, 5376, 262_208, 2 * 62 * 16 * 128, 131_072, inner=21_504)
SMOLLM2_135M = ModelFacts(134_515_008, 30, 576, 49_152, 2 * 30 * 3 * 64, 8192, inner=1536)
EIGHT, THIRTY_TWO = "cluster/presets/8xh100.yaml", "cluster/presets/multinode.yaml"


def test_one_rank_holds_the_model_in_host_memory_while_it_is_loaded(repository: Path) -> None:
    stored = replace(QWEN3_4B, mapped={"bfloat16": QWEN3_4B.parameters})
    _, found = figures(repository, EIGHT, stored)
    assert found.loading_memory == near(8.04e9 + 4 * 0.97e9)
    _, with_reference = figures(repository, EIGHT, stored, "loss.kl_coefficient=0.01")
    assert with_reference.loading_memory == found.loading_memory
    _, converted = figures(repository, EIGHT, stored, "model.dtype=float32")
    assert converted.loading_memory == near(16.1e9 + 4 * 0.97e9)
    # Below ZeRO-3 every rank reads the reference: mapped pages are shared, copies are not.
    whole = "loss.kl_coefficient=0.01", "learner.zero_stage=2"
    _, shared = figures(repository, EIGHT, stored, *whole)
    assert shared.loading_memory == found.loading_memory
    _, copied = figures(repository, EIGHT, QWEN3_4B, *whole)
    assert copied.loading_memory == near(4 * (8.04e9 + 0.97e9))
    rows = dict(report(*figures(repository, EIGHT, None, *whole)))
    assert rows["host memory of one node while loading"].endswith(
        "rank 0 reads the model for all; every rank reads the KL reference"
    )


def test_ranks_on_cpus_keep_what_they_load(repository: Path) -> None:
    layout = "cluster/presets/local.yaml", QWEN3_4B, "learner.ranks=2"
    _, replicated = figures(repository, *layout)
    assert replicated.loading_memory == near(2 * (16.1e9 + 0.97e9))
    config, partitioned = figures(repository, *layout, "learner.zero_stage=3")
    assert partitioned.loading_memory == near(16.1e9 + 16.1e9 + 2 * 0.97e9), "what rank 0 reads, and the two parts"
    assert dict(report(config, partitioned))["host memory of one node while loading"].endswith(
        "rank 0 reads the model for all, each rank keeps its part"
    )


def figures(repository: Path, file: str, model: ModelFacts | None, *overrides: str) -> tuple[RunConfig, Derived]:
    config = load_config(repository / file, overrides)
    return config, derive(config, model)


def near(value: float) -> Any:
    return pytest.approx(value, rel=0.03)


def test_four_billion_on_eight_gpus(repository: Path) -> None:
    _, found = figures(repository, EIGHT, QWEN3_4B)
    # 18 bytes a parameter over 4 ranks 18.1e9, gathered 1.5e9, activations 3.8e9, a chunk of logits 3.2e9, its
    # gradients of the head 2.3e9, CUDA 1.1e9
    assert found.learner_memory == near(30.0e9)
    assert found.activation_memory == near(9.3e9)
    _, plain = figures(repository, EIGHT, QWEN3_4B, "learner.logits_chunk_mib=null")
    assert plain.activation_memory == near(19.5e9)  # all logits: 14.9e9; the head's gradient: 0.8e9
    assert found.loading_memory == near(8.04e9 + 4 * 0.97e9)
    # (0.85 x 80 GiB - 8.0e9 - 2 GiB) / (2560 tokens x 73,728 x 2 bytes)
    assert found.kv_cache and found.kv_cache.sequences == near(166) and found.kv_cache.wanted == 512
    assert found.transit and found.transit.shared_memory == near(8.04e9) and found.transit.object_store == 0
    assert found.transit.seconds == near(1.34 + 2.01 + 1.34 + 0.06)


@pytest.mark.parametrize(
    ("dtype", "rank", "sampler"),
    [
        # weights, Adam 12 bytes and the sum of gradients 4 bytes a parameter: 2.42e9; activations 30 layers x
        # (12 x 576 + 4 x 1536) x 1024 x 2 bytes 0.80e9, all logits 0.60e9, the head's gradient 0.06e9, a copy of the
        # gradients 0.54e9 next to all of it, process 0.97e9.
        ("bfloat16", 5.39e9, 2 * 0.27e9 + 1.07e9 + 0.07e9 + 0.03e9 + 1.72e9),
        # weights and Adam 12 bytes a parameter 1.61e9, gradients 0.54e9; activations 1.46e9, logits 0.60e9, the head's
        # gradient 0.11e9, a copy of the gradients 0.54e9, process 0.97e9.
        ("float32", 5.83e9, 2 * 0.54e9 + 1.07e9 + 0.13e9 + 0.03e9 + 1.72e9),
    ],
)
def test_a_small_model_on_cpus(repository: Path, dtype: str, rank: float, sampler: float) -> None:
    """Freed activations stay with the process, so that the copy of the gradients comes on top of them."""
    _, found = figures(repository, "cluster/presets/smollm2-math.yaml", SMOLLM2_135M, f"model.dtype={dtype}")
    assert found.learner_memory == near(rank) and found.sampler_memory == near(sampler)


def test_twenty_seven_billion_on_thirty_two_gpus(repository: Path) -> None:
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B)
    # 18 bytes a parameter over 16 ranks 30.4e9, gathered embedding 2.6e9, activations 10.4e9, a chunk of logits 0.8e9,
    # its gradients of the head 8.5e9, CUDA 1.1e9
    assert found.learner_memory == near(53.8e9)
    assert found.ranks_per_node == 8 and found.loading_memory == near(54.0e9 + 8 * 0.97e9)
    # (4 x 0.85 x 80 GiB - 54e9 - 4 x 2 GiB) / (4608 tokens x 253,952 x 2 bytes)
    assert found.kv_cache and found.kv_cache.sequences == near(98)
    assert found.transit and found.transit.shared_memory == near(108e9)  # two samplers of four GPUs on a node
    assert found.transit.object_store == near(54e9)
    assert found.transit.seconds == near(9 + 27 + 36 + 13.5 + 9)
    assert not memory_problems(config, found, None)


def test_broadcasts_pass_the_weights_on_and_rank_0_holds_a_copy(repository: Path) -> None:
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B, "broadcast.backend=nccl")
    # The copy, 54.0e9, is larger than the activations of a step, 19.7e9, and takes their place.
    assert found.learner_memory == near(53.8e9 - 19.7e9 + 54.0e9)
    assert found.transit and found.transit.shared_memory == found.transit.object_store == 0
    assert found.transit.seconds == near(18 + 0.06)  # once through the network, at 3e9
    assert found.shape
    rows = dict(report(config, replace(found, shape=replace(found.shape, assumed=True))))  # the model is not here
    assert rows["weights in transit, one node"] == "50.3 GiB in the memory of learner rank 0 (GPU)"
    assert not memory_problems(config, found, None), "82 of 80 GiB is within the error of the estimate"
    warnings = [line for line in memory_warnings(config, found) if "the weights of an update 50.3 GiB" in line]
    assert len(warnings) == 1 and "set broadcast.backend = host" in warnings[0]
    _, one_node = figures(repository, EIGHT, QWEN3_4B, "broadcast.backend=nccl")
    assert one_node.transit and one_node.transit.seconds == near(1.34 + 0.06)


def test_adapters_take_optimizer_state_and_the_frozen_model_does_not(repository: Path) -> None:
    config = load_config(
        repository / EIGHT, ["learner.lora.rank=16", "learner.zero_stage=0", "loss.kl_coefficient=0.1"]
    )
    # Per layer: q, k, v, o and the three of the feed-forward part have 57,344 inputs and outputs together.
    adapters = AdapterSizes(trained=36 * 16 * 57_344, sent=36 * 100_925_440)
    found = derive(config, QWEN3_4B, adapters)
    # weights 2 bytes of 4.022e9 + 0.033e9; gradients and optimizer 16 bytes of 0.033e9; activations 3.8e9,
    # a chunk of logits 3.2e9, no gradient of the head, CUDA 1.07e9
    assert found.learner_memory == near(8.11e9 + 0.53e9 + 3.8e9 + 3.2e9 + 1.07e9)
    assert found.reference_memory == 0, "the frozen model is the reference"
    assert found.transit and found.transit.shared_memory == near(2 * 36 * 100_925_440)
    assumed = derive(config.model_copy(update={"model": ModelSettings(parameters_billions=4)}), None).shape
    assert assumed and assumed.trained < assumed.parameters / 50 and assumed.sent < assumed.parameters


def test_a_dry_run_says_that_only_adapters_are_sent(repository: Path) -> None:
    config = load_config(repository / EIGHT, ["learner.lora={rank: 16, send: adapters}"])
    trained = 36 * 16 * 57_344
    found = derive(config, QWEN3_4B, AdapterSizes(trained, trained))
    assert found.transit and found.transit.shared_memory == 2 * trained
    assumed = derive(config.model_copy(update={"model": ModelSettings(parameters_billions=4)}), None)
    assert assumed.shape and assumed.shape.sent == assumed.shape.trained
    assert dict(report(config, assumed))["  weights of one update"] == f"{assumed.shape.sent:,}, the adapters"


def test_reference_model_is_partitioned_as_the_weights_are(repository: Path) -> None:
    kl = "loss.kl_coefficient=0.01"
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B, kl)
    # A sixteenth of 54e9, and the embedding, 2.82e9, gathered from 15 other ranks
    assert found.reference_memory == near(3.38e9 + 2.64e9) and found.learner_memory == near(53.8e9 + 6.0e9)
    assert found.loading_memory == near(54.0e9 + 8 * 0.97e9)
    assert not memory_problems(config, found, None)
    rows = dict(report(*figures(repository, THIRTY_TWO, None, kl)))
    assert rows["  reference model of the KL"].endswith("GiB, partitioned over the ranks")
    config, whole = figures(repository, THIRTY_TWO, GEMMA3_27B, kl, "learner.zero_stage=2")
    assert whole.reference_memory == near(54e9)
    (problem,) = memory_problems(config, whole, None)
    assert "50.3 GiB, whole on every rank" in problem and "set loss.kl_coefficient = 0" in problem
    _, rewarded = figures(repository, THIRTY_TWO, GEMMA3_27B, kl, "loss.kl_placement=reward")
    assert rewarded.reference_memory == found.reference_memory
    _, scheduled = figures(repository, THIRTY_TWO, GEMMA3_27B, "schedule.kl={start: 0.1, end: 0.0}")
    assert scheduled.reference_memory == found.reference_memory
    _, offloaded = figures(repository, THIRTY_TWO, GEMMA3_27B, kl, "learner.offload=all")
    assert offloaded.reference_memory == near(2.64e9), "its part is in host memory"
    assert offloaded.loading_memory == near(54.0e9 + 8 * 0.97e9 + 2 * 27.0e9)
    assert offloaded.moved_memory == near(8 * (0.97e9 + (16 + 2 + 2) * 27.0e9 / 16)), "the reference is there too"


def test_what_is_offloaded_takes_host_memory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bytes for each trained weight: it, its gradient and two moments in float32."""
    monkeypatch.setattr(limits, "local_gpus", lambda: 8)
    config, found = figures(repository, EIGHT, QWEN3_4B, "learner.offload=optimizer")
    assert found.moved_memory == near(16 * 4.02e9 + 4 * 0.97e9)
    rows = dict(report(*figures(repository, EIGHT, None, "learner.offload=optimizer")))
    assert rows["host memory of one node, learner.offload"].endswith(" GiB")
    assert not memory_problems(config, found, QWEN3_4B, available=64 * GIB)
    [problem] = memory_problems(config, found, QWEN3_4B, available=63 * GIB)
    assert "learner.offload = optimizer takes about 63.5 GiB of host memory with learner.ranks = 4" in problem
    assert "has 63.0 GiB; set learner.offload = none, or train adapters" in problem
    config, none = figures(repository, EIGHT, QWEN3_4B)
    assert none.moved_memory == 0
    config, spread = figures(repository, THIRTY_TWO, GEMMA3_27B, "learner.offload=optimizer")
    assert sizes_of(config, GEMMA3_27B).learner == near(0.9 + 27.0 * 1e9 / GIB), "of one of 16 ranks"


@pytest.mark.parametrize(("file", "model"), [(EIGHT, QWEN3_4B), (THIRTY_TWO, GEMMA3_27B)])
def test_without_the_model_the_shape_is_assumed_and_said(repository: Path, file: str, model: ModelFacts) -> None:
    config, guessed = figures(repository, file, None)
    _, known = figures(repository, file, model)
    assert guessed.learner_memory and known.learner_memory and guessed.activation_memory and known.activation_memory
    assert 0.8 < guessed.activation_memory / known.activation_memory < 2
    assert 0.8 < guessed.learner_memory / known.learner_memory < 1.6
    rows = dict(report(config, guessed))
    assert rows["model shape"].startswith("assumed: ") and "vocabulary 262,144" in rows["model shape"]
    assert not memory_problems(config, guessed, None)


def test_what_only_an_assumed_shape_exceeds_is_a_warning(repository: Path) -> None:
    overrides = "learner.tokens_per_micro_batch=30000", "learner.activation_checkpointing=false"
    config, guessed = figures(repository, EIGHT, None, *overrides)
    assert not memory_problems(config, guessed, None)
    (warning,) = memory_warnings(config, guessed)
    assert "assumed shape" in warning and "learner.tokens_per_micro_batch" in warning
    config, known = figures(repository, EIGHT, QWEN3_4B, *overrides)
    (problem,) = memory_problems(config, known, None)
    assert "learner.activation_checkpointing" in problem


def test_gpus_without_room_for_one_sequence_are_refused(repository: Path) -> None:
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B, "sampler.gpu_memory_utilization=0.18")
    (problem,) = memory_problems(config, found, None)
    assert "key-value cache of one sequence of 4608 tokens" in problem and "sampler.tensor_parallel" in problem


def test_a_cache_below_one_group_is_warned_about(repository: Path) -> None:
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B, "rollout.n=128")
    (warning,) = memory_warnings(config, found)
    assert "less than one group of rollout.n = 128" in warning and "sampler.gpus" in warning


def test_an_update_slower_than_its_deadline_is_warned_about(repository: Path) -> None:
    config, found = figures(repository, THIRTY_TWO, GEMMA3_27B, "deadlines.broadcast_s=60")
    (warning,) = memory_warnings(config, found)
    assert "deadlines.broadcast_s = 60" in warning


def test_weights_in_transit_must_fit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.checks.memory import limits

    model = ModelFacts(500_000_000, 24, 1024, 32_000, 4096, 4096)
    config, found = figures(repository, "cluster/presets/local.yaml", model)
    assert found.transit and found.transit.shared_memory == 2e9
    monkeypatch.setattr(limits, "_free_shared_memory", lambda: 64.0 * 2**20)  # a container's default
    (problem,) = memory_problems(config, found, None, available=1e12)
    assert "--shm-size" in problem and "64.0 MiB" in problem
    config, found = figures(repository, "cluster/presets/local.yaml", model, "broadcast.transport=object_store")
    monkeypatch.setattr(limits, "_free_shared_memory", lambda: 1e12)
    (problem,) = memory_problems(config, found, None, available=1e12)
    assert "cluster.object_store_mib = 512" in problem and "broadcast.transport = auto" in problem


def test_ranks_that_load_at_once_must_fit_the_host(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.checks.memory import limits

    monkeypatch.setattr(limits, "local_gpus", lambda: 8)
    monkeypatch.setattr(limits, "_free_shared_memory", lambda: 1e12)
    config, found = figures(repository, EIGHT, QWEN3_4B)
    assert not memory_problems(config, found, None, available=12 * GIB)
    (problem,) = memory_problems(config, found, None, available=8 * GIB)
    assert "rank 0 reads the model for all" in problem and "whose files have model.dtype" in problem
    config, found = figures(repository, EIGHT, QWEN3_4B, "loss.kl_coefficient=0.01", "learner.zero_stage=2")
    (problem,) = memory_problems(config, found, None, available=12 * GIB)
    assert "every rank reads the KL reference" in problem and "set learner.zero_stage = 3" in problem
    monkeypatch.setattr(limits, "local_gpus", lambda: 0)  # a laptop on which the layout is only looked at
    assert not memory_problems(config, found, None, available=8 * GIB)


def test_experts_and_windows_are_named(tmp_path: Path) -> None:
    text = {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 10}
    text |= {"num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 1}
    shapes = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": [8, 8] for i in range(4)} | {"embed": [10, 8]}
    sparse = write_model(tmp_path / "moe", text, shapes)
    assert active_parameters(sparse) == 80 + 64
    dense = write_model(tmp_path / "dense")
    assert active_parameters(dense) is None and not cache_is_bounded(dense)
    settings = json.loads((dense / "config.json").read_text())
    for extra, bounded in (
        ({"sliding_window": 16}, True),
        ({"sliding_window": 16, "use_sliding_window": False}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"layer_types": ["full_attention"] * 2, "sliding_window": 16}, False),
        ({"mamba_d_state": 16}, True),
    ):
        (dense / "config.json").write_text(json.dumps(settings | extra))
        assert cache_is_bounded(dense) is bounded, extra
