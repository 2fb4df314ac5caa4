"""An evaluation and a recording start samplers and verifiers only: nothing of the learner is counted or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from cluster.checks.dry_run import report, warnings_of
from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.placement import sizes_of
from cluster.checks.ray_cluster import layout_problems, stated_problems
from cluster.commands import evaluate, train
from cluster.config import RunConfig, load_config
from cluster.config.gpu_rules import gpus_wanted
from cluster.config.learner_absent import without_learner
from cluster.launch.demand import bundles
from tests.cluster.checks.test_learner_alone import PRESETS, QWEN25_7B

LOCAL = PRESETS / "local.yaml"
MODEL = Path(__file__).resolve().parents[3] / "models" / "countdown-base"
MORE_RANKS = ["learner.ranks=4", "cluster.num_cpus=2"]


def sampling(preset: str, *overrides: str) -> RunConfig:
    return without_learner(load_config(PRESETS / preset, overrides))


def test_a_stated_cluster_needs_no_room_for_ranks() -> None:
    """Two CPUs for one sampler and one verifier worker are enough, and four GPUs for four samplers."""
    [problem] = stated_problems(load_config(LOCAL, MORE_RANKS))
    assert "the layout takes 6 CPUs" in problem
    assert list(stated_problems(sampling("local.yaml", *MORE_RANKS))) == []
    [problem] = stated_problems(sampling("local.yaml", "actors.verifiers=2", "cluster.num_cpus=2"))
    assert "takes 3 CPUs (actors.samplers + actors.verifiers) but cluster.num_cpus = 2" in problem
    config = sampling("8xh100.yaml", "cluster.num_gpus=4")
    assert list(stated_problems(config)) == [] and gpus_wanted(config) == 4
    [problem] = stated_problems(sampling("8xh100.yaml", "cluster.num_gpus=2"))
    assert "takes 4 GPUs (actors.samplers x sampler.gpus) but cluster.num_gpus = 2" in problem


def test_a_running_cluster_needs_no_room_for_ranks() -> None:
    config = sampling("8xh100.yaml", "cluster.num_gpus=null", "actors.verifiers=1")
    assert list(layout_problems(config, [{"CPU": 8.0, "GPU": 4.0}])) == []
    assert len(list(layout_problems(config, [{"CPU": 8.0, "GPU": 3.0}]))) == 1


@pytest.mark.parametrize("preset", sorted(path.name for path in PRESETS.glob("*.yaml")))
def test_every_preset_can_be_evaluated_with(preset: str) -> None:
    """Also one whose sampler shares its GPU with the learner; it then has the GPU for itself."""
    config = sampling(preset)
    found, sizes = derive(config, QWEN25_7B), sizes_of(config, QWEN25_7B)
    assert (found.learner_memory, found.loading_memory, found.transit) == (None, None, None)
    assert sizes.learner == 0 == sizes.shared_weights
    assert {bundle.role for bundle in bundles(config, sizes)} == {"sampler", "verifier"}
    assert config.cluster.placement == "separate" and config.sampler.sleep == "none"
    assert not any("rank" in f"{name} {value}" for name, value in report(config, derive(config, None)))


def test_memory_is_that_of_the_samplers() -> None:
    """7 B parameters that cannot be trained on one GPU of 24 GB can be sampled there, but not on one of 12 GB."""
    large, small = (sampling("one-gpu.yaml", f"cluster.gpu_memory_gib={gib}") for gib in (24, 12))
    assert memory_problems(large, derive(large, QWEN25_7B), QWEN25_7B, available=1e12) == []
    [problem] = memory_problems(small, derive(small, QWEN25_7B), QWEN25_7B, available=1e12)
    assert "the weights alone take 14.2 GiB" in problem
    few = sampling(
        "one-gpu.yaml",
        "cluster.gpu_memory_gib=20",
        "rollout.max_response_tokens=8000",
        "learner.tokens_per_micro_batch=16384",
    )
    assert any("less than one group" in line for line in memory_warnings(few, derive(few, QWEN25_7B)))
    run = load_config(LOCAL)
    mine, theirs = derive(without_learner(run), QWEN25_7B).host_memory, derive(run, QWEN25_7B).host_memory
    assert mine is not None and theirs is not None and mine < theirs - 16 * QWEN25_7B.parameters


def test_no_learner_on_the_cpu_is_warned_about() -> None:
    keys = ("learner.gpus_per_rank=0", "cluster.placement=separate", "sampler.sleep=none")
    assert any(
        "the learner trains on the CPU" in line for line in warnings_of(load_config(PRESETS / "8xh100.yaml", keys))
    )
    assert not any("learner" in line for line in warnings_of(sampling("8xh100.yaml", *keys), trains=False))


class Checked(typer.Exit):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config


def stop_at_check(config: RunConfig, *_: object, **__: object) -> None:
    raise Checked(config)


def test_the_commands_check_what_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bonrl eval` and `bonrl train --rollout-only`; a run itself is checked with its learner."""
    for command in (evaluate, train):
        monkeypatch.setattr(command, "check_start", stop_at_check)
    with pytest.raises(Checked) as stopped:
        evaluate.evaluate(MODEL, MORE_RANKS, config=[LOCAL])
    assert stopped.value.config.learner.ranks == 0
    for rollout_only, ranks in ((True, 0), (False, 4)):
        with pytest.raises(Checked) as stopped:
            train.train([*MORE_RANKS, f"model.path={MODEL}"], config=[LOCAL], rollout_only=rollout_only)
        assert stopped.value.config.learner.ranks == ranks
