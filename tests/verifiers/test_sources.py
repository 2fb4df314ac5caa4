"""Several files as one split: lists, patterns and directories, in a fixed order, with errors that name the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.verifiers.problem_files import write
from verifiers import Prompt, TaskSettings, make_task


def shard(path: Path, *names: str, ids: bool = True) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write(path, [{"problem": name, "answer": "1"} | ({"id": name} if ids else {}) for name in names])


def prompts(value: object, split: str = "test", **options: object) -> list[Prompt]:
    settings = TaskSettings(name="jsonl", instruction="", jsonl={split: value, **options})
    return list(make_task(settings).prompts(split))


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shard(tmp_path / "data/train-10.jsonl", "e", "f")
    shard(tmp_path / "data/train-02.jsonl", "c", "d")
    shard(tmp_path / "data/train-01.jsonl", "a", "b")
    (tmp_path / "data/README.md").write_text("not read")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("data", "abcdef"),
        ("data/", "abcdef"),
        ("data/train-*.jsonl", "abcdef"),
        ("**/train-0?.jsonl", "abcd"),
        (["data/train-10.jsonl", "data/train-01.jsonl"], "efab"),
        (["data/train-10.jsonl", "data/train-0*.jsonl"], "efabcd"),
        (["data/train-01.jsonl"], "ab"),
    ],
)
def test_files_are_read_in_the_order_of_the_list_or_of_their_names(shards: Path, value: object, read: str) -> None:
    assert "".join(p.text for p in prompts(value)) == read


def test_a_directory_may_hold_other_formats(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "1"}]
    (tmp_path / "zipped").mkdir()
    lines = shard(tmp_path / "zipped/1.jsonl", "a", "b", ids=False)
    (tmp_path / "zipped/2.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (tmp_path / "tables").mkdir()
    for name in ("x", "y"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"tables/{name}.parquet")
    for directory in ("zipped", "tables"):
        found = prompts(str(tmp_path / directory))
        assert [(p.id, p.text) for p in found] == [("test/1", "a"), ("test/2", "b"), ("test/3", "a"), ("test/4", "b")]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    assert [p.text for p in prompts(str(shard(tmp_path / "set[1].jsonl", "a")))] == ["a"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "data/none-*.jsonl",
            r"task\.jsonl\.test: no file matches data/none-\*\.jsonl \(relative paths .*\); set it to",
        ),
        (
            ["data/train-01.jsonl", "data/none.jsonl"],
            r"task\.jsonl\.test: no file data/none\.jsonl \(relative paths start at .*\); set it to",
        ),
        ("empty", r"task\.jsonl\.test: no file in the directory empty ends with \.jsonl, \.jsonl\.gz, \.parquet"),
        ("mixed", r"the directory mixed has both JSON Lines and Parquet.* such as mixed/\*\.parquet"),
        (["data/train-01.jsonl", "data"], r"task\.jsonl\.test names the file data/train-01\.jsonl twice"),
        ("hf://datasets/a/b/*.parquet", r"task\.jsonl\.test is hf://.*: a pattern cannot name files of the Hub; name"),
        ("repeated", r"repeated/2\.jsonl, line 2: the id 'a' was seen before \(repeated/1\.jsonl, line 1\)"),
        ("bad", r"bad/1\.jsonl, line 1: not valid JSON.*\n.*bad/2\.jsonl, line 1: not valid JSON"),
        ("blank", r"blank/1\.jsonl and 1 more files holds? no problems"),
    ],
)
def test_files_that_cannot_be_read_are_refused(shards: Path, value: object, message: str) -> None:
    (shards / "empty").mkdir()
    shard(shards / "mixed/a.jsonl", "a"), (shards / "mixed/a.parquet").write_bytes(b"PAR1")
    shard(shards / "repeated/1.jsonl", "a"), shard(shards / "repeated/2.jsonl", "b", "a")
    for name in ("bad", "blank"):
        for number in "12":
            (shards / name).mkdir(exist_ok=True)
            (shards / name / f"{number}.jsonl").write_text("{1\n" if name == "bad" else "\n")
    with pytest.raises(ValueError, match=message):
        prompts(value)


def test_notes_and_held_out_problems(shards: Path) -> None:
    task = make_task(TaskSettings(name="jsonl", jsonl={"train": "data/train-*.jsonl"}, validation_size=2))
    train, held_out = task.prompts("train"), task.prompts("validation")
    assert sorted(p.id for p in [*train, *held_out]) == list("abcdef") and len(held_out) == 2
    assert task.notes("train")[0] == "from data/train-*.jsonl (3 files)"
    listed = ["data/train-01.jsonl", "data/train-02.jsonl"]
    task = make_task(TaskSettings(name="jsonl", jsonl={"train": listed}, validation_size=0))
    assert len(task.prompts("train")) == 4
    assert task.notes("train")[0] == "from data/train-01.jsonl and 1 more"
    one = make_task(TaskSettings(name="jsonl", jsonl={"train": listed[0]}, validation_size=0))
    assert len(one.prompts("train")) == 2 and one.notes("train")[0] == "from data/train-01.jsonl"
