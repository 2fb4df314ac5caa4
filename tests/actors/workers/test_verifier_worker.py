"""The verifier worker: grades every sample in place, and never turns its own failure into a reward."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from dataclasses import replace

import numpy as np
import pytest

from actors.group import Group
from actors.group_metrics import group_metrics
from actors.workers.verifier_worker import Ready, VerifierWorker
from learner.tiny_model import character_tokenizer
from tests.actors.test_group import make_group
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask, UserScorer
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.verdict import Status, Verdict

PROMPT = Prompt(id="p", text="", reference={}, level="easy")


@pytest.fixture()
def worker(tmp_path):
    character_tokenizer().save_pretrained(tmp_path)
    return VerifierWorker("verifier-0", TaskSettings(), str(tmp_path))


class Scripted:
    """A task with verdicts set by the test."""

    def __init__(self, verdicts: dict[str, Verdict]) -> None:
        self.name = "scripted"
        self.verdicts = verdicts
        self.seen: list[str] = []

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        self.seen.append(response)
        return self.verdicts[response]


def group_of(worker: VerifierWorker, texts: list[str]) -> Group:
    tokens = [np.array([*worker._tokenizer.encode(t, add_special_tokens=False), 2], np.int32) for t in texts]
    group = make_group([len(t) for t in tokens], graded=False)
    object.__setattr__(group, "response_tokens", tokens)
    return group


def test_reward_and_score_stay_with_their_sample(worker):
    worker._task = task = Scripted(
        {
            "1+2": Verdict(Status.CORRECT, reward=1.0, score=0.25, answer="3"),
            "9": Verdict(Status.WRONG, reward=0.0, score=None),
        }
    )
    batch = group_of(worker, ["9", "1+2", "9"]).to_record_batch()
    count, graded = asyncio.run(worker.grade(batch, PROMPT))
    group = Group.from_record_batch(graded)
    assert count == 3
    assert group.reward.tolist() == [0.0, 1.0, 0.0]
    assert group.score.tolist() == [0.0, 0.25, 0.0], "without a scorer the verifier ranks by the reward"
    assert group.verdict == ["wrong", "correct", "wrong"] and group.answer == [None, "3", None]
    assert task.seen == ["9", "1+2"], "equal responses are graded once; the end token is not part of the answer"


def test_a_graded_group_holds_its_texts(worker):
    """The response is the text that was graded; what Arrow cannot hold is replaced, and long references left out."""
    worker._task = Scripted({"9": Verdict.binary(Status.WRONG)})
    prompt = Prompt(id="p", text="reach 9 \ud800", reference={"target": 9}, level="easy")
    batch = group_of(worker, ["9", "9"]).to_record_batch()
    group = Group.from_record_batch(asyncio.run(worker.grade(batch, prompt))[1])
    assert group.response_text == worker._task.seen * 2 == ["9", "9"]
    assert group.prompt_text == "reach 9 ?" and json.loads(group.reference) == {"target": 9}
    talk = replace(prompt, history=(("user", "hello"), ("assistant", "hi")))
    recorded = Group.from_record_batch(asyncio.run(worker.grade(batch, talk))[1]).prompt_text
    assert recorded == "user: hello\n\nassistant: hi\n\nuser: reach 9 ?", "the whole conversation"
    long = replace(prompt, reference={"tests": "x" * 5_000})
    assert Group.from_record_batch(asyncio.run(worker.grade(batch, long))[1]).reference is None


def test_a_verifier_that_fails_is_not_a_wrong_answer(worker):
    failure = Verdict(Status.VERIFIER_ERROR, reward=None, score=None, detail="out of memory")
    worker._task = task = Scripted({"1": failure, "2": Verdict(Status.WRONG, reward=0.0, score=None)})
    _, graded = asyncio.run(worker.grade(group_of(worker, ["1", "2"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert task.seen == ["1", "1", "2"], "it gets a second chance"
    assert not group.usable and group.verdict == ["verifier_error", "wrong"]
    assert np.isnan(group.reward[0]) and group.reward[1] == 0.0
    assert group.detail == ["out of memory", ""], "the reason is in the record"


def test_a_worker_reports_its_sandbox(tmp_path):
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the seccomp filter is for Linux on x86_64")
    character_tokenizer().save_pretrained(tmp_path)
    row = {"id": "m", "problem": "Add.", "tests": ["assert add(1, 2) == 3"]}
    for name, split in (("mbpp.jsonl", "train"), ("mbpp_sanitized.jsonl", "test")):
        (tmp_path / name).write_text(json.dumps({**row, "split": split}) + "\n")
    task = TaskSettings(name="mbpp", path=str(tmp_path), sandbox={"preload": ()})
    ready = asyncio.run(VerifierWorker("verifier-0", task, str(tmp_path)).ready())
    assert ready.sandbox is not None and ready.sandbox["level"] in ready.lines[0]
    assert ready.lines[0].startswith("code sandbox: level L")
    assert asyncio.run(VerifierWorker("verifier-0", TaskSettings(), str(tmp_path)).ready()) == Ready()


def test_the_demonstration_is_judged_too(worker):
    worker._task = Scripted({"1": Verdict.binary(Status.WRONG), "1+1": Verdict(Status.CORRECT, reward=1.0, score=0.75)})
    group = replace(group_of(worker, ["1"]), demonstration_tokens=np.array([3, 2], np.int32))
    _, graded = asyncio.run(worker.grade(group.to_record_batch(), replace(PROMPT, demonstration="1+1")))
    assert Group.from_record_batch(graded).demonstration_score == 0.75


def test_a_score_that_is_not_finite_is_a_verifier_error(worker):
    """A network that overflowed gives NaN: the group is skipped with the reason, the run continues."""

    class Overflowed:
        def scores(self, prompt, responses, verdicts):
            return [float("nan") if response == "2" else 0.5 for response in responses]

    worker._task = Scripted({text: Verdict.binary(Status.WRONG) for text in ("1", "2")})
    worker._scorer = Overflowed()
    _, graded = asyncio.run(worker.grade(group_of(worker, ["1", "2"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert not group.usable and group.verdict == ["wrong", "verifier_error"] and np.isnan(group.reward[1])
    assert group.detail == ["", "the scorer gave nan"]
    shown = replace(group_of(worker, ["1"]), demonstration_tokens=np.array([4, 2], np.int32))
    _, graded = asyncio.run(worker.grade(shown.to_record_batch(), replace(PROMPT, demonstration="2")))
    assert not Group.from_record_batch(graded).usable


def test_a_format_bonus_goes_to_answers_that_can_be_read(tmp_path):
    character_tokenizer().save_pretrained(tmp_path)
    worker = VerifierWorker("verifier-0", TaskSettings(format_bonus=0.1, scorer={"kind": "majority"}), str(tmp_path))
    right, wrong = Verdict.binary(Status.CORRECT, answer="1"), Verdict.binary(Status.WRONG, answer="2")
    worker._task = Scripted({"1": right, "2": wrong, "3": Verdict.binary(Status.UNPARSABLE)})
    _, graded = asyncio.run(worker.grade(group_of(worker, ["1", "2", "3", "2"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert group.reward.tolist() == [1.1, 0.1, 0.0, 0.1]
    assert group.score.tolist() == [0.25, 0.5, 0.0, 0.5], "the vote is over the group"


class Grades:
    """Grades by a table: the parts of each answer; None is a failure."""

    def __init__(self, parts: dict[str, dict[str, float] | None]) -> None:
        self.parts = parts
        self.calls: list[list[str]] = []

    def start(self) -> str:
        return "ready"

    def close(self) -> None:
        pass

    def grade(self, prompt: Prompt, responses: list[Response]) -> list[Verdict]:
        self.calls.append(responses)
        found = [self.parts[response.text] for response in responses]
        return [
            Verdict.failed("my_rewards.py, line 3: broken")
            if parts is None
            else Verdict(Status.WRONG, reward=sum(parts.values()), score=0.0, parts=parts)
            for parts in found
        ]


def test_a_reward_of_the_user_gets_the_group_at_once_and_its_parts_are_recorded(worker):
    grades = Grades({"1+2": {"correct": 1.0, "format": 0.5}, "9": {"correct": 0.0}})
    worker._task = RewardedTask(Scripted({}), grades)
    _, graded = asyncio.run(worker.grade(group_of(worker, ["9", "1+2", "9"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert grades.calls == [[Response("9", 2), Response("1+2", 4)]], "equal answers are graded once"
    assert group.rewards.tolist() == [0.0, 1.5, 0.0] and group.part_names == ["correct", "format"]
    assert np.array_equal(group.parts, [[0.0, np.nan], [1.0, 0.5], [0.0, np.nan]], equal_nan=True)
    row = group_metrics([group], np.zeros((1, 3)), version=group.newest_version)
    assert row["reward_part/correct"] == pytest.approx(1 / 3) and row["reward_part/format"] == 0.5
    assert "reward_part/correct" not in group_metrics(
        [replace(group, part_names=None, parts=None)], np.zeros((1, 3)), version=group.newest_version
    )


def test_a_reward_and_a_scorer_of_the_user_get_length_and_end_of_each_answer(worker):
    rewards, scores = Grades({"9": {"correct": 0.0}}), Grades({"9": {"correct": 0.0}})
    worker._task, worker._scorer = RewardedTask(Scripted({}), rewards), UserScorer(scores)
    group = replace(group_of(worker, ["9", "9"]), finish_reason=["length", "stop"])
    group = replace(group, demonstration_tokens=np.array([3, 4, 2], np.int32))
    asyncio.run(worker.grade(group.to_record_batch(), replace(PROMPT, demonstration="9")))
    samples = [Response("9", 2, "length"), Response("9", 2)]
    assert rewards.calls == [samples, [Response("9", 3)]]
    assert scores.calls == [[*samples, Response("9", 3)], samples]


def test_a_reward_of_the_user_that_fails_is_no_wrong_answer(worker):
    worker._task = RewardedTask(Scripted({}), Grades({"9": None, "1+2": {"correct": 1.0}}))
    _, graded = asyncio.run(worker.grade(group_of(worker, ["9", "1+2"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert not group.usable and np.isnan(group.rewards[0]) and "my_rewards.py, line 3: broken" in group.fault


def test_text_that_arrow_cannot_hold_is_recorded_without_it(worker):
    odd = Verdict(Status.CORRECT, reward=1.0, score=1.0, answer="\ud800x", detail="half \ud800")
    worker._task = Scripted({"9": odd})
    _, graded = asyncio.run(worker.grade(group_of(worker, ["9"]).to_record_batch(), PROMPT))
    group = Group.from_record_batch(graded)
    assert group.usable and group.answer == ["?x"] and list(group.detail) == ["half ?"]
