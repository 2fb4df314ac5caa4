"""What a reward may return, and how its parameters are bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from verifiers.rewards.response import Response
from verifiers.rewards.results import Grading, ResultError, from_json, json_row, listed, to_json
from verifiers.rewards.signature import Signature
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.user_code import UserCodeError
from verifiers.verdict import Status, Verdict

PLAIN = Grading({})
ROW = {"answer": "4", "source": "book", "extra_info": {"index": 3}}
PROMPT = Prompt("p1", "2 + 2 = ", {"answer": "4"}, row=ROW)


@pytest.mark.parametrize(
    ("value", "reward", "status"),
    [
        (True, 1.0, Status.CORRECT),
        (False, 0.0, Status.WRONG),
        (0.5, 0.5, Status.WRONG),
        (1, 1.0, Status.CORRECT),
        (-2.5, -2.5, Status.WRONG),
        (np.float32(1.5), 1.5, Status.CORRECT),
        (np.bool_(True), 1.0, Status.CORRECT),
        (np.array([0.25]), 0.25, Status.WRONG),
        ({"score": 0.5, "acc": True, "pred": "7"}, 0.5, Status.WRONG),
        (Verdict(Status.CORRECT, reward=0.3, score=0.9), 0.3, Status.CORRECT),
        (
            Verdict("wrong", np.float32(0.25), np.float32(1), weak=np.False_, parts={"a": np.float32(1)}),
            0.25,
            Status.WRONG,
        ),  # type: ignore[arg-type]  # as people write it
    ],
)
def test_a_result_becomes_a_verdict(value: Any, reward: float, status: Status) -> None:
    verdict = PLAIN.verdict(value)
    assert (verdict.reward, verdict.status) == (pytest.approx(reward), status)
    assert from_json(json.loads(json.dumps(to_json(verdict)))) == verdict


def test_parts_are_weighted_and_recorded() -> None:
    grading = Grading({"correct": 1.0, "format": 0.1, "length": 0.0})
    verdict = grading.verdict({"correct": True, "format": 0.5, "length": 12, "answer": "42"})
    assert verdict.reward == pytest.approx(1.05) and verdict.status is Status.CORRECT and verdict.answer == "42"
    assert verdict.parts == {"correct": 1.0, "format": 0.5, "length": 12.0}
    assert grading.verdict({"correct": 0, "format": 9, "length": 0}).status is Status.WRONG
    assert PLAIN.verdict({"score": 1, "acc": 0.0}).parts == {"acc": 0.0}


@pytest.mark.parametrize(
    ("weights", "value", "words"),
    [
        ({}, None, "return statement"),
        ({}, "good", "str 'good'"),
        ({}, float("nan"), "nan"),
        ({}, float("inf"), "inf"),
        ({}, [1.0], "list"),
        ({}, {}, "without parts"),
        ({}, {"a": 1.0}, "task.reward_weights is not set"),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, "'b', which has no weight"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}, "no part 'b'"),
        ({"a": 1.0}, {"a": "x"}, "part 'a'"),
        ({"a": 1.0}, {"a": float("nan")}, "part 'a'"),
        ({"a": 1.0}, {"a b": 1.0}, "like the name of a variable"),
        ({}, Verdict(Status.CORRECT, reward=float("nan"), score=1.0), "nan"),
        ({}, Verdict("right", reward=1.0, score=1.0), "status 'right'; choose one of correct, wrong"),
        ({}, Verdict(Status.CORRECT, reward=1.0, score=1.0, answer=5), "answer is int 5"),
        ({}, Verdict(Status.CORRECT, reward=1.0, score=1.0, parts=None), "parts are None; they must be a dict"),
        ({}, 10**400, "not a finite number"),
        ({"a": 1.0, "b": 1.0}, {"a": 1e308, "b": 1e308}, "weighted sum of the parts"),
    ],
)
def test_what_is_no_reward_is_refused(weights: dict[str, float], value: Any, words: str) -> None:
    with pytest.raises(ResultError, match=words.replace("(", r"\(")):
        Grading(weights).verdict(value)


def test_a_verifier_error_that_the_user_returns_has_no_reward() -> None:
    verdict = PLAIN.verdict(Verdict("verifier_error", None, None, detail="my judge is down"))  # type: ignore[arg-type]
    assert (verdict.status, verdict.reward, verdict.detail) == (Status.VERIFIER_ERROR, None, "my judge is down")


def test_a_score_has_no_weighted_parts() -> None:
    scores = Grading({}, takes_parts=False)
    assert scores.verdict({"score": 0.5, "note": 1}).reward == 0.5
    with pytest.raises(ResultError, match="returned the parts a; a score is a number, or a dict with 'score'"):
        scores.verdict({"a": 1.0})


def test_a_row_for_a_service_is_valid_json() -> None:
    assert json_row({"a": float("nan"), "b": [float("inf"), 1.5], "c": b"x"}) == {
        "a": None,
        "b": [None, 1.5],
        "c": "b'x'",
    }


def test_batches() -> None:
    assert listed([1, 0], 2) == [1, 0] and listed(np.array([1.0, 0.5]), 2) == [1.0, 0.5]
    assert listed({"rewards": [1.0, 2.0], "extra_logs": {}}, 2) == [1.0, 2.0]
    assert listed({"a": [1, 2], "b": (3, 4)}, 2) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    for wrong in ([1.0], None, "ab", 3.0, {}, {"rewards": 1.0}):
        with pytest.raises(ResultError):
            listed(wrong, 2)


def call(function: Callable[..., Any], *responses: str, **options: Any) -> Any:
    positional, named = Signature(function, "score", options).arguments(
        PROMPT, [Response(text, len(text)) for text in responses]
    )
    return function(*positional, **named)


def test_parameters_are_bound_by_name() -> None:
    assert call(lambda response: response, "r") == "r"
    assert call(lambda prompt, response, reference: (prompt, response, reference), "r") == ("2 + 2 = ", "r", "4")
    assert call(lambda response, source, row: (source, row), "r") == ("book", ROW)
    assert call(lambda response, **row: row, "r") == ROW
    assert call(lambda prompt, response, /: (prompt, response), "r") == ("2 + 2 = ", "r")
    assert call(lambda response, missing=3: missing, "r") == 3
    assert call(lambda response, bonus: bonus, "r", bonus=9) == 9
    # verl
    verl = call(lambda data_source, solution_str, ground_truth, extra_info: (solution_str, ground_truth, extra_info),
                "r", data_source="x")  # fmt: skip
    assert verl == ("r", "4", {"index": 3})


def test_length_and_end_are_bound_unless_the_row_or_an_option_has_the_name() -> None:
    def lengths(response: str, response_tokens: int, finish_reason: str, truncated: bool = True) -> Any:
        return response_tokens, finish_reason, truncated

    assert call(lengths, "four") == (4, "stop", False)
    assert call(lengths, "four", response_tokens=9) == (9, "stop", False)
    assert call(lambda responses, response_tokens, truncated: (response_tokens, truncated), "a", "bc") == (
        [1, 2],
        [False, False],
    )
    own = Prompt("p1", "", row={"truncated": "in the row", "response_tokens": "too"})
    signature = Signature(lambda response, truncated, response_tokens: 1, "score", {})
    named = signature.arguments(own, [Response("r", 7, "length")])[1]
    assert (named["truncated"], named["response_tokens"]) == ("in the row", "too")
    signature = Signature(lambda response, truncated: 1, "score", {})
    assert signature.arguments(PROMPT, [Response("r", 7, "length")])[1]["truncated"] is True


def test_a_reward_gets_the_conversation() -> None:
    prompt = Prompt("p1", "And 2+2?", history=(("user", "1+1?"), ("assistant", "2")))
    said = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2+2?"},
    ]
    one, batch = (lambda response, messages, prompt: 1), (lambda responses, messages: 1)
    named = Signature(one, "score", {}).arguments(prompt, [Response("r", 1)])[1]
    assert (named["messages"], named["prompt"]) == (said, "And 2+2?")
    assert Signature(batch, "score", {}).arguments(prompt, [Response("r", 1)] * 2)[1]["messages"] == [said, said]


def test_batches_are_bound_by_name() -> None:
    assert call(lambda responses: responses, "a", "b") == ["a", "b"]
    # TRL
    trl = call(lambda prompts, completions, answer, **kwargs: (prompts, completions, answer, kwargs), "a", "b")
    rest = {"source": ["book"] * 2, "extra_info": [{"index": 3}] * 2}
    assert trl == (["2 + 2 = "] * 2, ["a", "b"], ["4", "4"], rest)
    # OpenRLHF
    assert call(lambda queries, prompts, labels: (queries, labels), "a") == (["2 + 2 = a"], ["4"])
    assert call(lambda responses, rows, prompt: (rows, prompt), "a", "b") == ([ROW, ROW], "2 + 2 = ")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: 1, "no parameter for the model's answer"),
        (lambda: 1, "no parameter for the model's answer"),
        (lambda response, responses: 1, "keep only `response` or only `responses`"),
        (lambda self, response: 1, "is a method, and there is no object to call it on"),
        (lambda response, colour: 1, "'colour', but prompt 'p1' has no column of that name; columns: answer, source"),
    ],
)
def test_wrong_signatures_name_the_parameters(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(UserCodeError) as error:
        call(function, "r")
    assert words in str(error.value) and "test_results.py, line" in str(error.value)


def test_options_without_a_parameter_are_refused() -> None:
    with pytest.raises(UserCodeError, match="task.options names 'bonus'"):
        call(lambda response: 1, "r", bonus=1)


@pytest.mark.parametrize(
    ("tokens", "penalty"), [(1, 0.0), (768, 0.0), (769, -1 / 256), (896, -0.5), (1024, -1.0), (1025, -1.0)]
)
def test_the_documented_penalty_is_that_of_dapo(repository: Path, tokens: int, penalty: float) -> None:
    page = (repository / "docs" / "bring-your-own.md").read_text()
    section = page.partition("### A penalty for long answers")[2]
    code, settings = (section.partition(f"```{language}\n")[2].partition("```")[0] for language in ("python", "yaml"))
    names: dict[str, Any] = {}
    exec(code, names)
    task = TaskSettings.model_validate(yaml.safe_load(settings)["task"])
    signature = Signature(names["score"], "score", task.options)
    positional, named = signature.arguments(PROMPT, [Response("it is 4", tokens)])
    verdict = Grading(task.reward_weights).verdict(names["score"](*positional, **named))
    assert verdict.reward == pytest.approx(1.0 + penalty) and verdict.status is Status.CORRECT
