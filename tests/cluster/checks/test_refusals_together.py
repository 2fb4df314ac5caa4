"""Refusals of several parts of a run in one message, and of runs to resume or replay; also with `--dry-run`."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors.queue.snapshot import write_snapshot
from cluster.checks import refusals
from cluster.checks.earlier import group_problem, step_problems, waiting_problems
from cluster.checks.preflight import machine_problems
from cluster.checks.problems import Problems
from cluster.checks.refusals import sandbox_problem
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.records.checkpoints import ALLOCATION_FILE, QUEUE_FILE, Checkpoint
from learner.checkpoint_identity import identity_problem
from tests.actors.test_group import make_group
from tests.cluster.test_cli import run

__all__ = ["run"]

LENGTHS = {"rollout": {"max_prompt_tokens": 30, "max_response_tokens": 30}}
SMALL = ("task.train_size=8", "evaluation.prompts=2")


def test_independent_problems_are_listed_together(run) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run(
        *("train", "--dry-run", "model.path=docs", "task={name: jsonl, jsonl: {test: nowhere.jsonl}}"),
        *("cluster.address=127.0.0.1:1", "run.directory=/proc/x"),
    )
    assert status == 2
    for key in ("model.path", "task.jsonl.test", "cluster.address", "run.directory"):
        assert key in err


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.path=Qwen/Qwen3-4B", ("model.path", "hf download")),
        ("model.path=LICENSE", ("model.path = LICENSE", "a file")),
        ("sampler={gpus: 1}", ("sampler.gpus", "has 0")),
        ("cluster.num_cpus=1", ("cluster.num_cpus = 1", "actors.samplers")),
        ("cluster.object_store_mib=99999999", ("cluster.object_store_mib",)),
        ("evaluation.prompts=9999", ("evaluation.prompts = 9999", "task.validation_size = 512")),
        ("wandb={mode: online}", ("wandb.mode", "WANDB_API_KEY")),
        ("wandb={project: a/b}", ("wandb.project",)),
        ("wandb={tags: ['']}", ("wandb.tags",)),
        ("task.sandbox={level: L1, minimum_level: L3}", ("task.sandbox.level = L1", "task.sandbox.minimum_level = L3")),
    ],
)
def test_what_a_start_refuses_a_dry_run_refuses(
    run, override: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    status, _, err = run("train", "--dry-run", *SMALL, "evaluation.split=validation", override)
    assert status == 2 and "Traceback" not in err
    for part in parts:
        assert part in err


def test_unknown_keys_and_wrong_values_are_listed_together(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, _, err = run("train", "--dry-run", "objctive.k=3", "rollout.n=0", "learner.learning_rate=true")
    assert "objctive: unknown key" in err and "rollout.n = 0" in err and err.count("learner.learning_rate") == 1
    (tmp_path / "c.yaml").write_bytes(b"run: {name: caf\xe9}")
    assert "UTF-8" in run("train", "--dry-run", "--config", tmp_path / "c.yaml")[2]


def test_programs_need_the_level_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from verifiers.sandbox.executor import Executor, SandboxUnavailable

    def start(executor: Executor) -> None:
        raise SandboxUnavailable("task.sandbox.minimum_level is L3: not enforced")

    monkeypatch.setattr(Executor, "start", start)
    assert sandbox_problem(build_config({})) == []
    (problem,) = sandbox_problem(build_config({"task": {"name": "mbpp"}}))
    assert problem.startswith("task.sandbox.minimum_level")


@pytest.fixture
def earlier(repository: Path, tmp_path: Path) -> Path:
    """A run directory without a checkpoint."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    config = build_config(
        {
            "task": {"train_size": 8},
            "evaluation": {"prompts": 2, "split": "test"},
            "rollout": {"max_prompt_tokens": 30, "max_response_tokens": 30},
        }
    )
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config.to_mapping()))
    return tmp_path / "run"


@pytest.mark.slow
def test_runs_that_cannot_be_resumed_or_replayed(run, earlier: Path) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run("train", "--dry-run", "--resume", earlier)
    assert status == 2 and "no usable checkpoint" in err
    status, _, err = run("train", "--dry-run", "--resume", earlier, "rollout.prompts_per_step=3")
    assert status == 2 and "rollout.prompts_per_step = 3" in err
    status, _, err = run("train", "--dry-run", "--resume", earlier, "run.name=fork")
    assert status == 2 and "run.name = fork has no effect: --resume continues in" in err
    status, _, err = run("train", "--dry-run", "--replay", earlier)
    assert status == 2 and "no groups/step-000001.parquet" in err
    with (earlier / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = run("train", "--dry-run", "--resume", earlier)
    assert status == 2 and "is in use by" in err


def test_recorded_rewards_that_the_objective_cannot_take() -> None:
    config = build_config({"rollout": {"n": 2}, "objective": {"k": 1}})
    rows = [{"finish_reason": ["stop"] * 2, "temperature": 1.0, "reward": [0.5, 1.0]}]
    assert "pass_at_k cannot take" in str(group_problem(config, 0, rows))
    assert group_problem(config, 0, [rows[0] | {"reward": [0.0, 1.0]}]) is None
    other = build_config({"rollout": {"n": 2}, "objective": {"strategy": "max_at_k", "k": 1}})
    assert group_problem(other, 0, rows) is None
    assert "sampled with temperature 1, top_p 0.9" in str(group_problem(other, 0, [rows[0] | {"top_p": 0.9}]))


def test_groups_that_are_too_old_for_a_lower_staleness_are_refused_before_the_start(tmp_path: Path) -> None:
    ahead = {"version": 1, "entries": [[7, 1]]}  # of step 3, admitted two steps before
    write_snapshot(tmp_path / QUEUE_FILE, ahead, {7: make_group((1, 1)).to_record_batch()})
    for staleness, refused in ((0, True), (1, True), (2, False), (5, False)):
        rollout = {"n": 2, "prompts_per_step": 2}
        config = build_config({"rollout": rollout, "queue": {"staleness": staleness}, "objective": {"k": 1}})
        problems = [p for p in waiting_problems(config, tmp_path, Checkpoint(1, tmp_path)) if "staleness" in p]
        assert bool(problems) is refused, (staleness, problems)
        assert not refused or f"queue.staleness = {staleness}" in problems[0]


def test_groups_that_wait_without_a_choice_of_prompts_cannot_be_counted_as_chosen(tmp_path: Path) -> None:
    config = build_config(
        {"rollout": {"n": 2, "prompts_per_step": 2, "allocation": {"candidates": 2}}, "objective": {"k": 1}}
    )
    checkpoint = Checkpoint(1, tmp_path)
    state = {"version": 1, "entries": [[2, 1]]}
    write_snapshot(tmp_path / QUEUE_FILE, state, {2: make_group((1, 1)).to_record_batch()})
    [problem] = waiting_problems(config, tmp_path, checkpoint)
    assert "set rollout.allocation.candidates = 1 (is 2)" in problem
    (tmp_path / ALLOCATION_FILE).write_text("{}")
    assert not list(waiting_problems(config, tmp_path, checkpoint))


def test_a_run_beyond_its_last_step_has_nothing_to_resume(tmp_path: Path) -> None:
    config = build_config({"run": {"steps": 4}})
    (problem,) = step_problems(config, tmp_path, Checkpoint(5, tmp_path))
    assert problem.startswith("run.steps = 4, but --resume") and "after step 5: raise run.steps" in problem
    assert not list(step_problems(config, tmp_path, Checkpoint(4, tmp_path))), "its summary may be missing"


def test_the_first_differences_of_weights_are_named() -> None:
    ours = {"weights": [[f"w{i}", "torch.float32", [2, 3]] for i in range(900)]}
    theirs = {"weights": [[f"w{i}", "torch.float32", [2, 4]] for i in range(900)]}
    problem = str(identity_problem(theirs, ours))
    assert "w0 is float32 2 x 4 in it and float32 2 x 3 here" in problem
    assert "897 more" in problem and len(problem) < 400
    assert identity_problem(ours, json.loads(json.dumps(ours))) is None


@pytest.mark.parametrize("command", ["sft", "train-verifier", "grade"])
def test_outputs_that_cannot_be_made(run, command: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text(json.dumps({"id": 1, "prediction": "1", "reference": "1"}) + "\n")
    more = {
        "sft": [],
        "train-verifier": ["--samples", tmp_path / "file"],
        "grade": ["--verifier", "math", "--input", tmp_path / "file"],
    }
    status, _, err = run(command, "--output", tmp_path / "file" / "x", *more[command])
    assert status == 2 and "--output" in err and "is not a directory" in err


def test_backbones_and_samples_that_cannot_be_read(run, repository: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(repository / "models" / "countdown-base", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "some.jsonl").touch()
    command = ("train-verifier", "--output", tmp_path / "out", "--samples")
    status, _, err = run(*command, tmp_path / "some.jsonl", "--backbone", tmp_path / "model")
    assert status == 2 and "--backbone" in err and "damaged" in err
    status, _, err = run(*command, tmp_path / "none.jsonl")
    assert status == 2 and "--samples" in err and "none.jsonl" in err


def test_a_named_run_that_exists_is_refused_unless_nothing_is_written_to_it(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "config.yaml").write_text("{}")
    config = build_config({"run": {"directory": str(tmp_path), "name": "golden"}})
    assert "holds a run without a checkpoint" in " ".join(machine_problems(config))
    (tmp_path / "golden" / "checkpoints" / "step-000001").mkdir(parents=True)
    assert "holds a run already" in " ".join(machine_problems(config))
    with (tmp_path / "golden" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by" in " ".join(machine_problems(config))
    assert list(machine_problems(config, new_run=False)) == [], "`bonrl eval` of a checkpoint of that run"


def test_what_a_check_found_before_it_failed_is_kept() -> None:
    def check() -> Iterator[str]:
        yield "the first problem"
        raise UsageError("the second problem")

    problems = Problems()
    assert not problems.add(check)
    with pytest.raises(UsageError, match="the first problem\nthe second problem"):
        problems.refuse()


@pytest.mark.slow
def test_an_evaluation_needs_no_key_of_wandb_and_no_training_prompts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = build_config({"wandb": {"mode": "online"}, **LENGTHS})
    assert refusals.check_start(config, new_run=False)
    with pytest.raises(UsageError, match=r"wandb\.mode"):
        refusals.check_start(config, new_run=False, earlier=lambda: [])
    monkeypatch.setattr(refusals, "check_prompts", lambda *_, **__: pytest.fail("the training prompts were read"))
    with pytest.raises(UsageError, match=r"model\.path"):
        refusals.check_start(build_config({"model": {"path": "nowhere"}}), new_run=False)


def test_a_cluster_may_have_the_sandbox_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "sandbox_problem", lambda config: ["task.sandbox.minimum_level is L3: not enforced"])
    monkeypatch.setattr(refusals, "machine_problems", lambda config, **_: [])
    with pytest.raises(UsageError, match="minimum_level"):
        refusals.check_start(build_config(LENGTHS), new_run=False)
    found = refusals.check_start(build_config(LENGTHS | {"cluster": {"address": "127.0.0.1:1"}}), new_run=False)
    assert any("minimum_level" in warning for warning in found.warnings)


def test_a_verifier_is_looked_for_where_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration itself is read on other machines too: by submit, report and compare."""
    monkeypatch.setattr(refusals, "machine_problems", lambda config, **_: [])
    tree = LENGTHS | {"task": {"scorer": {"kind": "learned", "path": "/shared/none-such"}}}
    with pytest.raises(UsageError, match=r"task\.scorer\.path: /shared/none-such is not a trained verifier"):
        refusals.check_start(build_config(tree), new_run=False)
    elsewhere = build_config(tree | {"cluster": {"address": "127.0.0.1:1"}})
    with pytest.raises(UsageError, match=r"task\.scorer\.path"):
        refusals.check_start(elsewhere, new_run=False)
    found = refusals.check_start(elsewhere, new_run=False, dry_run=True)
    assert any("not a trained verifier" in warning for warning in found.warnings)
    with pytest.raises(UsageError, match=r"needs task\.scorer\.path"):
        build_config({"task": {"scorer": {"kind": "learned"}}})


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"hidden_size": "192"}, "config.json has hidden_size = '192'"),
        ("config.json", {"num_hidden_layers": [4]}, "config.json has num_hidden_layers = [4]"),
        ("config.json", {"architectures": []}, "config.json names no architecture"),
        ("tokenizer_config.json", {"chat_template": 5}, "tokenizer_config.json has chat_template = 5"),
    ],
)
def test_a_damaged_file_of_a_model_is_reported_once(  # type: ignore[no-untyped-def]
    run, repository: Path, tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(repository / "models" / "countdown-base", model)
    content = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**content, **change}))
    status, _, err = run("train", "--dry-run", f"model.path={model}", *SMALL)
    assert status == 2
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("bonrl: ")]) == 1


def test_the_tokenizer_of_a_sound_configuration_is_still_checked(run, repository: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "model"
    shutil.copytree(repository / "models" / "countdown-base", model)
    (model / "tokenizer.json").write_text("{")
    status, _, err = run("train", "--dry-run", f"model.path={model}", *SMALL)
    assert status == 2
    assert "tokenizer" in err


def test_a_task_that_is_not_there_is_refused_by_its_key(run) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run("train", "--dry-run", "task.name=nowhere.py:Task")
    assert status == 2
    assert "task.name = nowhere.py:Task: there is no file nowhere.py" in err
    assert "on a cluster every node needs it: `bonrl submit` packs it" in err
