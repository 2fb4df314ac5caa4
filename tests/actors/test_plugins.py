"""Plugins: what they register is known by name, and what is wrong with them is refused with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.plugins import load_plugins
from cluster.config import ConfigError, build_config
from learner.strategies import STRATEGIES
from verifiers.user_code import UserCodeError

STRATEGY = """
import numpy as np
from learner.strategies import subset_strategy

@subset_strategy("{name}")
def {name}(groups):
    return groups.rewards_GN.min(axis=1)
"""


@pytest.fixture(autouse=True)
def _here(clean_plugins: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def plugin(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_a_plugin_is_loaded_before_the_configuration_is_checked() -> None:
    tree = {"plugins": [plugin("worst_plugin.py", STRATEGY.format(name="worst"))], "objective": {"strategy": "worst"}}
    assert build_config(tree).objective.strategy == "worst"
    assert build_config(tree).plugins == ("worst_plugin.py",), "a second time too"
    assert build_config(build_config(tree).to_mapping()).objective.strategy == "worst"


@pytest.mark.parametrize(
    "section",
    [{"objective": {"strategy": "worst"}}, {"task": {"name": "worst"}}, {"task": {"scorer": {"kind": "worst"}}}],
)
def test_without_the_plugin_the_name_is_unknown(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"worst.*in plugins"):
        build_config(section)


def test_names_that_exist_are_refused() -> None:
    before = STRATEGIES["pass_at_k"]
    name = plugin("clash.py", STRATEGY.format(name="pass_at_k"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="plugins.*'pass_at_k', which bonrl itself registers"):
            build_config({"plugins": [name]})
    assert STRATEGIES["pass_at_k"] is before
    load_plugins([plugin("first.py", STRATEGY.format(name="worst"))])
    with pytest.raises(UserCodeError, match=r"'worst', which first\.py registers"):
        load_plugins([plugin("second.py", STRATEGY.format(name="worst"))])


def test_a_plugin_that_registers_nothing_is_refused() -> None:
    with pytest.raises(UserCodeError, match="registers nothing; decorate"):
        load_plugins([plugin("empty_plugin.py", "x = 1\n")])
    bare = "import bonrl\n\n@bonrl.strategy\ndef worst(groups):\n    return groups.rewards_GN.min(axis=1)\n"
    with pytest.raises(UserCodeError, match=r'registers nothing; .*@bonrl\.strategy\("NAME"\)'):
        load_plugins([plugin("bare_plugin.py", bare)])


@pytest.mark.parametrize(
    ("decorator", "parameters", "called"),
    [
        ('strategy("own")', "rewards, k", "groups"),
        ('array_strategy("own")', "groups", "groups, k"),
        ('count_strategy("own")', "n, correct", "n, correct, k"),
        ('estimator("own")', "groups, k", "u"),
        ('group_estimator("own", strategies=("mean",))', "groups", "groups, k, options"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_at_the_line_of_the_user(
    decorator: str, parameters: str, called: str
) -> None:
    text = f"import bonrl\n\n@bonrl.{decorator}\ndef own({parameters}):\n    return 1\n"
    kind = "estimator" if "estimator" in decorator else "strategy"
    with pytest.raises(ConfigError) as refused:
        build_config({"plugins": [plugin("own.py", text)], "objective": {kind: "own"}})
    (line,) = str(refused.value).splitlines()  # not also that the name is unknown
    place = f"{Path('own.py').resolve()}, line 3: TypeError"
    assert f"{place}: the function of {kind} 'own' takes ({parameters}), but is called with ({called}); change" in line


def test_a_rule_with_a_remedy_is_not_followed_by_the_description_of_the_key() -> None:
    with pytest.raises(ConfigError) as refused:
        build_config({"plugins": [plugin("nothing.py", "x = 1\n")]})
    assert str(refused.value).endswith("(docs/bring-your-own.md)")


def test_a_plugin_that_another_one_imports_is_accepted() -> None:
    plugin("inner_plugin.py", STRATEGY.format(name="worst"))
    load_plugins([plugin("outer_plugin.py", "import inner_plugin\n"), "inner_plugin.py"])


def test_tasks_and_scorers_are_known_by_name() -> None:
    text = """
from verifiers import Prompt
from verifiers.scorers import register_scorer
from verifiers.tasks.registry import register_task

@register_task("echo")
class Echo:
    name = "echo"
    def prompts(self, split):
        return [Prompt("1", "say a", {"answer": "a"})]
    def verify(self, prompt, response):
        return response == "a"

@register_scorer("length")
def length(response):
    return len(response)
"""
    tree = {"plugins": [plugin("echo_plugin.py", text)], "task": {"name": "echo", "scorer": {"kind": "length"}}}
    config = build_config(tree)
    from verifiers.tasks.registry import make_task

    task = make_task(config.task)
    assert [p.text for p in task.prompts("train")] == ["say a"]
    assert task.verify(task.prompts("train")[0], "a").reward == 1.0
    task.grades.close()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="choose one of countdown, echo"):
        build_config({"task": {"name": "eco"}})
