"""The public API: cheap to import, the same functions as the command line, and errors that can be caught."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bonrl
from bonrl import runs
from cluster.config import RunConfig, load_config
from verifiers.user_code import load


def test_every_public_name_is_there_and_typed(repository: Path) -> None:
    assert set(bonrl.__all__) == {*bonrl._HOMES, "__version__"}
    for name in bonrl.__all__:
        assert getattr(bonrl, name) is not None
    tree = ast.parse((repository / "bonrl" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == bonrl._HOMES, "type checkers see what is imported"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        bonrl.trian  # noqa: B018


def test_importing_it_is_cheap(repository: Path) -> None:
    heavy = "{'torch', 'ray', 'vllm', 'numpy', 'pydantic', 'transformers', 'pandas'}"
    code = f"import sys, bonrl; assert not {heavy} & set(sys.modules); bonrl.Prompt; bonrl.advantages; bonrl.train; " \
        "assert not {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, timeout=120)


def test_a_directory_without_a_verifier_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a trained verifier"):
        bonrl.load_verifier(tmp_path)


def test_objectives_in_a_line() -> None:
    assert bonrl.strategy_value([1, 0, 0, 0], strategy="pass_at_k", k=2) == pytest.approx(0.5)
    advantages = bonrl.advantages([1.0, 0.0, 0.0, 0.0], strategy="pass_at_k", k=2, estimator="loo")
    assert advantages[0] > 0 > advantages[1]


def test_overrides_are_those_of_the_command_line(tmp_path: Path) -> None:
    keys = runs._flat({"objective": {"k": 3, "strategy": "max_at_k"}, "rollout.n": 6, "task.reward_weights": {}})
    assert list(keys) == ["objective.k", "objective.strategy", "rollout.n", "task.reward_weights"]
    with runs._config_files([{"run": {"directory": tmp_path}, "rollout": {"n": 4}}]) as (_, file):
        config = load_config(file, runs._overrides(keys))
    assert (config.objective.k, config.rollout.n, config.run.directory) == (3, 6, str(tmp_path))
    arrays = runs._overrides(
        {"evaluation.ks": np.array([1, 2]), "rollout.n": np.int64(6), "learner.beta1": np.array(0.5)}
    )
    assert arrays == ["evaluation.ks=[1, 2]", "rollout.n=6", "learner.beta1=0.5"]


def test_of_several_configurations_a_later_one_wins_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "card.yaml").write_text(f"run: {{directory: {tmp_path}, name: card, steps: 9}}\nrollout: {{n: 4}}\n")
    asked: list[tuple[list[str], RunConfig]] = []

    def command(words: list[str], directory: Path | None, *, quiet: bool) -> None:
        files = [Path(words[i + 1]) for i, word in enumerate(words) if word == "--config"]
        asked.append((words, load_config(files)))
        (directory or Path()).mkdir(parents=True, exist_ok=True)
        if directory is None:
            target = Path(words[words.index("--output") + 1])
            target.mkdir()
            (target / "evaluation.json").write_text('{"evaluations": []}')
        else:
            (directory / "summary.json").write_text("{}")

    monkeypatch.setattr(runs, "_command", command)
    several = [tmp_path / "card.yaml", {"run": {"name": "mine"}, "objective": {"k": 2}}]
    assert bonrl.train(several).directory == tmp_path / "mine"
    bonrl.evaluate(tmp_path / "mine", several, best=True, temperature=np.array([0.5, 1.0]))
    assert asked[1][0].count("--temperature") == 2
    for _, config in asked:
        assert (config.run.name, config.run.steps, config.rollout.n, config.objective.k) == ("mine", 9, 4, 2)
    assert ["--best" in words for words, _ in asked] == [False, True]
    assert str(tmp_path / "card.yaml") in asked[0][0], "messages name the user's own file"


def test_a_function_of_a_module_travels_by_reference(tmp_path: Path) -> None:
    (tmp_path / "shipped_rewards.py").write_text("def score(response):\n    return 1.0\n")
    score = load(f"{tmp_path}/shipped_rewards.py:score")
    assert runs._reference(score, tmp_path) == f"{tmp_path}/shipped_rewards.py:score"


def test_other_functions_travel_by_value(tmp_path: Path) -> None:
    bonus = 2.0
    reference = runs._reference(lambda response: len(response) + bonus, tmp_path)
    assert reference.startswith(str(tmp_path / "rewards")) and reference.endswith(".pkl:reward")
    assert load(reference)("abc") == 5.0
    with pytest.raises(bonrl.UsageError, match="cannot be pickled"):
        runs._reference(lambda response, lock=sys.stdout: lock, tmp_path)


@pytest.mark.slow
def test_what_is_refused_raises_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(bonrl.UsageError, match=r"objective\.k = 99 is above rollout\.n = 4.*lower objective\.k"):
        bonrl.train({"rollout": {"n": 4}, "run": {"directory": str(tmp_path)}}, **{"objective.k": 99})
    assert "objective.k = 99" in capsys.readouterr().out
    with pytest.raises(bonrl.UsageError, match="cannot read the configuration"):
        bonrl.train(tmp_path / "missing.yaml", quiet=True)
    with pytest.raises(bonrl.UsageError, match="run"):
        bonrl.train({"run": 5}, quiet=True)


def test_a_run_is_not_started_while_user_code_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "script_without_guard.py").write_text(
        "import bonrl\nbonrl.train(quiet=True)\ndef score(response): ...\n"
    )
    with pytest.raises(ValueError, match="if __name__ == '__main__'"):
        load(f"{tmp_path}/script_without_guard.py:score")


def test_the_home_directory_is_expanded_as_the_run_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the run is trained in the home directory, and its summary is then read from a directory called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[list[str]] = []

    def command(words: list[str], directory: Path | None, *, quiet: bool) -> None:
        asked.append(words)
        for name in ("runs/a", "results"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "a" / "summary.json").write_text("{}")
        (tmp_path / "results" / "evaluation.json").write_text('{"evaluations": []}')

    monkeypatch.setattr(runs, "_command", command)
    assert bonrl.train({"run": {"directory": "~/runs", "name": "a"}}).directory == tmp_path / "runs" / "a"
    assert bonrl.train(resume="~/runs/a").directory == tmp_path / "runs" / "a"
    assert bonrl.evaluate("~/runs/a", output="~/results") == []
    assert str(tmp_path / "runs" / "a") in asked[1] and str(tmp_path / "runs" / "a") in asked[2]
    named = bonrl.train({"run": {"directory": "~/runs"}}, resume_or_start=True, **{"run.name": "a"})
    assert named.directory == tmp_path / "runs" / "a" and "--resume-or-start" in asked[3]


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, r"set run\.name"), ({"resume": "runs/a"}, "--resume or --replay, not both")]
)
def test_resume_or_start_needs_one_named_run(
    arguments: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bonrl.UsageError, match=message):
        bonrl.train(resume_or_start=True, quiet=True, **arguments)
