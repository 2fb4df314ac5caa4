"""`bonrl grade`: rows in order, nothing graded before every row is sound, no verdict lost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.grading import KINDS, CodeOptions, Kind, grade_file
from cluster.commands.own_reward import reward_kind, reward_settings
from cluster.errors import UsageError
from verifiers.verdict import Status, Verdict

ROWS = [
    {"id": "a", "prediction": "3 * (1 + 7)", "numbers": [1, 3, 7], "target": 24},
    {"id": 2, "prediction": "3 * 7 + 1", "numbers": [1, 3, 7], "target": 24},
    {"id": "c", "prediction": "no idea", "numbers": [1, 3, 7], "target": 24},
]


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def without_id(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "id"}


def test_rows_without_ids_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["", *map(without_id, ROWS)])
    grade_file(source, tmp_path / "out.jsonl", "countdown", timeout_s=1.0)
    assert [(row["id"], row["status"]) for row in graded(tmp_path / "out.jsonl")] == [
        (2, "correct"), (3, "wrong"), (4, "unparsable"),
    ]  # fmt: skip


def test_rows_are_graded_in_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    counts = grade_file(source, tmp_path / "out.jsonl", "countdown", timeout_s=1.0, parallel=3)
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"], row["reward"]) for row in graded] == [
        ("a", "correct", 1.0), (2, "wrong", 0.0), ("c", "unparsable", 0.0),
    ]  # fmt: skip
    assert graded[0].keys() == {"id", "status", "reward", "seconds", "answer", "detail"}
    assert counts == {"correct": 1, "wrong": 1, "unparsable": 1}


MATH = [
    {"id": "1", "prediction": r"so \boxed{\frac12}", "reference": "0.5"},
    {"id": "é", "prediction": "three\u2028\x85 four", "reference": "\\text{three}"},
    {"id": "\ud800", "prediction": "\ud800", "reference": "7"},
    {"id": "3", "prediction": "\\boxed{4} or \\boxed{5}", "reference": "5"},
]


def graded(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("process_rows", [1, 1000])
def test_mathematics_in_threads_and_in_processes(
    process_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.commands.grading.PROCESS_ROWS", process_rows)
    source = write(tmp_path / "in.jsonl", [json.dumps(row, ensure_ascii=row["id"] != "é") for row in MATH])
    grade_file(source, tmp_path / "out.jsonl", "math", timeout_s=5.0, parallel=2)
    assert [(row["id"], row["status"]) for row in graded(tmp_path / "out.jsonl")] == [
        ("1", "correct"), ("é", "wrong"), ("\ud800", "wrong"), ("3", "wrong"),
    ]  # fmt: skip


def test_gsm8k(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prediction": "#### 5", "reference": "5"},
        {"id": 2, "prediction": "#### 5 (not 6)", "reference": "6"},
    ]
    grade_file(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", "gsm8k", timeout_s=1.0)
    assert [row["status"] for row in graded(tmp_path / "out.jsonl")] == ["correct", "unparsable"]


CHECK = {
    "prompt": "def f(x):\n    '''Add one.'''\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    "entry_point": "f",
}
STDIO = {"test": [{"input": "3\n", "output": "4\n"}]}


def test_code_in_three_conventions(tmp_path: Path) -> None:
    rows = [
        {"id": "check", "completion": "    return x + 1\n", "task": CHECK},
        {"id": "wrong", "completion": "    return x\n", "task": CHECK},
        {"id": "asserts", "completion": "def g(x):\n    return 3\n", "task": {"test": "assert g(1) == 3"}},
        {
            "id": "stdio",
            "completion": "```python\nprint(int(input()) + 1)\n```",
            "task": {**STDIO, "prompt": "Add one."},
        },
        {
            "id": "example",
            "completion": "```python\ndef g(x):\n    return 3\n```\nUse:\n```python\nprint(len('a'))\n```",
            "task": {"test": "assert g(1) == 3"},
        },
        {"id": "none", "completion": "", "task": CHECK},
    ]
    said: list[str] = []
    source = write(tmp_path / "in.jsonl", rows)
    grade_file(source, tmp_path / "out.jsonl", "code", timeout_s=10.0, parallel=1, say=said.append)
    assert [(row["id"], row["status"]) for row in graded(tmp_path / "out.jsonl")] == [
        ("check", "correct"), ("wrong", "wrong"), ("asserts", "correct"), ("stdio", "correct"), ("example", "correct"),
        ("none", "unparsable"),
    ]  # fmt: skip
    assert len(said) == 1 and said[0].startswith("code sandbox: level L")


def test_options_of_code(tmp_path: Path) -> None:
    """Those of a row come before those of the command; the time limit of a row is that of a case."""
    slow = "import time\ntime.sleep(0.3 if int(input()) else 0)\nprint(1)\n"
    two = [{"input": "0", "output": "1"}, {"input": "1", "output": "1"}]
    thread = "import threading\nt = threading.Thread(target=print, args=(1,))\nt.start(); t.join()\n"
    close = {"test": [{"input": "", "output": "0.3"}]}
    loop = {"entry_point": "f", "prompt": "", "test": CHECK["test"], "time_limit": 0.3}
    rows = [
        {"id": "row", "completion": slow, "task": {"test": two, "time_limit": 0.2}},
        {"id": "total", "completion": slow, "task": {"test": two, "total_time_limit": 0.25}},
        {"id": "fits", "completion": slow, "task": {"test": two, "time_limit": 2, "total_time_limit": 3.5}},
        {"id": "thread", "completion": thread, "task": {"test": two[:1]}},
        {"id": "no thread", "completion": thread, "task": {"test": two[:1], "threads": 1}},
        {"id": "close", "completion": "print(0.1+0.2)", "task": close},
        {"id": "exact", "completion": "print(0.1+0.2)", "task": {**close, "tolerance": 0}},
        {"id": "function", "completion": "def f(x):\n    while True: pass\n", "task": loop},
    ]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file(source, output, "code", timeout_s=5.0, parallel=1, code=CodeOptions(60.0, 2, 1e-9))
    found = {row["id"]: (row["status"], row["detail"]) for row in graded(output)}
    assert found["row"] == ("timeout", "case 2: over 0.2 s of wall time")
    assert found["total"][0] == "timeout" and found["total"][1].endswith("the rest of 0.25 s for all cases")
    assert found["function"] == ("timeout", "over 0.3 s of wall time")
    limited = "RuntimeError: can't start new thread (the sandbox limits how many a program may start)"
    assert found["no thread"] == ("crash", f"case 1: the program raised {limited}")
    assert {name: status for name, (status, _) in found.items() if status in ("correct", "wrong")} == {
        "fits": "correct", "thread": "correct", "close": "correct", "exact": "wrong",
    }  # fmt: skip
    with pytest.raises(UsageError, match="--tolerance apply to --verifier code only; leave them out with countdown"):
        grade_file(source, tmp_path / "no.jsonl", "countdown", timeout_s=1.0, code=CodeOptions(tolerance=1e-6))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({**STDIO, "time_limit": "5"}, r"line 2: the field 'time_limit' is '5'; give a number from 0.001 to 3600"),
        ({**STDIO, "total_time_limit": 0}, r"line 2: the field 'total_time_limit' is 0; give a number from"),
        ({**STDIO, "threads": 2.0}, r"line 2: the field 'threads' is 2.0; give an integer from 1 to 64"),
        ({**STDIO, "tolerance": 1}, r"line 2: the field 'tolerance' is 1; give a number from 0 to 0.999"),
        ({**STDIO, "tolerance": True}, r"line 2: the field 'tolerance' is True; give a number"),
        ({**CHECK, "test": "def ("}, r"line 2: the tests do not compile: .*; fix the line"),
        ({**CHECK, "entry_point": "f g"}, r"line 2: .*'f g'.*; fix the line"),
        ({**CHECK, "test": 3}, r"line 2: the field 'test' is missing or not text or a list"),
        ({**CHECK, "prompt": None}, r"line 2: the field 'prompt' is missing or not text"),
        ({"test": CHECK["test"]}, r"line 2: the tests define check\(candidate\) and never call it; give entry_point"),
        ({"test": [{"input": 3}]}, r"line 2: case 1 of the tests must be an object"),
        (None, r"line 2: the field 'task' is missing or not an object"),
    ],
)
def test_broken_tests_are_named_before_the_sandbox_starts(tmp_path: Path, task: object, message: str) -> None:
    rows = [{"id": 1, "completion": "x", "task": CHECK}, {"id": 2, "completion": "x", "task": task}]
    with pytest.raises(UsageError, match=message):
        grade_file(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", "code", timeout_s=1.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id"'], "line 1: not valid JSON"),
        ([ROWS[0], "[" * 100_000], "line 2: not valid JSON"),
        ([ROWS[0], {**ROWS[1], "prediction": None}], "line 2: the field 'prediction' is missing or not text"),
        ([{**ROWS[0], "target": "24"}], "the field 'target' is missing or not an integer"),
        ([{**ROWS[0], "numbers": ["a", None]}], "line 1: the field 'numbers' is not a list of integers; fix the line"),
        ([["a"]], "is a JSON array; write one object per line"),
        ([{**ROWS[0], "id": None}], "line 1: the field 'id' is missing or not text or an integer"),
        ([{**ROWS[0], "id": ["a"]}], "line 1: the field 'id' is missing or not text"),
        ([ROWS[0], without_id(ROWS[1])], "line 2: the field 'id' is missing or not text or an integer"),
        ([without_id(ROWS[0]), ROWS[1]], "line 2: the field 'id' is set here but not in the first row; set it in all"),
        ([ROWS[0], ROWS[1], ROWS[0]], r"line 3: the id 'a' was seen before \(line 1\); fix the line"),
        ([], "holds no rows"),
    ],
)
def test_a_broken_row_is_named_before_anything_is_graded(tmp_path: Path, lines: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grade_file(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl", "countdown", timeout_s=1.0)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_else_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(UsageError, match="choose one of math, gsm8k, code, countdown"):
        grade_file(source, tmp_path / "out.jsonl", "maths", timeout_s=1.0)
    with pytest.raises(UsageError, match="exists already"):
        grade_file(source, source, "countdown", timeout_s=1.0)
    with pytest.raises(UsageError, match="cannot be read"):
        grade_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl", "countdown", timeout_s=1.0)

    with pytest.raises(UsageError, match=r"--timeout 99999: .*at most 3600"):
        code = write(tmp_path / "code.jsonl", [{"id": 1, "completion": "x", "task": CHECK}])
        grade_file(code, tmp_path / "out.jsonl", "code", timeout_s=99_999)


@pytest.mark.parametrize("failure", [KeyError, KeyboardInterrupt])
def test_a_failure_loses_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    def broken(row: str) -> Verdict:
        if row == "third":
            raise failure(row)
        return Verdict.binary(Status.WRONG)

    monkeypatch.setitem(KINDS, "broken", Kind(lambda fields: fields["prediction"], lambda *_: (broken, "")))
    rows = [{"id": i, "prediction": text} for i, text in enumerate(("first", "second", "third", "fourth"))]
    source = write(tmp_path / "in.jsonl", rows)
    said: list[str] = []
    with pytest.raises(failure):
        grade_file(source, tmp_path / "out.jsonl", "broken", timeout_s=1.0, parallel=1, say=said.append)
    assert said == [f"2 of 4 rows were graded; their verdicts are in {tmp_path / 'out.jsonl.partial'}"]
    assert [row["id"] for row in graded(tmp_path / "out.jsonl.partial")] == [0, 1]
    with pytest.raises(UsageError, match=r"out\.jsonl\.partial exists already; name another output, or move"):
        grade_file(source, tmp_path / "out.jsonl", "broken", timeout_s=1.0)


def test_all_bad_rows_are_listed(tmp_path: Path) -> None:
    source = tmp_path / "answers.jsonl"
    source.write_text('{"id": 1}\nno JSON\n{"id": 2, "prediction": "4", "reference": "4"}\n{"id": 2}\n')
    with pytest.raises(UsageError) as refused:
        grade_file(source, tmp_path / "graded.jsonl", "math", timeout_s=5.0, parallel=1)
    assert re.findall(r"answers.jsonl, line (\d):", str(refused.value)) == ["1", "2", "4"]


REWARD = """
import os


def score(prompt, response, answer, source, limit=9):
    if response == "crash":
        os._exit(3)
    if response == "raise":
        raise KeyError(source)
    return {"correct": answer in response, "length": len(response) <= limit, "answer": f"{prompt} {source}"}


def other(response, solution_text):
    return 1.0


def seen(prompt, response, reference):
    return {"score": 1.0, "answer": repr((prompt, reference))}


def counts(response, log):
    with open(log, "a") as file:
        file.write(response)
    return 1.0


def waits(messages, responses, ground_truths):
    import time

    time.sleep(30 * (responses == ["late"]))
    return [len(messages[0]) + (ground_truths == ["b"])]
"""


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Grades rows with a function of REWARD; the graded rows by id."""
    (tmp_path / "my_rewards.py").write_text(REWARD)

    def grade(name: str, rows: list[object], *overrides: str, timeout_s: float | None = None) -> dict[Any, dict]:
        reference, output = f"{tmp_path}/my_rewards.py:{name}", tmp_path / f"{name}.jsonl"
        with reward_kind(reward_settings(reference, overrides, timeout_s)) as kind:
            source = write(tmp_path / "in.jsonl", rows)
            grade_file(source, output, reference, timeout_s=5.0, parallel=2, own=kind)
        return {row["id"]: row for row in graded(output)}

    return grade


def test_a_reward_of_ones_own_reads_the_columns_of_the_row(own: Any) -> None:
    rows = [
        {"id": i, "problem": "p", "prediction": text, "answer": "b", "source": "s"}
        for i, text in enumerate(("a b", "a long b", "raise", "crash"))
    ]
    found = own("score", rows, "task.options={limit: 3}", "task.reward_weights={correct: 1.0, length: 0.5}")
    assert [found[i]["reward"] for i in range(4)] == [1.5, 1.0, None, None]
    assert [found[i]["status"] for i in range(4)] == ["correct", "correct", "verifier_error", "verifier_error"]
    assert found[0]["answer"] == "p s" and found[0]["parts"] == {"correct": 1.0, "length": 1.0}
    assert "KeyError: 's'" in found[2]["detail"] and "my_rewards.py" in found[2]["detail"]
    assert "died" in found[3]["detail"] or "exit" in found[3]["detail"], found[3]["detail"]


def test_conversations_other_names_and_the_deadline(own: Any) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [{"id": name, "prompt": turns, "prediction": name, "reference": "b"} for name in ("a", "late")]
    found = own("waits", rows, timeout_s=0.5)
    assert found["a"]["reward"] == 3.0, "two messages, and the reference under verl's name"
    assert found["late"]["status"] == "verifier_error" and "no result within 0.5 s" in found["late"]["detail"]


def test_fields_are_named_as_in_training(own: Any) -> None:
    """Nested fields and several fields, through the keys of task.jsonl; a number is text, as a run reads it."""
    turns = [{"role": "user", "content": "q"}]
    rows = [
        {"id": 1, "ask": {"turns": turns}, "extra": "more", "prediction": "b", "reward_model": '{"ground_truth": 42}'},
        {"id": 2, "ask": {"turns": turns}, "prediction": "b", "reward_model": {"ground_truth": [42]}},
    ]
    keys = ("task.jsonl.problem=[ask.turns, extra]", "task.jsonl.answer=reward_model.ground_truth")
    found = own("seen", rows, *keys)
    assert found[1]["answer"] == repr(("q\n\nmore", "42"))
    assert found[2]["answer"] == repr(("q", "42"))
    with pytest.raises(UsageError, match=r"line 1: the field 'none\.turns' is missing.*task\.jsonl\.problem names the"):
        own("score", rows, "task.jsonl.problem=none.turns")


def test_a_reward_that_cannot_grade_is_refused(own: Any, tmp_path: Path) -> None:
    row = {"id": 1, "problem": "p", "prediction": "a"}
    with pytest.raises(UsageError, match=r"first row: .*'solution_text', but prompt '1' has no column"):
        own("other", [row])
    with pytest.raises(UsageError, match=r"my_rewards\.py.*no 'missing'"):
        own("missing", [row])
    with pytest.raises(UsageError, match=r"line 2: the field 'prompt' is missing or not text"):
        own("score", [row, {"id": 2, "prediction": "a"}])
    with pytest.raises(UsageError, match=r"override run\.steps=3: only task\.options"):
        own("score", [row], "run.steps=3")
    assert not list(tmp_path.glob("*.jsonl*")) or [path.name for path in tmp_path.glob("*.jsonl*")] == ["in.jsonl"]


def test_rows_without_a_reward_are_reported_with_the_first_reason(own: Any, tmp_path: Path) -> None:
    rows = [{"problem": "p", "prediction": text, "answer": "a", "source": "s"} for text in ("a", "raise", "raise")]
    source, output, said = write(tmp_path / "in.jsonl", rows), tmp_path / "new" / "out.jsonl", []
    overrides = ("task.reward_weights={correct: 1, length: 0}",)
    with reward_kind(reward_settings(f"{tmp_path}/my_rewards.py:score", overrides, None)) as kind:
        grade_file(source, output, "own", timeout_s=5.0, parallel=2, own=kind, say=said.append)
    assert said[-1].startswith("2 of 3 rows have no reward (verifier_error); the first, 2: ") and "KeyError" in said[-1]
    assert len(graded(output)) == 3, "its directory is made"


def test_a_reward_of_ones_own_grades_every_row_once(own: Any, tmp_path: Path) -> None:
    """Also the first one, on which it is tried: a call may cost money."""
    log = tmp_path / "calls"
    rows = [{"id": i, "problem": "p", "prediction": text} for i, text in enumerate("abc")]
    found = own("counts", rows, f"task.options={{log: {log}}}")
    assert [found[i]["reward"] for i in range(3)] == [1.0, 1.0, 1.0]
    assert sorted(log.read_text()) == ["a", "b", "c"]
