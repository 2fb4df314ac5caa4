"""Labeled answers: bad lines are refused with their place, and no prompt is in two parts of the split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.learned.samples import Sample, read_jsonl, split_by_prompt


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


GOOD = {"prompt": "1+1=", "response": "2", "correct": True}


def test_rows_become_samples(tmp_path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(lines(GOOD, "", {**GOOD, "id": 7, "correct": 0}))
    assert read_jsonl(path) == [Sample("1+1=", "1+1=", "2", True), Sample("7", "1+1=", "2", False)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ([], "line 2: not a JSON object"),
        ({"prompt": "x", "correct": True}, "line 2: the field 'response' is missing"),
        ({**GOOD, "correct": "yes"}, "line 2: the field 'correct' is 'yes'"),
        ({**GOOD, "correct": None}, "must be true or false"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path, row, message) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(lines(GOOD, row))
    with pytest.raises(ValueError, match=message):
        read_jsonl(path)


def test_no_file_and_no_rows(tmp_path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_jsonl(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="contains no samples"):
        read_jsonl(tmp_path / "empty")


@given(st.integers(60, 300))
def test_the_split_keeps_prompts_whole_and_does_not_move_them(prompts) -> None:
    samples = [Sample(str(p), "", answer, answer == "r") for p in range(prompts) for answer in ("r", "w", "w", "v")]
    parts = split_by_prompt(samples, calibration=0.2, test=0.2)
    ids = [{s.prompt_id for s in part} for part in (parts.train, parts.calibration, parts.test)]
    assert sum(map(len, ids)) == len(set.union(*ids)) == prompts
    assert all(len(part) == 3 * len(names) for part, names in zip((parts.train,), ids, strict=False)), "repeats once"
    more = split_by_prompt([*samples, Sample("another", "", "r", True)], calibration=0.2, test=0.2)
    assert {s.prompt_id for s in more.test} - {"another"} == ids[2]


def test_a_part_with_one_kind_of_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of the .* are right.*more prompts"):
        split_by_prompt([Sample(str(i), "", "w", False) for i in range(100)])
