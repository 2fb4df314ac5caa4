"""Tasks, scorers and rewards of a user: what they get, and what of theirs is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.verifiers.rewards.own_code import PROMPT, Graded, called, code, graded, unsampled
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask, UserScorer
from verifiers.scorers import make_scorer
from verifiers.settings import ScorerSettings, TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.registry import make_task

__all__ = ["code", "graded"]


def test_verify_takes_its_parameters_in_any_order(code: Path) -> None:
    assert [result["reward"] for result in called(code, "AnyOrder", "4", "5", kind="task")] == [1.0, 0.0]


def test_a_reward_for_conversations_of_trl_learns_that_it_gets_texts(tmp_path: Path) -> None:
    file = tmp_path / "from_trl.py"
    file.write_text(
        "def length(completions, **kwargs):\n    return [len(c[0]['content']) for c in completions]\n"
        "def wrong(response):\n    return response + 1\n"
    )
    hint = "texts here, not lists of messages (docs/migrate.md)"
    assert [hint in result["error"] for name in ("length", "wrong") for result in called(file, name, "4")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reference": "4"}, "reference is '4'; give a dict, for example {'answer': '4'}"),
        ({"reference": None}, "reference is None; give a dict"),
        ({"level": 3}, "level is 3; give text"),
        ({"demonstration": 4}, "demonstration is 4; give text"),
        ({"text": None}, "text is None; give text"),
        ({"text": "\ud800"}, "text contains half of a surrogate pair"),
        ({"history": None}, "history is None; give a list"),
        ({"row": ["x"]}, "row is ['x']; give a dict"),
    ],
)
def test_prompts_of_the_user_with_wrong_fields_are_refused(code: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        make_task(TaskSettings(name=f"{code}:Wrong", options=fields)).prompts("train")
    assert f"prompts('train'), prompt 'p': its {words}" in str(error.value)


def test_a_task_of_the_user(code: Path) -> None:
    task = make_task(TaskSettings(name=f"{code}:Mine", options={"words": 2}, train_size=2))
    assert isinstance(task, RewardedTask)
    assert [p.id for p in task.prompts("train")] == ["train-0", "train-1"] and task.prompts("test")[
        0
    ].text == "say say "
    assert [v.reward for v in task.verify_all(PROMPT, unsampled("4", "5"))] == [1.0, 0.0]
    task.grades.close()
    with pytest.raises(ValueError, match="task.options names 'wrods'"):
        make_task(TaskSettings(name=f"{code}:Mine", options={"wrods": 2}))


def test_an_instruction_that_a_task_of_the_user_cannot_read_is_refused(code: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.instruction is not read by .*:Mine .*take `settings`"):
        make_task(TaskSettings(name=f"{code}:Mine", instruction="Be brief."))
    task = make_task(TaskSettings(name=f"{code}:Instructed", instruction="Be brief."))
    assert task.prompts("train")[0].text == "Count. Be brief."


def test_a_task_of_the_user_with_conversations(code: Path) -> None:
    def first(message: list[str]) -> Prompt:
        settings = TaskSettings(name=f"{code}:WithHistory", options={"message": message})
        return make_task(settings).prompts("train")[0]

    assert first(["system", "Be brief."]).messages[0] == {"role": "system", "content": "Be brief."}
    with pytest.raises(
        ValueError, match=r"prompts\('train'\), prompt 'p': its history has a message of the role 'tool'"
    ):
        first(["tool", "x"])
    with pytest.raises(ValueError, match=r"its history has a message \['x'\]; give \(role, content\)"):
        first(["x"])


def test_a_scorer_of_the_user(code: Path) -> None:
    scorer = make_scorer(TaskSettings(scorer=ScorerSettings(kind=f"{code}:Judge")))
    assert scorer.scores(PROMPT, ["a", "b", "a"], []) == [1.0, 2.0, 1.0]
    scorer.grades.close()  # type: ignore[attr-defined]


def test_length_and_end_of_a_response(code: Path, graded: Graded) -> None:
    cut = [Response("4", 3), Response("4", 5), Response("4", 5, "length")]
    assert [v.reward for v in graded.task("overlong").verify_all(PROMPT, cut)] == [-0.3, -0.5, -1.0]
    assert [v.reward for v in graded.task("batch_overlong").verify_all(PROMPT, cut)] == [0.3, 0.5, -1.0]
    task = make_task(TaskSettings(name=f"{code}:MineByLength"))
    assert isinstance(task, RewardedTask)
    assert [v.reward for v in task.verify_all(PROMPT, cut)] == [3.0, 5.0, 5.0]
    task.grades.close()
    scorer = make_scorer(TaskSettings(scorer=ScorerSettings(kind=f"{code}:overlong")))
    assert isinstance(scorer, UserScorer)
    assert scorer.scores_of(PROMPT, [cut[0], cut[2], cut[0]]) == [-0.3, -1.0, -0.3]
    scorer.grades.close()
    assert graded.task("overlong").verify(PROMPT, "x" * 40).reward == -1.0, "estimated: four characters are a token"
