"""`bonrl grade`: rows in order, nothing graded before every row is sound, no half-written output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.grade import KINDS, Kind, grade_file
from verifiers.verdict import Verdict

ROWS = [
    {"id": "a", "prediction": "3 * (1 + 7)", "numbers": [1, 3, 7], "target": 24},
    {"id": 2, "prediction": "3 * 7 + 1", "numbers": [1, 3, 7], "target": 24},
    {"id": "c", "prediction": "no idea", "numbers": [1, 3, 7], "target": 24},
]


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_rows_are_graded_in_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    counts = grade_file(source, tmp_path / "out.jsonl", "countdown", timeout_s=1.0, parallel=3)
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"], row["reward"]) for row in graded] == [
        ("a", "correct", 1.0), (2, "wrong", 0.0), ("c", "unparsable", 0.0),
    ]  # fmt: skip
    assert graded[0].keys() == {"id", "status", "reward", "seconds", "answer", "detail"}
    assert counts == {"correct": 1, "wrong": 1, "unparsable": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: not valid JSON"),
        ([ROWS[0], {"id": 1}], "line 2: the field 'prediction' is missing or no str"),
        ([{**ROWS[0], "target": "24"}], "the field 'target' is missing or no int"),
        ([["a"]], "not a JSON object with an id"),
        ([], "holds no rows"),
    ],
)
def test_a_broken_row_is_named_before_anything_is_graded(tmp_path: Path, lines: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grade_file(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl", "countdown", timeout_s=1.0)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_else_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(UsageError, match="choose one of math, code, countdown"):
        grade_file(source, tmp_path / "out.jsonl", "maths", timeout_s=1.0)
    with pytest.raises(UsageError, match="exists already"):
        grade_file(source, source, "countdown", timeout_s=1.0)
    with pytest.raises(UsageError, match="cannot be read"):
        grade_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl", "countdown", timeout_s=1.0)


def test_a_failure_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(row: dict) -> Verdict:
        raise KeyError(row["id"])

    monkeypatch.setitem(KINDS, "broken", Kind(("prediction",), lambda timeout_s, parallel: broken))
    with pytest.raises(KeyError):
        grade_file(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", "broken", timeout_s=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
