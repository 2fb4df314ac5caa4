"""Files of problems: how JSON Lines, Parquet and files of the hub are read, and what is refused."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.verifiers.problem_files import problems, write
from verifiers import TaskSettings, make_task
from verifiers.tasks.datasets import local_file, read_objects, read_rows
from verifiers.tasks.fields import json_value
from verifiers.tasks.gsm8k import FILES as GSM8K_FILES
from verifiers.tasks.math_tasks import MATH500_FILE, TEST_FILE


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"rows\.jsonl, line 2: not valid JSON .*each line must be one JSON object"),
        ("[" * 100_000, r"line 2: not valid JSON"),
        ('"text"', r"line 2: not a JSON object; each line must be one"),
        ({"id": "b", "problem": "?"}, r"line 2: the field 'answer' is missing or not text; add it to the line"),
        ({"id": "b", "problem": " ", "answer": "1"}, r"line 2: the field 'problem' is missing"),
        ({"id": "b", "problem": "?", "answer": 1}, r"line 2: the field 'answer' is missing or not text"),
        ('{"id": "b", "problem": "?", "answer": NaN}', r"line 2: not valid JSON \(NaN is not a JSON number\)"),
        ('{"id": "b", "problem": "?", "answer": ' + "1" * 5_000 + "}", r"line 2: not valid JSON \(Exceeds the limit"),
        ('{"id": "b", "problem": "?", "answer": "1", "answer": "2"}', r"line 2: not valid JSON .*'answer' twice"),
        ({"id": "\ud800", "problem": "?", "answer": "1"}, r"line 2: the field 'id' contains half of a surrogate pair"),
        ({"id": "a", "problem": "?", "answer": "1"}, r"line 2: the id 'a' was seen before \(line 1\); make ids unique"),
    ],
)
def test_broken_lines_are_refused_with_file_line_and_remedy(tmp_path: Path, bad: object, message: str) -> None:
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
    path.write_bytes(b'{"id": "a"}\n' + b"{\n" * 23)
    for read in (read_objects, lambda path: read_rows(path, (), identity=None)):
        with pytest.raises(ValueError) as caught:
            list(read(path))
        faults = str(caught.value).splitlines()
        assert len(faults) == 21 and "line 21:" in faults[19] and faults[20] == "and 3 more bad lines"


def test_a_wrong_field_name_is_one_message_with_the_names_that_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"query": "?", "answer": "1"}] * 9)
    for names in ({"problem": "question"}, {"problem": "query", "answer": "gold"}):
        task = make_task(TaskSettings(name="jsonl", jsonl={"train": str(path), **names}))
        with pytest.raises(ValueError) as caught:
            task.prompts("train")
        first, second, *_, last = str(caught.value).splitlines()
        assert first == f"{path}: every line is bad, so no problem is left"
        key, wrong = list(names.items())[-1]
        assert f"line 1: the field '{wrong}' is missing" in second
        assert second.endswith(f"; the line has query, answer (task.jsonl.{key} names the field)")
        assert last == "and 4 more bad lines" and "skip_bad" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("numbers", "answers"),
    [
        (pa.array([0.1, 12.0, -2.5], pa.float32()), ["0.1", "12", "-2.5"]),
        (pa.array([Decimal("12345678901234567890.123456789")]), ["12345678901234567890.123456789"]),
        (pa.array([Decimal("12.50")]), ["12.5"]),
    ],
)
def test_numbers_of_parquet_keep_their_digits(tmp_path: Path, numbers: pa.Array, answers: list[str]) -> None:
    table = {"problem": [str(value) for value in numbers], "answer": numbers}
    pq.write_table(pa.table(table), tmp_path / "n.parquet")
    prompts = make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "n.parquet")})).prompts("test")
    assert [prompt.reference["answer"] for prompt in prompts] == answers


def test_binary_columns_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": [b"1+1?"], "answer": ["2"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: the field 'problem' is binary data and not text; write"):
        make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "b.parquet")})).prompts("test")


def test_values_of_parquet_become_json(tmp_path: Path) -> None:
    row = {"day": dt.date(2026, 1, 2), "price": Decimal("2.50"), "raw": b"ab", "gap": float("nan"), "in": [{"n": (1,)}]}
    assert json_value(row) == {"day": "2026-01-02", "price": 2.5, "raw": "YWI=", "gap": None, "in": [{"n": [1]}]}
    pq.write_table(pa.Table.from_pylist([row | {"problem": "?"}]), tmp_path / "own.parquet")
    task = make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "own.parquet"), "answer": "price"}))
    assert [p.reference for p in task.prompts("test")] == [{"answer": "2.5"}]


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


ROW = b'{"id": "a", "problem": "?", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("name", "content"), [("rows.jsonl", gzip.compress(ROW)), ("rows.jsonl.gz", ROW)], ids=["gz", "plain"]
)
def test_the_content_of_a_file_says_whether_it_is_compressed(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row.fields["id"] for row in read_objects(tmp_path / name)] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROW.decode().encode("utf-16"), "is text in UTF-16; save it as JSON Lines in UTF-8"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"\x28\xb5\x2f\xfdrest", "is compressed with zstd"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_objects(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t"), ("rows.csv.gz", ",")])
def test_the_command_that_converts_a_table_works(tmp_path: Path, name: str, delimiter: str) -> None:
    file, lines = tmp_path / name, [["problem", "answer"], ['"1\n+ 1"', "2"]]
    text = "\n".join(map(delimiter.join, lines)).encode()
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(ValueError, match=r"rows\S* is [CT]SV; write it as Parquet") as refused:
        list(read_objects(file))
    command = re.search(r'python -c "(.*)"$', str(refused.value))
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    assert [row.fields for row in read_objects(tmp_path / "rows.parquet")] == [{"problem": "1\n+ 1", "answer": 2}]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('[{"id": "a"}, {"id": "b"}]', r"is a JSON array; write one object per line, as `jq -c '\.\[\]' rows\.jsonl`"),
        ('\n[\n  {"id": "a"},\n  {"id": "b"}\n]\n', r"is a JSON array"),
        ('{\n  "id": "a"\n}\n{\n  "id": "b"\n}\n', r"has objects over several lines; .*`jq -c \. rows\.jsonl`"),
    ],
)
def test_one_message_for_json_that_is_not_in_lines(tmp_path: Path, text: str, remedy: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=remedy) as refused:
        list(read_objects(tmp_path / "rows.jsonl"))
    assert "\n" not in str(refused.value)
