"""User code is tried before the start, and a run's record holds its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.user_code import check_user_code
from cluster.config import ConfigError, RunConfig, build_config
from cluster.errors import UsageError
from cluster.records.config_changes import changes, record_changes, recorded_config
from cluster.records.run_directory import RunDirectory
from cluster.records.user_code import changed_user_code, keep_user_code, kept_overrides
from verifiers.task import Prompt
from verifiers.tasks.registry import make_task

SOURCE = """
def right(response, answer):
    return answer in response

def half(response):
    return 0.5

def parts(response):
    return {"correct": True, "format": 0.5}

def column(response, colour):
    return True

def fragile(response):
    return bool(response[0])

def extracted(response, answer):
    return {"score": answer in response, "answer": response}

def noted(response, note):
    return False

def limited(response, limit):
    return len(response) < limit

class Uncalled:
    pass

class Configured:
    def __init__(self, path):
        pass
"""


@pytest.fixture()
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tried_rewards.py").write_text(SOURCE)
    rows = [{"problem": f"say {i}", "answer": str(i), "note": [i]} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def config_of(function: str, **sections: Any) -> RunConfig:
    task = {"name": "jsonl", "jsonl": {"train": "train.jsonl", "id": None}, "reward": f"tried_rewards.py:{function}"}
    return build_config({"task": task | sections.pop("task", {}), **sections})


def check(config: RunConfig) -> list[str]:
    task = make_task(config.task)
    return check_user_code(config, task, task.prompts("train")[:1])


def test_a_good_reward_passes_and_sees_the_row(here: Path) -> None:
    config = config_of("right")
    assert check(config) == []
    prompt = make_task(config.task).prompts("train")[0]
    number = int(prompt.reference["answer"])
    assert prompt.text == f"say {number}", "no instruction is appended for a reward of the user"
    assert prompt.row == {"problem": f"say {number}", "answer": str(number), "note": [number]}


def test_rewards_that_do_not_fit_the_objective_are_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="a reward of 0.5, but pass_at_k takes rewards of 0 and 1 only; set objective"):
        check(config_of("half"))
    assert check(config_of("half", objective={"strategy": "max_at_k"})) == []


def test_votes_need_extracted_answers(here: Path) -> None:
    for sections in ({"objective": {"strategy": "majority_at_k"}}, {"evaluation": {"strategies": ["weighted_vote"]}}):
        with pytest.raises(UsageError, match="gave a right answer without an extracted answer, but .* counts equal"):
            check(config_of("right", **sections))
        assert check(config_of("extracted", **sections)) == []


def test_parts_need_weights(here: Path) -> None:
    with pytest.raises(UsageError, match=r"task\.reward_weights is not set; set it, for example {correct: 1\.0"):
        check(config_of("parts"))
    weights = {"reward_weights": {"correct": 1.0, "format": 0.1}}
    assert check(config_of("parts", task=weights, objective={"strategy": "max_at_k"})) == []


def test_what_does_not_work_is_named_with_file_and_line(here: Path) -> None:
    with pytest.raises(UsageError, match=r"tried on prompt .*tried_rewards\.py, line 11.*'colour'"):
        check(config_of("column"))
    with pytest.raises(UsageError, match="no 'rigth'; it defines .*did you mean right"):
        check(config_of("rigth"))
    with pytest.raises(UsageError, match=r"Uncalled is a class without __call__\(self, response, \.\.\.\); add it"):
        check(config_of("Uncalled"))
    with pytest.raises(UsageError, match=r"Configured: .*is done without arguments: TypeError: .*'path'"):
        check(config_of("Configured"))
    (warning,) = check(config_of("fragile"))
    assert "empty response" in warning and "tried_rewards.py, line 15: IndexError" in warning


def test_numbers_that_yaml_reads_as_text_are_named(here: Path) -> None:
    """A key of bonrl takes 1e3; the options of user code have no types."""
    with pytest.raises(UsageError, match=r"TypeError(.|\n)*\ntask\.options\.limit = '1e3' is text, .* write 1\.0e\+3$"):
        check(config_of("limited", task={"options": {"limit": "1e3"}}))
    (warning,) = check(config_of("noted", task={"options": {"note": "25E-4"}}))
    assert warning.endswith("write 25.0e-4")
    assert check(config_of("noted", task={"options": {"note": "1.0e-3"}})) == [], "quoted on purpose"
    assert check(config_of("limited", task={"options": {"limit": 1e3}})) == []


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"reward": "score"}, "path/to/file.py:name"),
        ({"reward": "a.py:b", "format_bonus": 0.1}, "task.format_bonus"),
        ({"reward_weights": {"a": 1.0}}, "need task.reward"),
        ({"options": {"a": 1}}, "task.options"),
        ({"reward": "http:///score"}, "not a valid address"),
        ({"reward": "HTTPS://a b/"}, "not a valid address"),
        ({"reward": "http://host:99999/"}, "not a valid address"),
        ({"reward": "https://me:s3cret@host/"}, "task.reward_token_variable"),
        ({"reward": "https://host/score?token=s3cret"}, "task.reward_token_variable"),
        ({"name": "t.py:T", "options": {"judges": ["https://s3cret@host"]}}, "task.options.judges: holds an address"),
        ({"name": "contdown"}, "choose one of countdown"),
        ({"scorer": {"kind": "verdikt"}}, "choose one of verdict"),
    ],
)
def test_keys_that_do_not_fit_are_refused(task: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({"task": task})
    assert words in str(error.value) and "s3cret" not in str(error.value)


def test_code_is_tried_on_a_row_of_each_split(here: Path) -> None:
    config = config_of("column")
    task, plain = make_task(config.task), Prompt("v1", "2 + 2 = ", {"answer": "4"}, row={"answer": "4"})
    coloured = replace(plain, id="t1", row={"answer": "4", "colour": "red"})
    assert check_user_code(config, task, [coloured]) == []
    with pytest.raises(UsageError, match="tried on prompt 'v1'.*'colour'"):
        check_user_code(config, task, [coloured, plain])


def test_an_evaluation_takes_rewards_that_the_objective_cannot(here: Path) -> None:
    config = config_of("half")
    prompt = Prompt("p", "2 + 2 = ", {"answer": "4"}, row={"answer": "4", "colour": "red"})
    assert check_user_code(config, make_task(config.task), [prompt], trains=False) == []


STRATEGIES = """
import numpy as np
import bonrl

@bonrl.strategy("tried_good")
def good(groups):
    return np.sort(groups.rewards_GN, axis=1)[:, max(groups.n - 2, 0)]

@bonrl.strategy("tried_raising")
def raising(groups):
    return np.sort(groups.rewards_GN, axis=1)[:, groups.n]  # line 11

@bonrl.strategy("tried_first")
def first(groups):
    return groups.rewards_GN[:, 0]

@bonrl.strategy("tried_logarithm")
def logarithm(groups):
    return np.log(groups.rewards_GN).sum(axis=1)

@bonrl.array_strategy("tried_shape")
def shape(groups, k):
    return groups.rewards_GN.max(axis=1, keepdims=True)

@bonrl.group_estimator("tried_column", strategies=("tried_good",))
def column(groups, k, options):
    return groups.rewards_GN.max(axis=1, keepdims=True)
"""


@pytest.fixture()
def own_strategies(here: Path, clean_plugins: None) -> None:
    (here / "tried_strategies.py").write_text(STRATEGIES)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"strategy": "tried_good"}, ""),
        ({"strategy": "tried_logarithm"}, ""),
        ({"strategy": "tried_raising"}, "(tried_raising with loo) fails on made-up groups: "),
        ({"strategy": "tried_raising"}, "tried_strategies.py, line 11: IndexError"),
        ({"strategy": "tried_first"}, "the strategy tried_first gives another value if the answers"),
        ({"strategy": "tried_shape"}, "strategy 'tried_shape' returned shape (3, 1)"),
        ({"strategy": "tried_good", "estimator": "tried_column"}, "estimator 'tried_column' returned shape (3, 1)"),
    ],
)
@pytest.mark.usefixtures("own_strategies")
def test_strategies_and_estimators_of_plugins_are_tried(objective: dict[str, Any], words: str) -> None:
    config = build_config({"plugins": ["tried_strategies.py"], "objective": objective | {"k": 2}, "rollout": {"n": 4}})
    if words:
        with pytest.raises(UsageError) as error:
            check_user_code(config, make_task(config.task), [])
        assert words in str(error.value)
    else:
        assert check_user_code(config, make_task(config.task), []) == []


def test_the_record_holds_the_files_and_notices_changes(here: Path) -> None:
    config = config_of("right")
    with RunDirectory.create(here / "runs", "one", config.to_mapping()) as directory:
        keep_user_code(directory, config)
    run = here / "runs" / "one"
    entry = json.loads((run / "user_code.json").read_text())["task.reward"]
    assert (run / entry["copy"]).read_text() == SOURCE and len(entry["sha256"]) == 64
    assert changed_user_code(run, config) == []
    (here / "tried_rewards.py").write_text(SOURCE + "\n")
    (line,) = changed_user_code(run, config)
    assert "task.reward = tried_rewards.py:right has changed" in line and entry["copy"] in line
    assert kept_overrides(run) == []
    (here / "tried_rewards.py").unlink()
    (override,) = kept_overrides(run)  # on another machine the run's copy is used
    assert override == f'task.reward="{run / entry["copy"]}:right"'


def test_a_changed_neighbor_is_noticed(here: Path) -> None:
    (here / "helper.py").write_text("VALUE = 1\n")
    config = config_of("right")
    with RunDirectory.create(here / "runs", "one", config.to_mapping()) as directory:
        keep_user_code(directory, config)
    run = here / "runs" / "one"
    (here / "new.py").write_text("")
    assert changed_user_code(run, config) == []
    (here / "helper.py").write_text("VALUE = 2\n")
    (line,) = changed_user_code(run, config)
    assert (
        "task.reward = tried_rewards.py:right: files that it may import have changed" in line and "helper.py;" in line
    )


@pytest.mark.parametrize("replaced_by", ["https://rewards.example/score", None, "other_rewards.py:right"])
def test_a_reward_that_a_resume_replaced_does_not_come_back(here: Path, replaced_by: str | None) -> None:
    (here / "other_rewards.py").write_text(SOURCE)
    before = config_of("right")
    after = before.model_copy(update={"task": before.task.model_copy(update={"reward": replaced_by})})
    with RunDirectory.create(here / "runs", "one", before.to_mapping()) as directory:
        keep_user_code(directory, before)
        earlier = (directory.path / "user_code.json").read_text()
        record_changes(directory, after, changes(before, after), step=1)
    run = here / "runs" / "one"
    (here / "tried_rewards.py").unlink()
    assert set(json.loads((run / "user_code.json").read_text())) == (
        {"task.reward"} if replaced_by == "other_rewards.py:right" else set()
    )
    assert kept_overrides(run) == [] and recorded_config(run).task.reward == replaced_by
    # A record from before this was so, or a resume that was killed before it wrote config.yaml.
    (run / "user_code.json").write_text(earlier)
    assert kept_overrides(run) == [] and recorded_config(run).task.reward == replaced_by
    assert changed_user_code(run, after) == []


@pytest.mark.usefixtures("clean_plugins")
def test_a_missing_plugin_is_replaced_at_its_place(here: Path) -> None:
    for name in ("first", "second"):
        source = f"import bonrl\n\n@bonrl.scorer('{name}')\ndef score(response):\n    return 1.0\n"
        (here / f"{name}.py").write_text(source)
    config = build_config({"plugins": ["first.py", "second.py"]})
    with RunDirectory.create(here / "runs", "one", config.to_mapping()) as directory:
        keep_user_code(directory, config)
    run = here / "runs" / "one"
    entries = json.loads((run / "user_code.json").read_text())
    entries["plugins.0"]["reference"] = "earlier.py"  # of another list of plugins
    (run / "user_code.json").write_text(json.dumps(entries))
    for name in ("first", "second"):
        (here / f"{name}.py").unlink()
    assert kept_overrides(run) == [f'plugins=["first.py", "{run / entries["plugins.1"]["copy"]}"]']
