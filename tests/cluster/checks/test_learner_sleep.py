"""`learner.sleep`: what it is refused with, and the memory that moves from the GPU to the host."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.checks.dry_run import report
from cluster.checks.memory import limits
from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems
from cluster.checks.memory.rank import LEARNER_RUNTIME, reserved_memory, shared_card_need
from cluster.checks.memory.shape import GIB, shape_of
from cluster.checks.placement import sizes_of
from cluster.config import ConfigError, RunConfig, build_config, load_config
from cluster.config.learner_absent import unshared, without_learner
from cluster.config.learner_alone import NO_SAMPLING, learner_alone
from tests.cluster.config.test_one_card import QWEN3_06B, one_card
from tests.conftest import ROOT

P = QWEN3_06B.parameters
PRESET = ROOT / "cluster" / "presets" / "one-gpu.yaml"


def sleeping(sleep: str = "states", **changes: dict[str, Any]) -> RunConfig:
    learner = {"gpus_per_rank": 1, "zero_stage": 2, "sleep": sleep} | changes.pop("learner", {})
    return build_config(one_card(learner=learner, **changes))


@pytest.mark.parametrize("kind", ["cache", "weights"])
def test_ranks_sleep_where_samplers_do(kind: str) -> None:
    assert sleeping(sampler={"sleep": kind}).learner.sleep == "states"
    assert sleeping(learner={"lora": {"rank": 8}}).learner.sleep == "states"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"cluster": {"placement": "separate"}, "sampler": {"sleep": "none"}}, ("cluster.placement = colocated",)),
        ({"sampler": {"sleep": "none"}}, ("sampler.sleep = weights or cache",)),
        ({"queue": {"staleness": 1}}, ("sampler.sleep = weights needs queue.staleness = 0",)),
        ({"learner": {"zero_stage": 0}}, ("learner.zero_stage = 2 (is 0)", "set learner.zero_stage = 2")),
        ({"learner": {"zero_stage": 1}}, ("learner.zero_stage = 2 (is 1)", "set learner.zero_stage = 2")),
        ({"learner": {"zero_stage": 3}}, ("learner.zero_stage = 2 (is 3)", "set learner.zero_stage = 2")),
        ({"learner": {"offload": "optimizer"}}, ("learner.offload = optimizer keeps", "learner.offload = none")),
        ({"learner": {"optimizer": "adamw_8bit"}}, ("adamw_8bit", "set learner.optimizer = adamw, or")),
    ],
)
def test_what_cannot_sleep_is_refused(changes: dict[str, dict[str, Any]], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        sleeping(**changes)
    for part in (*parts, "sleep = none"):
        assert part in str(caught.value)


def test_a_learner_on_the_cpu_does_not_sleep() -> None:
    with pytest.raises(ConfigError, match=r"learner.sleep = states frees memory for a sampler on the same GPU"):
        build_config({"learner": {"sleep": "states", "zero_stage": 2}})


def test_a_job_with_one_role_does_not_sleep() -> None:
    """A replay, an evaluation and imitation, whose learner or samplers have the GPU alone."""
    run = sleeping()
    assert learner_alone(run, batch_size=8).learner.sleep == "none"
    assert unshared(run).learner.sleep == without_learner(run).learner.sleep == "none"
    assert load_config(PRESET, ["learner.sleep=states", "learner.zero_stage=2", *NO_SAMPLING]).learner.sleep == "none"


def kept(config: RunConfig) -> float:
    return reserved_memory(config, shape_of(config, QWEN3_06B))


def test_the_sampler_gets_the_memory_of_the_states_and_the_peak_stays() -> None:
    awake, asleep = sleeping("none"), sleeping()
    assert kept(awake) == pytest.approx(14 * P + GIB)  # bfloat16, its float32 copy, two moments; CUDA
    assert kept(asleep) == pytest.approx(2 * P + GIB)
    before, after = derive(awake, QWEN3_06B), derive(asleep, QWEN3_06B)
    assert before.learner_memory == after.learner_memory
    assert before.shape is not None and shared_card_need(awake, before.shape) == shared_card_need(asleep, before.shape)
    assert before.kv_cache is not None and after.kv_cache is not None
    assert after.kv_cache.sequences > before.kv_cache.sequences


def test_each_rank_moves_its_part_and_adapters_have_less_to_move() -> None:
    two: dict[str, Any] = {"learner": {"ranks": 2}, "actors": {"samplers": 2}}
    assert kept(sleeping("none", **two)) - kept(sleeping(**two)) == pytest.approx(12 * P / 2)
    lora: dict[str, Any] = {"learner": {"lora": {"rank": 8}}}
    adapters = shape_of(sleeping(**lora), QWEN3_06B)
    assert adapters is not None and adapters.trained < P / 50
    assert kept(sleeping("none", **lora)) - kept(sleeping(**lora)) == pytest.approx(12 * adapters.trained)


def test_the_host_holds_them_in_pinned_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 bytes for each weight are 2.2 GiB, for which torch pins 4 GiB."""
    monkeypatch.setattr(limits, "local_gpus", lambda: 1)
    config = sleeping()
    found = derive(config, QWEN3_06B)
    assert found.moved_memory == LEARNER_RUNTIME + 3 * 4 * GIB
    assert derive(sleeping("none"), QWEN3_06B).moved_memory == 0
    enough, little = (
        [line for line in memory_problems(config, found, QWEN3_06B, available=gib * GIB) if "learner.sleep" in line]
        for gib in (13, 12)
    )
    assert not enough
    assert "about 12.9 GiB of host memory" in little[0] and "has 12.0 GiB; set learner.sleep = none," in little[0]


def test_nodes_have_room_for_them() -> None:
    two: dict[str, Any] = {"learner": {"ranks": 2}, "actors": {"samplers": 2}}
    assert sizes_of(sleeping(**two), QWEN3_06B).learner == pytest.approx(0.9 + 3 * 2)
    assert sizes_of(sleeping("none", **two), QWEN3_06B).learner < 2


def test_the_dry_run_shows_both_memories() -> None:
    rows = dict(report(sleeping(), derive(sleeping(), QWEN3_06B)))
    assert rows["  kept while samplers work (learner.sleep)"] == "2.1 GiB"
    assert rows["host memory of one node while ranks sleep"] == "12.9 GiB"
    assert not any("sleep" in name for name in dict(report(sleeping("none"), derive(sleeping("none"), QWEN3_06B))))
