"""`bonrl sft` and replays have learner ranks only: what is counted, checked and warned about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.checks import dry_run, refusals
from cluster.checks.dry_run import warnings_of
from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.model_facts import ModelFacts
from cluster.checks.placement import sizes_of
from cluster.checks.ray_cluster import layout_problems, stated_problems
from cluster.commands.printing import print_dry_run
from cluster.config import ConfigError, RunConfig, load_config
from cluster.config.gpu_rules import gpus_wanted
from cluster.config.learner_alone import NO_SAMPLING, learner_alone, without_sampling
from cluster.errors import UsageError
from cluster.launch.demand import bundles, plan_run
from tests.cluster.checks.test_dry_run import write_model

PRESETS = Path(__file__).resolve().parents[3] / "cluster" / "presets"
QWEN25_7B = ModelFacts(7_615_616_512, 28, 3584, 152_064, 2 * 28 * 4 * 128, 32_768)


def imitating(preset: str, *overrides: str) -> RunConfig:
    return learner_alone(load_config(PRESETS / preset, [*overrides, *NO_SAMPLING]), batch_size=32)


def test_only_the_ranks_take_gpus_and_nodes() -> None:
    config = imitating("multinode.yaml")
    assert gpus_wanted(config) == config.learner.ranks
    sizes = sizes_of(config, None)
    assert sizes.learner > 0 == sizes.stored_weights
    assert {bundle.role for bundle in bundles(config, sizes)} == {"learner"}
    assert len(plan_run(config, sizes).nodes) < len(plan_run(load_config(PRESETS / "multinode.yaml"), sizes).nodes)
    one_card = imitating("one-gpu.yaml")
    assert (gpus_wanted(one_card), one_card.cluster.placement, one_card.sampler.sleep) == (1, "separate", "none")


def test_a_running_cluster_needs_room_for_the_ranks_only() -> None:
    config = imitating("8xh100.yaml", "sampler.gpus=2", "sampler.tensor_parallel=2", "cluster.num_gpus=null")
    node = {"CPU": 2.0, "GPU": 1.0}
    assert list(layout_problems(config, [node] * 4)) == [], "a sampler would need two GPUs of a node"
    problems = list(layout_problems(config, [node] * 3))
    assert len(problems) == 1 and "the layout takes 4 GPUs (learner.ranks x learner.gpus_per_rank)" in problems[0]


def test_a_stated_cluster_needs_room_for_the_ranks_only() -> None:
    """`cluster.num_cpus` and `cluster.num_gpus` are compared with what the command starts."""
    gpus = ("learner.ranks=8", "cluster.num_gpus=8")
    [problem] = stated_problems(load_config(PRESETS / "8xh100.yaml", gpus))
    assert "the layout takes 12 GPUs" in problem and "cluster.num_gpus = 8" in problem
    assert problem.endswith("lower one of them, or raise cluster.num_gpus")
    [problem] = stated_problems(load_config(PRESETS / "one-gpu.yaml", ["cluster.num_gpus=0"]))
    assert problem.startswith("the layout takes 1 GPU (")
    cpus = ("learner.ranks=2", "cluster.num_cpus=2")
    [problem] = stated_problems(load_config(PRESETS / "local.yaml", cpus))
    assert "the layout takes 4 CPUs (actors.samplers + actors.verifiers + learner.ranks)" in problem
    for preset, keys in (("8xh100.yaml", gpus), ("local.yaml", cpus)):
        assert list(stated_problems(imitating(preset, *keys))) == []
    [problem] = stated_problems(imitating("local.yaml", "learner.ranks=3", "cluster.num_cpus=2"))
    assert "the layout takes 3 CPUs (learner.ranks) but cluster.num_cpus = 2" in problem


def test_memory_is_that_of_the_ranks() -> None:
    """One GPU of 24 GB is too small for 7 B parameters; eight ranks under ZeRO-3 with 80 GB are not."""
    small = imitating("one-gpu.yaml", "loss.kl_coefficient=0.1")
    figures = derive(small, QWEN25_7B)
    assert (figures.sampler_memory, figures.kv_cache, figures.transit) == (None, None, None)
    assert figures.reference_memory == 0, "imitation has no KL"
    [problem] = memory_problems(small, figures, QWEN25_7B, available=1e12)
    assert problem.startswith("one learner rank needs about") and "one GPU has 24.0 GiB" in problem
    large = imitating("8xh100.yaml", "learner.ranks=8", "learner.zero_stage=3", "cluster.num_gpus=null")
    assert memory_problems(large, derive(large, QWEN25_7B), QWEN25_7B, available=1e12) == []
    assert memory_warnings(large, derive(large, QWEN25_7B)) == []


def test_a_cpu_job_counts_no_sampler_on_the_host() -> None:
    alone, run = imitating("local.yaml"), load_config(PRESETS / "local.yaml")
    mine, theirs = derive(alone, QWEN25_7B).host_memory, derive(run, QWEN25_7B).host_memory
    assert mine is not None and theirs is not None
    assert mine < theirs - 2 * 4 * QWEN25_7B.parameters, "vLLM's weights, twice"


def test_a_replay_counts_no_sampler() -> None:
    """It keeps what the learner does in the run: a reference model, and the groups of one step."""
    run = load_config(PRESETS / "local.yaml", ["loss.kl_coefficient=0.1", "queue.staleness=3"])
    mine, theirs = derive(without_sampling(run), QWEN25_7B), derive(run, QWEN25_7B)
    assert (mine.sampler_memory, mine.kv_cache, mine.transit) == (None, None, None)
    assert (mine.learner_memory, mine.reference_memory) == (theirs.learner_memory, theirs.reference_memory)
    assert (mine.samples_per_step, mine.group_memory) == (theirs.samples_per_step, theirs.group_memory / 4)
    assert (mine.cpus, theirs.cpus) == (1, 3)
    one_card = load_config(PRESETS / "one-gpu.yaml", ["actors.verifier_gpus=0.5"])
    assert (gpus_wanted(one_card), gpus_wanted(without_sampling(one_card))) == (2, 1)


def test_a_dry_run_of_a_replay_refuses_and_prints_nothing_of_samplers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache that no machine has, more GPUs than are stated, and problems that are not here, which a replay does not
    read."""
    monkeypatch.setattr("cluster.checks.earlier.replay_text", lambda config, source: "3 steps")
    monkeypatch.setattr(refusals, "model_problems", lambda config: [])
    monkeypatch.setattr(refusals, "loading_problems", lambda model: [])
    model = write_model(tmp_path / "model")
    overrides = [f"model.path={model}", "sampler.kv_cache_gib=4096", "cluster.num_cpus=1"]
    overrides += ["task.name=jsonl", "task.jsonl.train=gone.jsonl", "tracking=[]", f"run.directory={tmp_path}"]
    overrides += ["rollout.max_prompt_tokens=32", "rollout.max_response_tokens=16"]
    config = load_config(PRESETS / "local.yaml", overrides)
    with pytest.raises(UsageError) as refused:
        print_dry_run(config)
    for reason in ("the job needs about", "takes 3 CPUs", "gone.jsonl"):
        assert reason in str(refused.value)
    print_dry_run(config, list, replay=tmp_path)
    settings, _, figures = capsys.readouterr().out.partition("\nreplay")
    assert "kv_cache_gib: 4096" in settings, "the configuration that is recorded"
    assert "memory of one learner rank" in figures and "1 (one per learner rank)" in figures
    for absent in ("sampler", "slots", "staleness", "in transit", "unknown"):
        assert absent not in figures, absent


def test_training_on_the_cpu_next_to_a_gpu_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def warned() -> bool:
        return any("trains on the CPU next to a GPU" in line for line in warnings_of(imitating("local.yaml")))

    assert not warned()
    monkeypatch.setattr(dry_run, "local_gpus", lambda: 1)
    assert warned()


def test_a_missing_package_of_the_optimizer_is_found_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "optimizer_problems", lambda config: ["no bitsandbytes"])
    for check in ("machine_problems", "gpu_problems"):
        monkeypatch.setattr(refusals, check, lambda config, **_: [])
    with pytest.raises(UsageError, match="no bitsandbytes"):
        refusals.check_start(imitating("one-gpu.yaml"), new_run=False)


SAMPLING_ONLY = (
    *("model.dtype=bfloat16", "agreement.max_gap=0.001", "learner.warmup_steps=500", "run.steps=10"),
    *("sampler.threads=999", "sampler.max_model_len=400"),
)


def test_warnings_about_samplers_and_the_length_of_a_run_are_left_out(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")  # names no end token, without which imitation is refused elsewhere
    overrides = [*SAMPLING_ONLY, f"model.path={model}"]
    run = warnings_of(load_config(PRESETS / "local.yaml", overrides))
    for key in ("agreement.max_gap", "learner.warmup_steps", "sampler.threads", "end token"):
        assert any(key in line for line in run), key
    alone = imitating("local.yaml", *overrides)
    assert [line for line in warnings_of(alone, trains=False) if "bfloat16 on a processor" not in line] == []
    assert memory_problems(alone, derive(alone, QWEN25_7B), QWEN25_7B, available=1e12) == []


def test_a_sampler_that_the_model_does_not_fit_refuses_no_imitation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose heads vLLM cannot divide or compute, and a scorer and a sandbox that would grade samples."""
    monkeypatch.setattr(refusals, "scorer_problem", lambda config: ["no scorer"])
    monkeypatch.setattr(refusals, "sandbox_problem", lambda config: ["no sandbox"])
    monkeypatch.setattr(refusals, "model_problems", lambda config: [])
    monkeypatch.setattr(refusals, "loading_problems", lambda model: [])
    monkeypatch.setattr(refusals, "machine_problems", lambda config, **_: [])
    model = write_model(tmp_path / "model")
    settings = json.loads((model / "config.json").read_text()) | {"hidden_size": 400, "eos_token_id": 1}
    (model / "config.json").write_text(json.dumps(settings))
    overrides = [f"model.path={model}", "rollout.max_prompt_tokens=32", "rollout.max_response_tokens=16"]
    with pytest.raises(UsageError) as refused:
        refusals.check_start(load_config(PRESETS / "local.yaml", overrides), new_run=False)
    for reason in ("dimensions of its heads are rotated", "no scorer", "no sandbox"):
        assert reason in str(refused.value)
    assert refusals.check_start(imitating("local.yaml", *overrides), new_run=False)


@pytest.mark.parametrize(
    ("preset", "override", "reason"),
    [
        ("one-gpu.yaml", "learner.ranks=2", "as many samplers as learner ranks"),
        ("local.yaml", "sampler.max_model_len=8", "sampler.max_model_len = 8 is below"),
    ],
)
def test_samplers_break_no_rule_of_a_learner_alone(preset: str, override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config(PRESETS / preset, [override])
    imitating(preset, override)


@pytest.mark.parametrize("preset", sorted(path.name for path in PRESETS.glob("*.yaml")))
def test_every_preset_can_be_imitated_with(preset: str) -> None:
    learner = load_config(PRESETS / preset).learner
    assert gpus_wanted(imitating(preset)) == learner.ranks * learner.gpus_per_rank
