"""The command line: what it prints, and exit status 2 with one message for everything the user can correct."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster import cli
from cluster.commands.options import DEFAULT_CONFIG
from cluster.config import RunConfig
from cluster.config.settings import ModelSettings
from cluster.errors import UsageError
from cluster.records.model_source import resolve_model
from tests.cluster.checks.test_dry_run import write_model

FEW = ("task.train_size=64", "evaluation.prompts=8")  # prompts, so that a test takes no second


def bonrl(*arguments: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run the command line in this process; (exit status, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["bonrl", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capfd.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, repository: Path):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(repository)
    return lambda *arguments: bonrl(*map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "8xh100", "multinode", "one-gpu", "smollm2-math"])
def test_shipped_configurations_pass_a_dry_run(run, name: str) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("train", "--config", f"cluster/presets/{name}.yaml", "--dry-run")
    assert status == 0, err
    resolved = yaml.safe_load(out[: out.index("\ngroups in flight")])
    missing = not Path(resolved["model"]["path"]).is_dir()
    assert ("not on this machine" in err) == missing
    for figure in ("groups in flight (slots)", "staleness bound", "tokens per step", "memory of one learner rank"):
        assert figure in out
    assert "unknown" not in out


def test_dry_run_shows_overrides_and_derived_figures(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run(
        "train",
        "--config",
        "cluster/presets/local.yaml",
        "--dry-run",
        "rollout.prompts_per_step=16",
        "queue.staleness=2",
        "queue.overtake=1",
        "task.train_size=64",
        "task.validation_size=8",
        "evaluation.prompts=8",
    )
    assert "48 = (staleness + 1) x prompts_per_step" in out
    assert "3 optimizer steps" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["train", "--config", "cluster/presets/local.yaml", "objective.kk=3"], ["did you mean objective.k?"]),
        (["train", "--config", "cluster/presets/local.yaml", "objective.k=64"], ["objective.k = 64", "rollout.n = 16"]),
        (["train", "--config", "cluster/presets/local.yaml", "model.path=nowhere", *FEW], ["model.path = nowhere"]),
        (
            ["train", "--config", "cluster/presets/local.yaml", "run.directory=LICENSE/x", *FEW],
            ["run.directory", "not a directory"],
        ),
        (
            [
                "train",
                "--config",
                "cluster/presets/local.yaml",
                "rollout.n=4096",
                "rollout.prompts_per_step=4096",
                *FEW,
            ],
            ["rollout.n = 4096", "cluster.object_store_mib"],
        ),
        (["train", "--config", "cluster/presets/local.yaml", "sampler.kv_cache_gib=4000", *FEW], ["this machine has"]),
        (["train", "--config", "cluster/presets/local.yaml", "--resume", "runs/x"], ["--resume", "--config"]),
        (["train", "--resume", "nowhere"], ["--resume nowhere", "no config.yaml"]),
        (["eval", "runs/a", "--n", "4"], ["bonrl eval --checkpoint runs/a"]),
        (["eval", "--n", "4", "evaluation.split=test", "runs/a"], ["bonrl eval --checkpoint runs/a"]),
        (["export", "--best", "--to", "model", "runs/a"], ["bonrl export --checkpoint runs/a"]),
        (["export", "my runs/a", "--to", "model"], ["bonrl export --checkpoint 'my runs/a'"]),
        (["eval", "--checkpoint", "nowhere"], ["--checkpoint nowhere", "does not exist"]),
        (["eval", "--checkpoint", "docs"], ["neither a run, nor a checkpoint"]),
        (["eval", "--checkpoint", "models/countdown-base", "-t", "0.001"], ["--temperature 0.001", "0 (greedy)"]),
        (["eval", "--checkpoint", "models/countdown-base", "--n", "4", "-t", "-1"], ["--temperature -1"]),
        (["train", "--rollout.n=8"], ["--rollout.n=8", "rollout.n=8"]),
        (["train", "--rollout.n", "8"], ["rollout.n=VALUE"]),
        (["train", "+rollout.n=8"], ["rollout.n=8"]),
        (["train", "evaluation.n=4"], ["evaluation.n = 4", "objective.k = 8"]),
        (["grade", "--verifier", "math", "-i", "a", "-o", "b", "task.options.a=1"], ["math has options instead"]),
        (
            ["grade", "--verifier", "a.py:f", "-i", "a", "-o", "b", "run.steps=3"],
            ["only task.options, task.jsonl.problem, task.jsonl.answer and the settings of the reward"],
        ),
        (["export", "--checkpoint", "models/countdown-base", "--to", "docs"], ["--to docs", "exists already"]),
        (["sft", "--output", "docs"], ["--output docs", "exists already"]),
        (["sft", "--output", "nowhere", "--learning-rate", "0"], ["--learning-rate", "above 0 and finite"]),
        (["sft", "--output", "nowhere", "--learning-rate", "nan"], ["--learning-rate", "above 0 and finite"]),
        (["sft", "--output", "nowhere"], ["--learning-rate is missing", "1e-5", "learner.lora"]),
        (["sft", "--output", "nowhere", "--objective", "bon_sft"], ["--learning-rate is missing"]),
        (
            ["sft", "--new", "--output", "nowhere", "learner.gpus_per_rank=1", "learner.ranks=3"],
            ["takes 3 GPUs (learner.ranks x learner.gpus_per_rank) but this machine has 0"],
        ),
        (
            ["sft", "--new", "--output", "nowhere", "learner.ranks=3", "cluster.num_cpus=2"],
            ["3 CPUs (learner.ranks) but cluster.num_cpus = 2"],
        ),
        (["sft", "--output", "nowhere", "--resume"], ["no unfinished `bonrl sft --output nowhere`"]),
        (["sft", "--output", "nowhere", "--resume", "--steps", "5"], ["leave --steps out"]),
        (["sft", "--output", "nowhere", "--resume", "-c", "cluster/presets/local.yaml"], ["leave --config out"]),
        (["sft", "--output", "nowhere", "--resume", "--objective", "bon_sft"], ["bonrl train --resume"]),
        (
            ["sft", "--output", "docs", "objective.imitation=bon_sft"],
            ["objective.imitation = 'bon_sft'", "--objective"],
        ),
        (["sft", "--output", "docs", "run.steps=5"], ["run.steps = 5", "--steps"]),
        (["sft", "--output", "docs", "objective.k=4"], ["override of objective", "--objective bon_sft"]),
        (
            ["sft", "--output", "docs", "rollout={prompts_per_step: 8}"],
            ["rollout.prompts_per_step = 8", "--batch-size"],
        ),
        (
            ["sft", "--output", "docs", "--objective", "bon_sft", "objective.imitation=none", "run.steps=5"],
            ["objective.imitation = 'none'", "--objective", "run.steps = 5", "--steps"],
        ),
        (
            ["sft", "--output", "docs", "--objective", "bon_sft", "learner.learning_rate=1e-3"],
            ["learner.learning_rate = '1e-3'", "--learning-rate"],
        ),
        (["submit", "--address", "127.0.0.1:1", "run.directory=/shared/runs"], ["no cluster answers"]),
        (["submit", "--address", "127.0.0.1:1"], ["run.directory = runs", "absolute path"]),
        (["submit", "--address", "ftp://x", "run.directory=/shared/runs"], ["http://HOST:8265"]),
    ],
)
def test_refusals_are_one_message_and_status_2(run, arguments: list[str], parts: list[str]) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run(*arguments)
    assert status == 2
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert all(line.startswith(("bonrl: ", "WARNING", "warning")) for line in err.splitlines() if line), err


def test_help_of_train_has_examples_keys_and_exit_status(run) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = run("train", "--help")
    assert status == 0
    for part in ("Examples", "objective.k=4", "docs/configuration.md", "Exit status", "--resume", "--dry-run"):
        assert part in out


def test_help_of_train_lists_every_section(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("train", "--help")
    keys = out.partition("Configuration sections\n")[2].partition("All keys with type")[0]
    listed = [name for line in keys.splitlines() for name in line.strip().split("  ")[0].split(", ") if name]
    assert sorted(listed) == sorted(RunConfig.model_fields)


def test_options_of_sft_hold_next_to_the_override_of_a_section(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[RunConfig] = []

    def train(config: RunConfig) -> SimpleNamespace:
        started.append(config)
        return SimpleNamespace(model=None, status=0)

    monkeypatch.setitem(sys.modules, "cluster.run.job", SimpleNamespace(train=train))  # the real one imports Ray
    options = ["--objective", "bon_sft", "--steps", "7", "--batch-size", "9", "--learning-rate", "1e-4"]
    status, _, err = run("sft", *options, "--output", tmp_path / "model", "objective={k: 4}")
    assert status == 0, err
    (config,) = started
    assert (config.objective.imitation, config.objective.k) == ("bon_sft", 4)
    assert (config.run.steps, config.rollout.prompts_per_step, config.learner.learning_rate) == (7, 9, 1e-4)


Started = list[tuple[RunConfig, Any, dict[str, int] | None]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What `bonrl sft` would train: configuration, settings, sizes of a new model."""
    found: Started = []

    def imitate(config: RunConfig, output: Path, settings: Any, *, new: dict[str, int] | None, report: Any) -> int:
        found.append((config, settings, new))
        return 0

    monkeypatch.setattr("cluster.commands.sft.imitate", imitate)
    return found


def test_sft_needs_no_problems_to_evaluate(run: Any, tmp_path: Path, started: Started) -> None:
    asked = ["task={name: gsm8k, path: data, validation_size: 0}", "evaluation.split=validation"]
    status, _, err = run("sft", "--new", "--output", tmp_path / "model", *asked)
    assert (status, len(started)) == (0, 1), err
    assert started[0][0].task.validation_size == 0


def test_an_imitation_that_another_process_runs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are started within a second: the other one's directory appears after the check for leftovers."""
    from cluster.commands import imitation
    from cluster.config import build_config
    from cluster.errors import UsageError
    from cluster.records.run_directory import RunDirectory
    from learner.imitation import ImitationSettings

    config, partial = build_config({}), tmp_path / "model.partial"
    monkeypatch.setattr(imitation, "_clear_unused", lambda output: None)
    with RunDirectory.create(partial, "run", config.to_mapping()):
        with pytest.raises(UsageError, match="in use"):
            settings = ImitationSettings(steps=1, batch_size=1)
            imitation.imitate(config, tmp_path / "model", settings, new=None, report=print)
        assert (partial / "run" / "config.yaml").is_file()


def test_sft_makes_a_new_model_of_the_size_that_is_asked_for(run: Any, tmp_path: Path, started: Started) -> None:
    for options in (["--new"], ["--new", "--width", "256", "--layers", "6"]):
        assert run("sft", *options, "--output", tmp_path / "model")[0] == 0
    assert [new for _, _, new in started] == [{}, {"width": 256, "layers": 6}]
    for options, part in (
        (["--width", "64"], "add --new"),
        (["--new", "--width", "100"], "--width 100: give a multiple"),
    ):
        status, _, err = run("sft", *options, "--output", tmp_path / "model")
        assert status == 2 and part in err


def test_defaults_of_sft_for_a_new_and_a_trained_model(run: Any, tmp_path: Path, started: Started) -> None:
    given = ["--learning-rate", "1e-5", "model.path=models/countdown-base"]
    for options in (["--new"], given, ["--steps", "3", "--batch-size", "4", *given]):
        status, _, err = run("sft", *options, "--output", tmp_path / "model")
        assert status == 0, err
    found = [(one.steps, one.batch_size, one.learning_rate, one.seed) for _, one, _ in started]
    assert found == [(900, 256, 1e-3, 0), (900, 32, 1e-5, 0), (3, 4, 1e-5, 0)]


def test_sft_checks_the_memory_of_its_ranks(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[RunConfig] = []
    monkeypatch.setattr("cluster.commands.sft.check_start", lambda config, **_: checked.append(config))
    monkeypatch.setattr("cluster.commands.sft.imitate", lambda *_, **__: 0)
    keys = ["learner.ranks=2", "loss.kl_coefficient=0.1", "rollout.n=64"]
    assert run("sft", "--output", tmp_path / "model", "--learning-rate", "1e-4", *keys)[0] == 0
    (config,) = checked
    assert (config.learner.ranks, config.actors.sampler_range.max, config.actors.verifier_range.max) == (2, 0, 0)
    assert (config.rollout.n, config.rollout.prompts_per_step, config.loss.kl_coefficient) == (1, 32, 0)


def test_an_unfinished_imitation_is_not_overwritten(run: Any, tmp_path: Path) -> None:
    run_directory = tmp_path / "mine.partial" / "run"
    command = ("sft", "--output", tmp_path / "mine", "--steps", "1", "--learning-rate", "1e-4")
    (tmp_path / "mine.partial").mkdir()
    status, _, err = run(*command)
    assert status == 2 and "mine.partial exists and is not of an imitation" in err
    (run_directory / "checkpoints").mkdir(parents=True)
    (run_directory / "imitation.json").write_text("{}")
    from cluster.records.checkpoints import Checkpoints

    checkpoints = Checkpoints(run_directory / "checkpoints")
    write_model(checkpoints.begin(3) / "huggingface")
    checkpoints.finalise(3)
    status, _, err = run(*command)
    assert status == 2 and "a checkpoint of step 3; add --resume to continue it" in err
    status, _, err = run("sft", "--output", tmp_path / "mine", "--resume", "learner.ranks=2")
    assert status == 2 and "override learner.ranks=2: --resume continues with the settings of the start" in err


def test_several_configurations_are_read_in_order(run: Any, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    mine.write_text("run: {steps: 7}\nrollout: {n: 24}\n")
    other.write_text("rollout: {n: 40}\n")
    status, out, err = run("train", "--dry-run", "-c", "cluster/presets/local.yaml", "-c", mine, "-c", other)
    assert status == 0, err
    assert "steps: 7" in out and "n: 40" in out and "samples in all" in out
    other.write_text("rollout: {nn: 40}\n")
    for command in (["train", "--dry-run"], ["sft", "-o", tmp_path / "m", "--learning-rate", "1e-4"]):
        status, _, err = run(*command, "-c", mine, "-c", other)
        assert status == 2 and f"[rollout.nn: {other}]" in err


def test_every_command_is_listed(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("--help")
    for command in ("train", "eval", "sft", "submit", "export", "config-reference"):
        assert command in out


def test_reference_is_printed_as_it_is_committed(run, repository: Path) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("config-reference")
    assert out == (repository / "docs" / "configuration.md").read_text()


def test_export_copies_the_model_of_a_checkpoint(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_model(tmp_path / "step-000001" / "huggingface")
    status, _, _ = run("export", "--checkpoint", tmp_path / "step-000001", "--to", tmp_path / "out")
    assert status == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 128


def test_export_refuses_weights_that_are_cut_off(run, repository: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "step-000001" / "huggingface"
    shutil.copytree(repository / "models" / "countdown-base", model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    status, _, message = run("export", "--checkpoint", tmp_path / "step-000001", "--to", tmp_path / "out")
    assert status == 2 and not (tmp_path / "out").exists()
    assert "--checkpoint" in message and "it is cut off" in message and "another checkpoint" in message


def test_newest_checkpoint_of_a_run_is_found(tmp_path: Path) -> None:
    from cluster.records.checkpoints import Checkpoints

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        write_model(checkpoints.begin(step) / "huggingface")
        checkpoints.finalise(step)
    assert resolve_model(tmp_path) == checkpoints.latest().checkpoint.path / "huggingface"  # type: ignore[union-attr]
    assert "step-000002" in str(resolve_model(tmp_path))


def test_run_without_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="no usable checkpoint"):
        resolve_model(tmp_path)


def test_errors_of_bonrl_itself_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug must not be reported as a mistake of the user."""
    monkeypatch.setattr(sys, "argv", ["bonrl", "config-reference"])
    monkeypatch.setattr("cluster.config.reference.render_reference", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_refusing_is_fast_and_imports_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys; sys.argv = ['bonrl', 'train', '--config', 'cluster/presets/8xh100.yaml', '--dry-run']\n"
        "from cluster import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = [m for m in ('torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'wandb') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_reads_no_settings(repository: Path) -> None:
    code = (
        "import sys, cluster.commands.app\n"
        "assert not (found := {'cluster.config', 'pydantic', 'numpy', 'pyarrow'} & sys.modules.keys()), found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_defaults_of_command_line_and_schema_agree() -> None:
    assert DEFAULT_CONFIG == Path("cluster/presets/local.yaml")
    assert ModelSettings().path == "models/countdown-base"


def test_version_names_the_commit_and_the_packages(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("--version")
    assert status == 0 and not err
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:3] == ["bonrl", "commit", "python"] and {"torch", "ray", "deepspeed", "transformers"} <= set(names)
    assert "vllm" in out and "None" not in out


def test_version_answers_where_the_installation_is_broken(run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("cluster.cli.check_packages", lambda: pytest.fail("packages were checked"))
    assert run("--version")[0] == 0


def test_every_exit_status_is_documented(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("--help")
    lines = out.partition("Exit status")[2].partition("Options")[0].splitlines()[1:]
    assert [line.split()[0] for line in lines if line] == ["0", "1", "2", "130"]


def test_no_configuration_elsewhere(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    for words in (("train", "--dry-run"), ("sft", "-o", "model", "--learning-rate", "1e-4")):
        status, _, err = run(*words)
        assert status == 2
        assert "there is no cluster/presets/local.yaml here, which is read without --config: give --config YAML" in err
    assert "a configuration is given with --config my.yaml" in run("train", "my.yaml")[2]
    assert "--samples none: there is no such file" in run("train-verifier", "--samples", "none", "-o", "verifier")[2]


def test_broken_yaml_is_named_by_file_and_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bad.yaml").write_text("model: {path: x\ntask: [\n")
    status, _, err = run("train", "--config", tmp_path / "bad.yaml", "--dry-run")
    assert status == 2 and "bad.yaml is not valid YAML" in err and "in line 2, column 5" in err
