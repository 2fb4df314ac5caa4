"""Sampler and learner on one card: what fits together, how the memory is split, and what is warned about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.card_memory import OWN_CARD, utilization
from actors.settings import SamplerSettings
from cluster.checks import dry_run, preflight
from cluster.checks.dry_run import warnings_of
from cluster.checks.memory import card
from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.memory.rank import reserved_memory, shared_card_need
from cluster.checks.memory.shape import GIB, shape_of
from cluster.checks.model_facts import ModelFacts
from cluster.config import ConfigError, RunConfig, build_config, load_config
from cluster.config.gpu_rules import gpus_wanted
from cluster.launch.demand import Sizes, bundles

# Public facts: parameters, layers, width, vocabulary, 2 x layers x KV heads x head size.
QWEN3_06B = ModelFacts(596_049_920, 28, 1024, 151_936, 2 * 28 * 8 * 128, 40_960)


def one_card(**changes: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, dict[str, Any]] = {
        "model": {"dtype": "bfloat16"},
        "sampler": {"gpus": 1, "sleep": "weights"},
        "learner": {"gpus_per_rank": 1, "zero_stage": 1},
        "cluster": {"placement": "colocated"},
    }
    return {name: tree.get(name, {}) | changes.get(name, {}) for name in tree | changes}


def test_a_sampler_and_a_rank_share_each_card() -> None:
    config = build_config(one_card(actors={"samplers": 2}, learner={"ranks": 2}))
    assert gpus_wanted(config) == 2
    assert sum(bundle.gpus for bundle in bundles(config, Sizes())) == 2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sampler": {"gpus": 0}}, ("cluster.placement = colocated", "sampler.gpus = 0")),
        ({"sampler": {"gpus": 2, "tensor_parallel": 2}}, ("cluster.placement = colocated", "sampler.gpus = 2")),
        ({"learner": {"gpus_per_rank": 0}}, ("cluster.placement = colocated", "learner.gpus_per_rank = 0")),
        ({"actors": {"samplers": 2}}, ("actors.samplers is 2 to 2", "learner.ranks = 1")),
        ({"actors": {"samplers": {"min": 1, "max": 2}}}, ("actors.samplers is 1 to 2",)),
        ({"queue": {"staleness": 1}}, ("sampler.sleep = weights", "queue.staleness = 0 (is 1)")),
        ({"cluster": {"placement": "separate"}}, ("sampler.sleep = weights", "cluster.placement = colocated")),
        ({"learner": {"offload": "optimizer", "zero_stage": 0}}, ("learner.offload = optimizer", "1 or more (is 0)")),
        ({"learner": {"offload": "all", "zero_stage": 2}}, ("learner.offload = all", "learner.zero_stage = 3 (is 2)")),
        ({"learner": {"offload": "optimizer", "optimizer": "adamw_8bit"}}, ("adamw_8bit", "learner.offload = none")),
    ],
)
def test_what_cannot_work_on_one_card_is_refused(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(one_card(**changes))
    for part in parts:
        assert part in str(caught.value)


def test_settings_for_gpus_are_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"sampler.sleep = cache: vLLM frees no memory on the CPU"):
        build_config({"sampler": {"sleep": "cache"}})
    with pytest.raises(ConfigError, match=r"learner.offload = optimizer moves memory off a GPU"):
        build_config({"learner": {"offload": "optimizer", "zero_stage": 1}})
    with pytest.raises(ConfigError, match=r"adamw_8bit runs on a GPU"):
        build_config({"learner": {"optimizer": "adamw_8bit"}})


def test_a_back_end_that_cannot_work_is_refused() -> None:
    assert build_config(one_card()).broadcast.chosen_backend == "host"
    assert build_config(one_card(broadcast={"backend": "ipc"})).broadcast.chosen_backend == "ipc"
    assert build_config({"broadcast": {"backend": "nccl"}}).broadcast.chosen_backend == "nccl"
    with pytest.raises(ConfigError, match=r"nccl cannot join two processes on one GPU.* use broadcast.backend = host"):
        build_config(one_card(broadcast={"backend": "nccl"}))
    for gpus, per_rank in ((1, 0), (0, 1)):
        message = rf"or both on CPUs, but sampler.gpus = {gpus} and learner.gpus_per_rank = {per_rank}; use .* = host"
        with pytest.raises(ConfigError, match=message):
            build_config(
                {
                    "broadcast": {"backend": "nccl"},
                    "sampler": {"gpus": gpus},
                    "learner": {"gpus_per_rank": per_rank},
                    "model": {"dtype": "bfloat16"},
                }
            )
    pairs = one_card(broadcast={"backend": "ipc"}, actors={"samplers": 2}, learner={"ranks": 2})
    for tree in ({"broadcast": {"backend": "ipc"}}, pairs):
        with pytest.raises(ConfigError, match=r"broadcast.backend = ipc needs .* learner.ranks = 1"):
            build_config(tree)


def test_buckets_on_the_card_are_counted() -> None:
    host, ipc = (build_config(one_card(broadcast={"backend": name})) for name in ("host", "ipc"))
    assert split(ipc)[0] == pytest.approx(split(host)[0] + 2 * 596_049_920)
    transit = derive(ipc, QWEN3_06B).transit
    assert transit is not None and transit.shared_memory == transit.object_store == 0


def test_the_share_of_a_card_follows_from_what_the_learner_keeps() -> None:
    card_bytes = 24 * GIB
    assert utilization(SamplerSettings(), card_bytes, 0.0) == OWN_CARD
    assert utilization(SamplerSettings(), card_bytes, 12 * GIB) == 0.47
    assert utilization(SamplerSettings(), card_bytes, 30 * GIB) == 0.0
    assert utilization(SamplerSettings(gpu_memory_utilization=0.3), card_bytes, 12 * GIB) == 0.3


def split(config: RunConfig) -> tuple[float, float]:
    """(bytes that the learner keeps while the engine samples, share of the card for the engine)."""
    reserved = reserved_memory(config, shape_of(config, QWEN3_06B))
    return reserved, utilization(config.sampler, card.card_bytes(config), reserved)


def test_a_sleeping_sampler_gets_the_memory_of_the_activations() -> None:
    size = {"gpu_memory_gib": 24}
    asleep, awake = (
        build_config(one_card(sampler={"gpus": 1, "sleep": kind}, cluster=size)) for kind in ("weights", "none")
    )
    parameters, activations = 596_049_920, derive(asleep, QWEN3_06B).activation_memory
    assert activations is not None
    kept, share = split(asleep)
    assert kept == pytest.approx(18 * parameters + GIB)  # bfloat16, its float32 copy, gradient, two moments; CUDA
    assert share == pytest.approx(0.97 - kept / (24 * GIB), abs=1e-3)
    kept_awake, share_awake = split(awake)
    assert kept_awake == pytest.approx(kept + activations) and share_awake < share
    offloaded = build_config(one_card(learner={"offload": "optimizer"}, cluster=size))
    one_gradient = 2 * 151_936 * 1024  # of the embedding, on its way to the host
    assert split(offloaded)[0] == pytest.approx(2 * parameters + one_gradient + GIB)
    peak = derive(offloaded, QWEN3_06B).learner_memory
    # While the learner works: the sums in float32, and the same again for the reduction
    assert peak == pytest.approx(split(offloaded)[0] + 8 * parameters + activations)
    small = build_config(one_card(learner={"optimizer": "adamw_8bit"}, cluster=size))
    assert split(small)[0] == pytest.approx(12 * parameters + GIB)


def test_a_card_too_small_for_both_is_refused() -> None:
    large = build_config(one_card(sampler={"gpus": 1, "sleep": "none"}))
    figures = derive(large, QWEN3_06B)
    assert figures.shape is not None and figures.learner_memory is not None
    fits_one = (figures.learner_memory + shared_card_need(large, figures.shape)) / 2 / GIB
    config = build_config(one_card(cluster={"gpu_memory_gib": fits_one}, sampler={"gpus": 1, "sleep": "none"}))
    figures = derive(config, QWEN3_06B)
    found = memory_problems(config, figures, None, available=1e12) + memory_warnings(config, figures)
    assert any("cluster.placement = colocated" in line and "sampler.sleep = weights" in line for line in found)


@pytest.mark.parametrize("gib", [24, 80])
def test_the_preset_fits_both_sizes(repository: Path, gib: int) -> None:
    config = load_config(repository / "cluster" / "presets" / "one-gpu.yaml", [f"cluster.gpu_memory_gib={gib}"])
    figures = derive(config, QWEN3_06B)
    assert memory_problems(config, figures, QWEN3_06B, available=1e12) == []
    assert figures.kv_cache is not None and figures.kv_cache.sequences >= config.rollout.n


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with two GPUs, of which only nvidia-smi knows, as in some virtual machines."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "case $1 in\n"
        "*memory*) printf '0, GPU-aa11, 81559\\n1, GPU-bb22, 24564\\n';;\n"
        "*) printf '0\\n1\\n';;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(card, "_DRIVER_FOLDER", tmp_path / "none")
    card._query.cache_clear()
    yield program
    card._query.cache_clear()


def test_the_card_is_asked(nvidia_smi: Path) -> None:
    assert card.local_gpus() == 2
    assert card.card_bytes(build_config({})) == 24564 * 2**20
    assert card.card_bytes(build_config({"cluster": {"gpu_memory_gib": 10}})) == 10 * GIB
    assert card.card_bytes(build_config({"cluster": {"address": "auto"}})) == 80 * GIB, "of other machines"
    nvidia_smi.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    card._query.cache_clear()
    assert card.local_gpus() == 0
    assert card.card_bytes(build_config({})) == 80 * GIB


@pytest.mark.parametrize(
    ("visible", "count", "mib"),
    [("0", 1, 81559), ("1,0", 2, 24564), ("GPU-aa", 1, 81559), ("", 0, None), ("-1", 0, None), ("MIG-1", 1, None)],
)
def test_only_visible_cards_count(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int, mib: int | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert card.local_gpus() == count
    assert card.local_card_bytes() == (mib and mib * 2**20)


def test_an_unused_gpu_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(**tree: Any) -> str:
        return "\n".join(warnings_of(build_config(tree)))

    assert "the learner trains on the CPU" in warned(sampler={"gpus": 1})
    assert "the samplers work on the CPU" in warned(learner={"gpus_per_rank": 1})
    assert "GPU" not in warned()
    monkeypatch.setattr(dry_run, "local_gpus", lambda: 1)
    assert "this machine has 1 GPU, and the layout uses none" in warned()
    assert "layout uses none" not in warned(**one_card())


@pytest.mark.usefixtures("nvidia_smi")
def test_a_stated_memory_far_below_that_of_the_gpu_is_warned_about() -> None:
    def warned(gib: float | None, **cluster: Any) -> bool:
        tree = one_card(cluster={"gpu_memory_gib": gib, **cluster})
        return any("set cluster.gpu_memory_gib=null" in line for line in warnings_of(build_config(tree)))

    assert warned(19) and not warned(24) and not warned(None)
    assert not warned(19, address="auto"), "of other machines"


def test_a_missing_package_for_the_optimizer_is_named() -> None:
    config = build_config(one_card(learner={"optimizer": "adamw_8bit"}))
    assert any("pip install bitsandbytes" in problem for problem in preflight.optimizer_problems(config))
    assert not list(preflight.optimizer_problems(build_config({})))
