"""A user's own problems: fields, answers, splits and bad lines of the task jsonl."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.verifiers.problem_files import problems, write
from verifiers import Prompt, Status, TaskSettings, make_task
from verifiers.tasks.references import check_references


def own(path: Path, rows: list, **options: object) -> list[Prompt]:
    jsonl = {"test": str(write(path / "own.jsonl", rows)), **options}
    return list(make_task(TaskSettings(name="jsonl", instruction="", jsonl=jsonl)).prompts("test"))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"key": i, "question": f"Is {i} even?", "gold": "yes" if i % 2 == 0 else 3.5, "kind": "x"} for i in range(8)
    ]
    path = str(write(tmp_path / "own.jsonl", rows))
    fields = {"id": "key", "problem": "question", "answer": "gold", "level": "kind"}
    task = make_task(TaskSettings(name="jsonl", jsonl={"train": path, "test": path, **fields}))
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [7, 1, 8]
    first = task.prompts("test")[0]
    assert (first.id, first.level, first.reference) == ("0", "x", {"answer": "yes"})
    assert task.verify(first, "\\boxed{\\text{Yes}}").status is Status.CORRECT
    assert task.verify(task.prompts("test")[1], "\\boxed{7/2}").status is Status.CORRECT
    exact = make_task(TaskSettings(name="jsonl", jsonl={"train": path, "verifier": "exact", **fields}))
    assert exact.verify(first, "\\boxed{yes}").status is Status.CORRECT
    assert exact.verify(first, "\\boxed{Yes}").status is Status.WRONG
    assert exact.verify(first, "").status is Status.UNPARSABLE
    own = make_task(TaskSettings(name="jsonl", jsonl={"train": path, "validation": path, **fields}))
    assert len(own.prompts("train")) == len(own.prompts("validation")) == 8


def test_a_file_of_ones_own_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.jsonl names no file; set task\.jsonl\.train"):
        make_task(TaskSettings(name="jsonl"))
    with pytest.raises(ValueError, match=r"task\.jsonl\.test: no file"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "none.jsonl")}))
    path = str(write(tmp_path / "own.jsonl", problems("a", 1)))
    with pytest.raises(ValueError, match=r"task\.jsonl\.train is not set; set it to the file of the train split"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": path})).prompts("train")
    with pytest.raises(ValueError, match=r"is empty; of 1 training problem none can be held out: add .*\.validation"):
        make_task(TaskSettings(name="jsonl", jsonl={"train": path})).prompts("validation")
    with pytest.raises(ValueError, match="the field 'gold' is missing"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": path, "answer": "gold"})).prompts("test")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_as_public_sets_have_them(tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "data_source": "x",
            "prompt": [{"role": "user", "content": " 1+1? "}],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"index": 7, "levels": ["easy"]},
        },
        {
            "data_source": "x",
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2?"}],
            "reward_model": {"style": "rule", "ground_truth": "3"},
            "extra_info": {"index": 8, "levels": ["hard"]},
        },
    ]
    path = write(tmp_path / "rl.jsonl", rows)
    if suffix == "parquet":
        path = tmp_path / "rl.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    names = {"problem": "prompt", "answer": "reward_model.ground_truth", "level": "extra_info.levels"}
    for extra, ids in (({}, ["test/1", "test/2"]), ({"id": "extra_info.index"}, ["7", "8"])):
        task = make_task(TaskSettings(name="jsonl", instruction="", jsonl={"test": str(path), **names, **extra}))
        prompts = task.prompts("test")
        assert [p.id for p in prompts] == ids
        assert [p.text for p in prompts] == ["1+1?", "Be brief.\n\n1+2?"]
        assert [p.reference for p in prompts] == [{"answer": "2"}, {"answer": "3"}]
        assert [p.level for p in prompts] == ["easy", "hard"]


def test_a_field_with_a_dot_in_its_name_and_values_in_lists(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "1+1"}, {"type": "input_text", "text": "is?"}]
    rows = [
        {"a.b": {"c": ["2"]}, "problem": [{"role": "User", "content": parts}]},
        {"a": {"b": {"c": 3}}, "problem": "?"},
    ]
    prompts = own(tmp_path, rows, answer="a.b.c")
    assert [(p.text, p.reference["answer"]) for p in prompts] == [("1+1\nis?", "2"), ("?", "3")]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"answer": ["1", "2"]},
            {},
            r"'answer' holds 2 different answers; .*answers=any.*\(task\.jsonl\.answer names the field\)",
        ),
        ({"answer": []}, {}, r"'answer' is a list of 0 elements"),
        ({"answer": [[1]]}, {}, r"'answer' is missing or not text"),
        ({"answer": True}, {}, r"'answer' is missing or not text"),
        ({}, {"answer": "gold.value"}, r"'gold\.value' is missing .*\(task\.jsonl\.answer names the field\)"),
        ({}, {"answer": "answer.value"}, r"'answer\.value' is missing"),
        ({}, {"id": "key"}, r"'key' is missing .*task\.jsonl\.id=null numbers the rows"),
        (
            {"problem": [{"role": role, "content": "?"} for role in ("user", "assistant", "user")]},
            {},
            r"'problem' is a conversation of 3 messages before the solution, and task.template=plain .*template=chat",
        ),
        ({"problem": [{"role": "assistant", "content": "?"}]}, {}, r"'problem' is a conversation of 1 messages"),
        ({"problem": [{"role": "system", "content": "?"}]}, {}, r"'problem' is a conversation of 1 messages"),
        ({"problem": [{"role": "user", "content": [{"type": "image"}]}]}, {}, r"'problem' is a message whose content"),
        ({"problem": [{"role": "user", "content": None}]}, {}, r"'problem' is a message whose content is not text"),
        ({"problem": [{"role": "user", "content": " "}]}, {}, r"'problem' is missing or not text"),
    ],
)
def test_values_that_are_not_one_text_are_refused(tmp_path: Path, row: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"own\.jsonl, line 1: the field " + message):
        own(tmp_path, [{"problem": "?", "answer": "1"} | row], **options)


def test_a_chat_template_gets_the_messages_of_a_row(tmp_path: Path) -> None:
    def row(*roles: str) -> dict:
        return {"problem": [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)], "answer": "1"}

    rows = [
        row("user"),
        row("developer", "user", "assistant"),
        row("system", "user", "assistant", "user"),
        {"problem": "alone", "answer": "1"},
    ]
    rows.append(rows[2])
    jsonl = {"test": str(write(tmp_path / "own.jsonl", rows)), "drop_duplicates": True}
    task = make_task(TaskSettings(name="jsonl", template="chat", instruction=" Go!", jsonl=jsonl))
    prompts = task.prompts("test")
    assert [p.text for p in prompts] == ["user 0 Go!", "user 1 Go!", "user 3 Go!", "alone Go!"]
    assert [p.history for p in prompts] == [
        (),
        (("system", "developer 0"),),
        (("system", "system 0"), ("user", "user 1"), ("assistant", "assistant 2")),
        (),
    ]
    assert prompts[1].messages == [
        {"role": "system", "content": "developer 0"},
        {"role": "user", "content": "user 1 Go!"},
    ]
    assert prompts[0].transcript == "user 0 Go!"
    assert prompts[1].transcript == "system: developer 0\n\nuser: user 1 Go!"


def test_problems_differ_if_the_messages_before_them_do(tmp_path: Path) -> None:
    rows = [
        {"problem": [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}], "answer": "1"}
        for system in ("a", "b", "a")
    ]
    jsonl = {"test": str(write(tmp_path / "own.jsonl", rows)), "drop_duplicates": True}
    assert len(make_task(TaskSettings(name="jsonl", template="chat", jsonl=jsonl)).prompts("test")) == 2


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("user", "tool", "user"), r"3 messages \(user, tool, user\); it must consist of messages of system, user"),
        (("assistant",), r"1 messages \(assistant\); it must .* end with the user"),
        (("user", "assistant", "system"), r"3 messages \(user, assistant, system\); it must"),
    ],
)
def test_conversations_without_a_problem_are_refused(tmp_path: Path, roles: tuple[str, ...], message: str) -> None:
    rows = [{"problem": [{"role": role, "content": "?"} for role in roles], "answer": "1"}]
    jsonl = {"test": str(write(tmp_path / "own.jsonl", rows))}
    with pytest.raises(ValueError, match=r"line 1: the field 'problem' is a conversation of " + message):
        make_task(TaskSettings(name="jsonl", template="chat", jsonl=jsonl)).prompts("test")


def test_ids_are_in_all_rows_or_in_none(tmp_path: Path) -> None:
    row = {"problem": "?", "answer": "1"}
    assert [p.id for p in own(tmp_path, [row, row | {"id": None}])] == ["test/1", "test/2"]
    with pytest.raises(ValueError, match=r"line 2: the field 'id' is set here but not in the first row"):
        own(tmp_path, [row, row | {"id": "a"}])
    with pytest.raises(ValueError, match=r"line 2: the field 'id' is missing .*task\.jsonl\.id=null numbers the rows"):
        own(tmp_path, [row | {"id": "a"}, row])
    with pytest.raises(ValueError, match=r"line 2: the id 'a' was seen before .*task\.jsonl\.id=null numbers the rows"):
        own(tmp_path, [row | {"id": "a"}] * 2)


PUBLIC_ROWS = {
    "gsm8k": (
        {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"problem": "question", "solution": "answer"},
    ),
    "numina": (
        {"problem": "1+1?", "solution": "It is $\\boxed{2}$.", "messages": [{"role": "user", "content": "1+1?"}]},
        {"answer": "solution", "solution": "solution"},
    ),
    "dapo": (
        {
            "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4"},
        },
        {"problem": "prompt", "answer": "reward_model.ground_truth", "id": "extra_info.index"},
    ),
    "skywork": (
        {
            "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"ground_truth": '["2"]', "style": "rule"},
            "extra_info": json.dumps({"index": 4}),
        },
        {"problem": "prompt", "answer": "reward_model.ground_truth", "id": "extra_info.index"},
    ),
    "openr1": (
        {
            "problem": "1+1?",
            "answer": "2",
            "generations": ["It is \\boxed{2}", "It is 3"],
            "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is \\boxed{2}"}],
        },
        {"problem": "messages", "solution": "generations.0"},
    ),
    "bigmath": ({"problem": "1+1?", "answer": "2", "llama8b_solve_rate": 0.5}, {"level": "llama8b_solve_rate"}),
    "deepscaler": ({"problem": "1+1?", "answer": 2.0, "solution": "\\boxed{2}"}, {"solution": "solution"}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "\\boxed{2}"}]},
        {"problem": "conversations", "answer": "conversations.1.value", "solution": "conversations"},
    ),
    "messages in text": (
        {"prompt": json.dumps([{"role": "user", "content": "1+1?"}]), "answer": "2"},
        {"problem": "prompt"},
    ),
    "alpaca": (
        {"instruction": "1+1?", "input": "", "output": "2"},
        {"problem": ["instruction", "input"], "answer": "output"},
    ),
    "aliases": (
        {"problem": "1+1?", "answer": {"aliases": ["two", "2"]}},
        {"answer": "answer.aliases", "answers": "any"},
    ),
}


@pytest.mark.parametrize("name", PUBLIC_ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_of_public_sets(tmp_path: Path, name: str, suffix: str) -> None:
    row, names = PUBLIC_ROWS[name]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    else:
        write(file, [row])
    jsonl = {"train": str(file), **names}
    task = make_task(TaskSettings(name="jsonl", instruction="", validation_size=0, jsonl=jsonl))
    (one,) = task.prompts("train")
    assert one.text == "1+1?"
    assert task.verify(one, "So it is \\boxed{2}").status is Status.CORRECT
    assert task.verify(one, "So it is \\boxed{3}").status is Status.WRONG
    if "solution" in names:
        assert one.demonstration and task.verify(one, one.demonstration).status is Status.CORRECT


def test_a_row_with_context_and_one_in_another_script(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Wie viele?", "context": "Drei \u00c4pfel.", "response": "3"},
        {"instruction": "\u4e8c\u52a0\u4e00\u662f\u591a\u5c11\uff1f", "response": "3"},
    ]
    prompts = own(tmp_path, rows, problem=["instruction", "context"], answer="response")
    assert [p.text for p in prompts] == ["Wie viele?\n\nDrei \u00c4pfel.", rows[1]["instruction"]]


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (["2", "two", "2"], ["2", "two"]),
        ('["2", "two"]', ["2", "two"]),
        ("[2, 3]", ["2", "3"]),
        ([2, 3.0, 0.0000001], ["2", "3", "0.0000001"]),
        ("2", "2"),
        (["2"], "2"),
        ("(2, 3]", "(2, 3]"),
    ],
)
def test_several_acceptable_answers(tmp_path: Path, value: object, answers: object) -> None:
    (one,) = own(tmp_path, [{"problem": "?", "answer": value}], answers="any")
    assert one.reference["answer"] == answers


def test_one_of_several_answers_is_enough(tmp_path: Path) -> None:
    for verifier in ("math", "exact"):
        file = str(write(tmp_path / "own.jsonl", [{"problem": "?", "answer": ["7", "seven"]}]))
        task = make_task(TaskSettings(name="jsonl", jsonl={"test": file, "answers": "any", "verifier": verifier}))
        (one,) = task.prompts("test")
        assert [task.verify(one, f"\\boxed{{{answer}}}").reward for answer in ("7", "seven", "8")] == [1, 1, 0]
        assert check_references(task, [one]).failures == ()


def test_one_answer_may_look_like_a_list(tmp_path: Path) -> None:
    values = ["[2, 3]", ["[2, 3]"], '["x"]', 42.0, 2.5, True]
    rows = [{"problem": f"{n}?", "answer": value} for n, value in enumerate(values)]
    assert [p.reference["answer"] for p in own(tmp_path, rows[:-1])] == ["[2, 3]", "[2, 3]", "x", "42", "2.5"]
    with pytest.raises(ValueError, match=r"line 1: the field 'answer' is missing or not text \(it is true\)"):
        own(tmp_path, rows[-1:])
    with pytest.raises(ValueError, match=r"is an object with the fields a, b; name one of them"):
        own(tmp_path, [{"problem": "?", "answer": {"a": 1, "b": 2}}])


def test_bad_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    good = [{"id": str(n), "problem": f"{n}?", "answer": "1"} for n in range(3)]
    bad = ["{", "[]", {"id": "4", "problem": "?"}, {"id": "0", "problem": "again?", "answer": "1"}]
    file = str(write(tmp_path / "own.jsonl", [good[0], *bad, *good[1:]]))
    task = make_task(TaskSettings(name="jsonl", jsonl={"test": file, "skip_bad": True}))
    assert [p.id for p in task.prompts("test")] == ["0", "1", "2"]
    assert task.notes("test") == [f"from {file}", "4 bad lines skipped"]
    (warning,) = task.warnings("test")
    for part in ("4 bad lines skipped", "line 2: not valid JSON", "line 5: the id '0' was seen before (line 1)"):
        assert part in warning
    with pytest.raises(ValueError, match="every line is bad"):
        own(tmp_path, ['{"id"', *bad[1:3]], skip_bad=True)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(good[0]).encode() + b"\n" * 999)[:-9])
    cut = {"test": str(tmp_path / "cut.jsonl.gz"), "skip_bad": True}
    with pytest.raises(ValueError, match="cut off or damaged"):
        make_task(TaskSettings(name="jsonl", jsonl=cut)).prompts("test")


def test_duplicates_are_dropped_before_problems_are_held_out(tmp_path: Path) -> None:
    rows = [{"problem": f"{n % 10}  + 1?", "answer": str(n % 10 + n // 25)} for n in range(30)]
    file = str(write(tmp_path / "own.jsonl", rows))
    task = make_task(TaskSettings(name="jsonl", jsonl={"train": file, "validation_share": 0.3}))
    assert len(task.prompts("train")) == 21
    assert "problems repeat the text of an earlier one" in task.warnings("train")[0]
    task = make_task(
        TaskSettings(name="jsonl", jsonl={"train": file, "validation_share": 0.3, "drop_duplicates": True})
    )
    texts = [{p.text for p in task.prompts(split)} for split in ("train", "validation")]
    assert [len(found) for found in texts] == [7, 3] and not texts[0] & texts[1]
    assert "20 duplicates dropped" in task.notes("train") and task.warnings("train") == []


def test_splits_by_share(tmp_path: Path) -> None:
    file = str(
        write(tmp_path / "own.jsonl", [{"problem": f"{n}?", "answer": "1", "solution": "1"} for n in range(100)])
    )
    jsonl = {"train": file, "validation_share": 0.1, "test_share": 0.2, "solution": "solution"}
    task = make_task(TaskSettings(name="jsonl", jsonl=jsonl))
    splits = {split: [p.id for p in task.prompts(split)] for split in ("train", "validation", "test")}
    assert [len(ids) for ids in splits.values()] == [70, 10, 20] and len(set().union(*splits.values())) == 100
    other = make_task(TaskSettings(name="jsonl", seed=5, jsonl=jsonl))
    assert [p.id for p in other.prompts("test")] == splits["test"]
    assert {p.id for p in other.prompts("train")} == set(splits["train"])
    assert [p.id for p in other.prompts("train")] != splits["train"]
    assert {p.demonstration for p in task.prompts("train")} == {"1"}
    assert {p.demonstration for p in task.prompts("validation")} == {None}
    assert task.notes("train") == [
        f"from {file}",
        "10 held out for validation",
        "20 held out for the test split",
        "order by task.seed = 0",
    ]
    assert task.notes("test") == [f"held out of {file} by a hash of the id"]
    for wrong, message in (
        ({"test": file, "test_share": 0.1}, r"task\.jsonl\.test_share = 0\.1, but task\.jsonl\.test names a file"),
        ({"test_share": 0.1}, r"task\.jsonl\.test_share = 0\.1 needs task\.jsonl\.train"),
        ({"train": file, "test_share": 0.3, "validation_share": 0.3}, r"together above 0\.5"),
    ):
        with pytest.raises(ValueError, match=message):
            TaskSettings(name="jsonl", jsonl=wrong)
    with pytest.raises(ValueError, match=r"task\.validation_size = 5 and task\.jsonl\.validation_share = 0\.1 both"):
        TaskSettings(name="jsonl", validation_size=5, jsonl={"train": file, "validation_share": 0.1})
