"""Several configuration files: which value wins, and which file a message names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import _with_home
from cluster.config import ConfigError, load_config

BASE = """
run: {steps: 20}
task: {name: countdown}
rollout: {n: 32}
learner: {lora: {rank: 8, alpha: 4}, learning_rate: 1e-4}
plugins: []
"""


def files(directory: Path, *texts: str) -> list[Path]:
    found = []
    for i, text in enumerate(texts):
        found.append(directory / f"file{i}.yaml")
        found[-1].write_text(text)
    return found


def test_a_later_file_wins_key_by_key(tmp_path: Path) -> None:
    later = "run: {steps: 5}\nlearner: {lora: {rank: 2}}\nrollout:\nobjective: {k: 4}\n"
    config = load_config(files(tmp_path, BASE, later), ["objective.k=2"])
    assert (config.run.steps, config.rollout.n, config.objective.k) == (5, 32, 2)
    assert config.learner.learning_rate == 1e-4
    assert config.learner.lora is not None
    assert (config.learner.lora.rank, config.learner.lora.alpha) == (2, 32.0), "the adapters are one value"
    swapped = load_config(files(tmp_path, later, BASE))
    assert (swapped.run.steps, swapped.objective.k) == (20, 4)


PRESET = "model: {path: models/large, dtype: bfloat16, parameters_billions: 8}\n"


@pytest.mark.parametrize(
    ("later", "overrides", "size"),
    [
        ("model: {dtype: float32}", [], 8.0),
        ("model: {path: models/small}", [], None),
        ("model: {path: models/small, parameters_billions: 0.6}", [], 0.6),
        ("run: {steps: 3}", ["model.path=models/small"], None),
        ("run: {steps: 3}", ["model.path=models/small", "model.parameters_billions=0.6"], 0.6),
        ("model: {parameters_billions: 4}", ["model.dtype=float32"], 4.0),
        ("model: {path: models/large/}", [], 8.0),
        ("run: {steps: 3}", ["model.path=models/large"], 8.0),
        ("model: {path: models/small}", ["model.path=models/large"], None),
        ("run: {steps: 3}", ["model={path: models/small, parameters_billions: 0.6}"], 0.6),
    ],
)
def test_another_model_does_not_keep_the_size_of_the_earlier_one(
    tmp_path: Path, later: str, overrides: list[str], size: float | None
) -> None:
    assert load_config(files(tmp_path, PRESET, later), overrides).model.parameters_billions == size


def test_one_file_is_read_as_before(tmp_path: Path) -> None:
    (one,) = files(tmp_path, BASE)
    assert load_config([one]) == load_config(one) == load_config(str(one))
    with pytest.raises(ConfigError) as caught:
        load_config(one, ["rollout.n=0"])
    assert "[" not in str(caught.value)


def test_messages_name_the_file_of_each_key(tmp_path: Path) -> None:
    def refused(*texts: str, overrides: tuple[str, ...] = ()) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config(files(tmp_path, *texts), overrides)
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert "rollout.nn: unknown key" in (message := refused(BASE, "rollout: {nn: 3}"))
    assert message.endswith("[rollout.nn: file1.yaml]")
    assert refused("rollout: {n: 0}", "run: {steps: 3}").endswith("[rollout.n: file0.yaml]")
    assert "learner.lora.rank" in (message := refused("learner: {lora: {rank: 0}}", "run: {steps: 3}"))
    assert message.endswith("[learner.lora.rank: file0.yaml]")
    both = refused("objective: {k: 8}", "rollout: {n: 4}", "run: {steps: 3}")
    assert "objective.k: file0.yaml" in both and "rollout.n: file1.yaml" in both
    assert refused(BASE, "run: {steps: 3}", overrides=("rollout.n=0",)).endswith("[rollout.n: an override]")
    assert refused(BASE, "run: {steps: 3}", overrides=("rollout={n: 0}",)).endswith("[rollout.n: an override]")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = files(tmp_path, BASE, "rollout: [")
    with pytest.raises(ConfigError, match=r"file1\.yaml is not valid YAML"):
        load_config(broken)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config([broken[0], tmp_path / "nowhere.yaml"])


def test_the_home_directory_is_expanded_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    file = tmp_path / "my.yaml"
    file.write_text("model: {path: ~/models/base}\ntask: {name: jsonl, jsonl: {train: [~/a.jsonl, b.jsonl]}}\n")
    config = load_config(file, ["run.directory=~/runs"])
    assert (config.model.path, config.run.directory) == ("/home/ann/models/base", "/home/ann/runs")
    assert config.task.jsonl.train == ["/home/ann/a.jsonl", "b.jsonl"]
    with pytest.raises(ConfigError, match="model.path = 3"):
        load_config(file, ["model.path=3"])


def test_the_home_directory_is_expanded_in_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--to=~/model` would make a directory called `~`, since most shells expand only `--to ~/model`."""
    monkeypatch.setenv("HOME", "/home/ann")
    arguments = ["export", "--to=~/my model", "--checkpoint", "~", "run.name=~", "--json=-"]
    assert _with_home(arguments) == ["export", "--to=/home/ann/my model", *arguments[2:]]
