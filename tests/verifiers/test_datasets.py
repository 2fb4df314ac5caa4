"""Files of problems: what is refused and how, splits, the tasks on mathematics, contamination."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verifiers import Prompt, Status, TaskSettings, make_task
from verifiers.tasks.contamination import contamination
from verifiers.tasks.datasets import local_file, read_objects, read_rows
from verifiers.tasks.demonstrations import check_demonstrations
from verifiers.tasks.fields import json_value
from verifiers.tasks.file_task import hold_out
from verifiers.tasks.gsm8k import FILES as GSM8K_FILES
from verifiers.tasks.math_tasks import IDS_FILE, MATH500_FILE, TEST_FILE, TRAIN_FILE
from verifiers.tasks.references import check_references

DATA = Path(os.environ.get("BONRL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(split: str, count: int) -> list[dict]:
    return [
        {
            "id": f"{split}/{i}",
            "problem": f"What is ${i}+1$?",
            "answer": str(i + 1),
            "level": str(1 + i % 5),
            "subject": "Algebra" if i % 2 else "Geometry",
        }
        for i in range(count)
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / TRAIN_FILE, problems("train", 30))
    write(tmp_path / TEST_FILE, problems("test", 20))
    write(tmp_path / MATH500_FILE, problems("test", 5))
    ids = [f"train/{i}" for i in range(30)] + [f"test/{i}" for i in range(5, 20)]
    (tmp_path / IDS_FILE).write_text("\n".join(ids))
    return tmp_path


def settings(directory: Path, name: str = "math", **options: object) -> TaskSettings:
    return TaskSettings(**{"name": name, "path": str(directory), **options})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"rows\.jsonl, line 2: not valid JSON .*each line must be one JSON object"),
        ("[" * 100_000, r"line 2: not valid JSON"),
        ('"text"', r"line 2: not a JSON object; each line must be one"),
        ({"id": "b", "problem": "?"}, r"line 2: the field 'answer' is missing or not text; add it to the line"),
        ({"id": "b", "problem": " ", "answer": "1"}, r"line 2: the field 'problem' is missing"),
        ({"id": "b", "problem": "?", "answer": 1}, r"line 2: the field 'answer' is missing or not text"),
        ('{"id": "b", "problem": "?", "answer": NaN}', r"line 2: not valid JSON \(NaN is no number of JSON\)"),
        ('{"id": "b", "problem": "?", "answer": ' + "1" * 5_000 + "}", r"line 2: not valid JSON \(Exceeds the limit"),
        ({"id": "\ud800", "problem": "?", "answer": "1"}, r"line 2: the field 'id' contains half of a surrogate pair"),
        ({"id": "a", "problem": "?", "answer": "1"}, r"line 2: the id 'a' was seen before \(line 1\); make ids unique"),
    ],
)
def test_broken_lines_are_refused_with_file_line_and_mend(tmp_path: Path, bad: object, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"id": "a", "problem": "?", "answer": "1"}, bad])
    with pytest.raises(ValueError, match=message):
        list(read_rows(path, ("problem", "answer"), identity="id"))


def test_all_bad_lines_are_listed_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"id": f"g{i}", "problem": "?", "answer": "1"}).encode() for i in range(2)]
    bad = [b"{", '{"id": "é"}'.encode("latin-1"), b'{"id": "b", "problem": "?"}', good[0]]
    path.write_bytes(b"\n".join([good[0], bad[0], b"", bad[1], good[1], *bad[2:]]))
    with pytest.raises(ValueError) as caught:
        list(read_rows(path, ("problem", "answer"), identity="id"))
    faults = str(caught.value).splitlines()
    assert [fault[: fault.index(":")] for fault in faults] == [f"{path}, line {n}" for n in (2, 4, 6, 7)]
    for fault, words in zip(faults, ("not valid JSON", "not UTF-8", "'answer' is missing", "seen before"), strict=True):
        assert words in fault
    path.write_bytes(b"{\n" * 23)
    for read in (read_objects, lambda path: read_rows(path, (), identity=None)):
        with pytest.raises(ValueError) as caught:
            list(read(path))
        faults = str(caught.value).splitlines()
        assert len(faults) == 21 and "line 20:" in faults[19] and faults[20] == "and 3 more bad lines"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no problems; give a file with one JSON object a line"):
        list(read_rows(write(tmp_path / "empty.jsonl", ["", " "]), (), identity="id"))
    with pytest.raises(ValueError, match=r"nowhere\.jsonl cannot be read .*; give a file that exists"):
        list(read_rows(tmp_path / "nowhere.jsonl", (), identity="id"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}\n' * 100)[:-9])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz, after line 100: cut off or damaged .*fetch the file again"):
        list(read_objects(tmp_path / "cut.jsonl.gz"))
    with pytest.raises(ValueError, match=r"the field 'id' is inf; give a finite number"):
        list(read_rows(write(tmp_path / "inf.jsonl", ['{"id": 1e999}']), (), identity="id", numbers=True))
    rows = list(
        read_rows(write(tmp_path / "numbers.jsonl", [{"id": 1}, "", {"id": 2.5}]), (), identity="id", numbers=True)
    )
    assert [row.fields["id"] for row in rows] == ["1", "2.5"]
    assert rows[1].place.endswith("numbers.jsonl, line 3")


def test_a_byte_order_mark_and_line_separators_inside_text_are_no_fault(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "problem": "one\u2028two\x85three"}, ensure_ascii=False) + "\r\n"
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode())
    (row,) = read_rows(tmp_path / "bom.jsonl", ("problem",), identity="id")
    assert row.fields["problem"] == "one\u2028two\x85three"


def test_math_splits_levels_and_subjects(directory: Path) -> None:
    task = make_task(settings(directory, validation_size=6))
    train, validation, test = (task.prompts(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (24, 6, 20)
    assert not {p.id for p in train} & {p.id for p in validation}
    assert train[0].text.endswith("put the final answer in \\boxed{}.")
    assert test[3].level == "level 4" and test[3].reference == {"answer": "4", "subject": "Algebra"}
    hard = make_task(settings(directory, math={"levels": [4, 5], "subjects": ["Geometry"]}))
    assert {(p.level, p.reference["subject"]) for p in hard.prompts("test")} == {
        ("level 4", "Geometry"),
        ("level 5", "Geometry"),
    }
    with pytest.raises(ValueError, match=r"task\.math\.subjects \['Topology'\] select no problem; known subjects"):
        make_task(settings(directory, math={"subjects": ["Topology"]})).prompts("test")
    with pytest.raises(ValueError, match=r"task\.test_size is 21, but the test split has only 20; lower it"):
        make_task(settings(directory, test_size=21)).prompts("test")


def test_the_split_of_12000_and_math500(directory: Path) -> None:
    task = make_task(settings(directory, math={"split": "prm800k"}, validation_size=5))
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [40, 5, 5]
    math500 = make_task(settings(directory, "math500", validation_size=5))
    assert list(math500.prompts("train")) and [p.id for p in math500.prompts("test")] == [f"test/{i}" for i in range(5)]
    (directory / TRAIN_FILE).unlink()
    assert len(make_task(settings(directory, "math500")).prompts("test")) == 5
    with pytest.raises(ValueError, match=rf"task\.path: no file {TRAIN_FILE}"):
        make_task(settings(directory, "math500")).prompts("train")
    with pytest.raises(ValueError, match=r"task\.path is not set; give the directory"):
        make_task(TaskSettings(name="math"))


def test_ids_that_belong_to_other_files_are_refused(directory: Path) -> None:
    (directory / IDS_FILE).write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match=r"names 3 problems that neither .* use files of the same version"):
        make_task(settings(directory, math={"split": "prm800k"})).prompts("train")
    (directory / IDS_FILE).write_text("a\na\n")
    with pytest.raises(ValueError, match="or a duplicate"):
        make_task(settings(directory, math={"split": "prm800k"})).prompts("train")


def test_empty_answers_of_math_are_dropped(directory: Path) -> None:
    write(directory / TEST_FILE, [*problems("test", 3), {"id": "x", "problem": "?", "answer": "", "level": None}])
    assert len(make_task(settings(directory)).prompts("test")) == 3


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


@pytest.mark.parametrize(
    ("problems", "wanted", "held_out"),
    [
        *((1, None, 0), (2, None, 1), (4, None, 1), (60, None, 6), (900, None, 90), (5_001, None, 500)),
        *((7_473, None, 500), (12_000, None, 500), (60, 30, 30), (60, 31, 30), (12_000, 600, 600)),
    ],
)
def test_the_share_held_out_for_validation(problems: int, wanted: int | None, held_out: int) -> None:
    train, validation = hold_out([prompt(str(i), "?") for i in range(problems)], wanted)
    assert (len(train), len(validation)) == (problems - held_out, held_out)
    assert len({p.id for p in train + validation}) == problems


def test_a_file_of_ones_own_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.jsonl names no file; set task\.jsonl\.train"):
        make_task(TaskSettings(name="jsonl"))
    with pytest.raises(ValueError, match=r"task\.jsonl\.test: no file"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "none.jsonl")}))
    path = str(write(tmp_path / "own.jsonl", problems("a", 1)))
    with pytest.raises(ValueError, match=r"task\.jsonl\.train is not set; set it to the file of the train split"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": path})).prompts("train")
    with pytest.raises(ValueError, match=r"the validation split of task 'jsonl' is empty"):
        make_task(TaskSettings(name="jsonl", jsonl={"train": path})).prompts("validation")
    with pytest.raises(ValueError, match="the field 'gold' is missing"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": path, "answer": "gold"})).prompts("test")


def prompt(identity: str, text: str) -> Prompt:
    return Prompt(identity, text, {}, "all")


def test_contamination() -> None:
    long = "A train leaves the station at noon and travels north at sixty miles an hour until"
    train = [prompt("t1", "What is $2+2$?!\nAnswer."), prompt("t2", long + " one."), prompt("t3", "Something else.")]
    same = prompt("e1", "what is 2 + 2\nAnswer.")
    near = prompt("e2", long + " it meets another.")
    found = contamination(train, [same, near, prompt("t3", "Nothing alike.")], instruction="\nAnswer.")
    assert (found.evaluated, found.same_id, found.same_text, found.overlapping) == (3, 1, 1, 2)
    assert found.examples == (("e1", "t1"), ("e2", "t2")) and not found.clean
    assert contamination(train, [prompt("e", "A new problem.")]).clean
    # A phrase that several training problems share is no sign of a copy.
    assert contamination([*train, prompt("t4", long + " two.")], [near]).overlapping == 0


@pytest.mark.skipif(not (DATA / TRAIN_FILE).is_file(), reason=f"no MATH in {DATA}; set BONRL_DATA")
@pytest.mark.slow
def test_the_real_files() -> None:
    task = make_task(settings(DATA))
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [6998, 500, 5000]
    split = make_task(settings(DATA, math={"split": "prm800k"}))
    assert [len(split.prompts(name)) for name in ("train", "validation", "test")] == [11498, 500, 500]
    math500 = make_task(settings(DATA, "math500"))
    assert {p.id for p in math500.prompts("test")} == {p.id for p in split.prompts("test")}
    found = contamination(math500.prompts("train"), math500.prompts("test"), instruction=task.settings.instruction)
    assert found.same_id == 0 and found.same_text == 1  # one problem of MATH-500 stands twice in MATH
    for one in math500.prompts("test")[:100]:
        assert task.verify(one, f"So it is $\\boxed{{{one.reference['answer']}}}$.").status is Status.CORRECT


ANONYMOUS = [{"question": "1+1?", "answer": 2}, {"question": "1+2?", "answer": 3}]


def test_parquet_and_rows_without_an_id(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ANONYMOUS), tmp_path / "p.parquet")
    fields = {"id": None, "problem": "question"}
    for name in ("p.parquet", "p.jsonl"):
        write(tmp_path / "p.jsonl", ANONYMOUS)
        task = make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / name), **fields}))
        assert [(p.id, p.reference["answer"]) for p in task.prompts("test")] == [("test/1", "2"), ("test/2", "3")]
    (tmp_path / "p.parquet").write_text("no such thing")
    with pytest.raises(ValueError, match=r"p\.parquet cannot be read as Parquet"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "p.parquet"), **fields})).prompts("test")


def test_parquet_columns_that_python_cannot_hold(tmp_path: Path) -> None:
    path, texts = tmp_path / "p.parquet", {"problem": ["a", "b"], "answer": ["1", "2"]}

    def rows() -> list[Any]:
        task = make_task(TaskSettings(name="jsonl", reward="r.py:f", jsonl={"test": str(path)}))
        return [prompt.row for prompt in task.prompts("test")]

    pq.write_table(pa.table({**texts, "ns": pa.array([1, None], pa.timestamp("ns")),
                             "old": pa.array([-(10**18), 0], pa.timestamp("us"))}), path)  # fmt: skip
    assert [row["ns"] for row in rows()] == ["1970-01-01 00:00:00.000000001", None]
    assert rows()[0]["old"].startswith("-29719-04-05")
    pq.write_table(pa.table({**texts, "t": pa.array([b"\xff", b"a"]).view(pa.utf8())}), path)
    with pytest.raises(ValueError, match=r"p\.parquet cannot be read as Parquet .*'utf-8'"):
        rows()
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], ["problem", "answer", "answer"])
    pq.write_table(twice, path)
    with pytest.raises(ValueError, match=r"p\.parquet has several columns 'answer'; rename"):
        rows()


def test_a_file_of_the_hub_is_fetched_once_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def fetch(repo: str, file: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repo, file, repo_type, revision))
        return str(write(tmp_path / "cached.jsonl", ANONYMOUS))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    jsonl = {"test": "hf://datasets/owner/name@v2/main/test.jsonl", "id": None, "problem": "question"}
    task = make_task(TaskSettings(name="jsonl", jsonl=jsonl))
    assert asked == [], "workers make the task too, and need no network"
    assert len(task.prompts("test")) == 2
    assert asked == [("owner/name", "main/test.jsonl", "dataset", "v2")]


@pytest.mark.parametrize(
    ("name", "files"), [("math", [TEST_FILE]), ("math500", [MATH500_FILE]), ("gsm8k", [GSM8K_FILES["test"]])]
)
def test_a_directory_of_the_hub(name: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(repo: str, file: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repo, file, revision))
        return str(write(tmp_path / "cached.jsonl", problems("test", 3)))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    task = make_task(TaskSettings(name=name, path="hf://datasets/owner/name@v1/"))
    assert len(task.prompts("test")) == 3
    assert asked == [("owner/name", file, "v1") for file in files]


def test_a_file_of_the_hub_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"task\.jsonl\.test is hf://.* cannot be fetched .*give its path"):
        local_file("hf://datasets/owner/name/test.jsonl", "task.jsonl.test")
    with pytest.raises(ValueError, match="write hf://datasets/OWNER/NAME/FILE"):
        local_file("hf://datasets/owner/name", "task.jsonl.test")


def jsonl_task(path: Path, rows: list, **options: object) -> list[Prompt]:
    files = {"test": str(write(path / "rl.jsonl", rows)), **options}
    return list(make_task(TaskSettings(name="jsonl", instruction="", jsonl=files)).prompts("test"))


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
    parts = [{"type": "text", "text": "1+1"}, {"type": "text", "text": "is?"}]
    rows = [
        {"a.b": {"c": ["2"]}, "problem": [{"role": "user", "content": parts}]},
        {"a": {"b": {"c": 3}}, "problem": "?"},
    ]
    prompts = jsonl_task(tmp_path, rows, answer="a.b.c")
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
            r"'problem' is a conversation of 3 messages \(user, assistant, user\); only one user message",
        ),
        ({"problem": [{"role": "assistant", "content": "?"}]}, {}, r"'problem' is a conversation of 1 messages"),
        ({"problem": [{"role": "system", "content": "?"}]}, {}, r"'problem' is a conversation of 1 messages"),
        ({"problem": [{"role": "user", "content": [{"type": "image"}]}]}, {}, r"'problem' is a message whose content"),
        ({"problem": [{"role": "user", "content": None}]}, {}, r"'problem' is a message whose content is not text"),
        ({"problem": [{"role": "user", "content": " "}]}, {}, r"'problem' is missing or not text"),
    ],
)
def test_values_that_are_not_one_text_are_refused(tmp_path: Path, row: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"rl\.jsonl, line 1: the field " + message):
        jsonl_task(tmp_path, [{"problem": "?", "answer": "1"} | row], **options)


def test_ids_are_in_all_rows_or_in_none(tmp_path: Path) -> None:
    row = {"problem": "?", "answer": "1"}
    assert [p.id for p in jsonl_task(tmp_path, [row, row | {"id": None}])] == ["test/1", "test/2"]
    with pytest.raises(ValueError, match=r"line 2: the field 'id' is set, but not in the first row"):
        jsonl_task(tmp_path, [row, row | {"id": "a"}])
    with pytest.raises(ValueError, match=r"line 2: the field 'id' is missing .*task\.jsonl\.id=null numbers the rows"):
        jsonl_task(tmp_path, [row | {"id": "a"}, row])


def own(path: Path, rows: list, split: str = "test", **options: object) -> list[Prompt]:
    jsonl = {"test" if split == "test" else "train": str(write(path / "own.jsonl", rows)), **options}
    return list(make_task(TaskSettings(name="jsonl", instruction="", jsonl=jsonl)).prompts(split))


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
        own(tmp_path, bad[:3], skip_bad=True)
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


def test_values_of_parquet_become_json(tmp_path: Path) -> None:
    row = {"day": dt.date(2026, 1, 2), "price": Decimal("2.50"), "raw": b"ab", "gap": float("nan"), "in": [{"n": (1,)}]}
    assert json_value(row) == {"day": "2026-01-02", "price": 2.5, "raw": "YWI=", "gap": None, "in": [{"n": [1]}]}
    pq.write_table(pa.Table.from_pylist([row | {"problem": "?"}]), tmp_path / "own.parquet")
    task = make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "own.parquet"), "answer": "price"}))
    assert [p.reference for p in task.prompts("test")] == [{"answer": "2.5"}]


def test_worked_solutions_of_files_are_demonstrations(directory: Path) -> None:
    rows = [row | {"solution": f"Add <<1+1=2>>one.\n#### {row['answer']}"} for row in problems("train", 10)]
    for name, file in (("math", TRAIN_FILE), ("gsm8k", GSM8K_FILES["train"])):
        write(directory / file, rows)
        write(directory / GSM8K_FILES["test"], rows)
        task = make_task(settings(directory, name))
        first = task.prompts("train")[0]
        assert first.demonstration is not None and first.demonstration.endswith(f"\n#### {first.reference['answer']}")
        assert ("<<" in first.demonstration) == (name == "math")
        assert {p.demonstration for p in task.prompts("test")} == {None}
        assert check_demonstrations(task, task.prompts("train"), every=True).wrong == {}
