"""The comparison on programs: what is run, what is counted, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from benchmarks.programs.counts import Counts, Key, Store
from benchmarks.programs.page import write_page
from benchmarks.programs.plan import AFTER, BEFORE, PLAN, load
from benchmarks.programs.stages import Stages


def _counts(right: list[int], shown: list[int] | None, samples: int = 4) -> Counts:
    shown_P = None if shown is None else np.array(shown)
    return Counts(samples, np.array(right), shown_P, samples, 0, 100, 1.0, 0.5)


def test_best_of_k_picks_among_the_answers_that_pass_the_shown_test() -> None:
    counts = _counts(right=[1, 0, 0, 4], shown=[2, 2, 0, 4])
    # of 4 answers two pass the shown test; a pair has one of them with 1 - C(2,2)/C(4,2) = 5/6, and half are right
    assert counts.best_of(2) == pytest.approx([5 / 12, 0, 0, 1])
    for values in (counts.best_of(1), counts.pass_at(1)):
        assert values == pytest.approx([1 / 4, 0, 0, 1])
    assert (counts.best_of(4) <= counts.pass_at(4) + 1e-12).all()
    with pytest.raises(ValueError, match="shows no tests"):
        _counts([1], None).best_of(1)


def test_the_store_returns_what_was_measured(tmp_path: Path) -> None:
    found = {Key(BEFORE, "mbpp"): _counts([1, 0], [2, 0]), Key(BEFORE, "humaneval"): _counts([0, 3], None)}
    Store(tmp_path / "counts.parquet", "digest").add(found)
    again = dict(Store(tmp_path / "counts.parquet", "digest").items())
    assert set(again) == set(found)
    for key, counts in found.items():
        assert again[key].right_P.tolist() == counts.right_P.tolist()
        assert (again[key].shown_P is None) == (counts.shown_P is None)
        assert (again[key].samples, again[key].tokens) == (counts.samples, counts.tokens)


def test_a_page_of_a_plan_that_is_not_finished_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "counts.parquet", load().digest)
    write_page(tmp_path, store, load())
    assert (tmp_path / "README.md").read_text().count("not measured yet") == len(load().primary)
    store.add({Key(BEFORE, "mbpp"): _counts([0, 1, 0], [2, 1, 0], samples=16)})
    write_page(tmp_path, store, load())
    page = (tmp_path / "README.md").read_text()
    assert page.count("not measured yet") == len(load().primary) and "| MBPP | before |" in page
    store.add({Key(AFTER, "mbpp"): _counts([1, 1, 0], [2, 1, 0], samples=16)})
    write_page(tmp_path, store, load())
    page = (tmp_path / "README.md").read_text()
    assert page.count("not measured yet") == 1 and "## Best-of-k with the shown test" in page
    assert "2 of 3 before and 1 of 3 after fine-tuning fail another test" in page


@pytest.mark.slow
def test_programs_are_judged_again_with_the_shown_test_only(tmp_path: Path, repository: Path, monkeypatch) -> None:
    """The commands of bonrl are replaced; tasks and sandbox are real."""
    monkeypatch.chdir(repository)
    data = tmp_path / "data"
    data.mkdir()
    row = {"problem": "Double x.", "solution": "def f(x):\n    return 2 * x", "test_setup": ""}
    rows = [row | {"id": str(i), "split": "test", "tests": ["assert f(1) == 2", "assert f(3) == 6"]} for i in range(2)]
    (data / "mbpp_sanitized.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    train = row | {"id": "t", "split": "train", "tests": ["assert f(1) == 2"]}
    (data / "mbpp.jsonl").write_text(json.dumps(train) + "\n")
    answers = [
        "def f(x):\n    return 2 * x",
        "def f(x):\n    return x + 1",
        "no program here: (",
        "def f(x):\n    return 0",
    ]
    verdicts = ["correct", "wrong", "unparsable", "wrong"]
    groups = {
        "sequence": [1, 0],
        "prompt_id": ["1", "0"],
        "verdict": [verdicts, verdicts],
        "finish_reason": [["stop", "stop", "length", "stop"]] * 2,
        "response_tokens": [[[1, 2], [1], [1], [1]]] * 2,
        "response_text": [[f"```python\n{code}\n```" for code in answers]] * 2,
        "verify_seconds": [[0.1] * 4] * 2,
    }
    calls: list[tuple[str, ...]] = []

    def command(*arguments: str) -> None:
        calls.append(arguments)
        output = Path(arguments[arguments.index("--output") + 1])
        output.mkdir(parents=True)
        if arguments[0] == "eval":
            parquet.write_table(pa.table(groups), output / "groups-temperature-0.8.parquet")

    plan = load().model_copy(update={"tests": {"mbpp": load().tests["mbpp"].model_copy(update={"prompts": 2, "n": 4})}})
    store = Store(tmp_path / "counts.parquet", plan.digest)
    stages = Stages(plan, store, data, tmp_path / "scratch", command=command)
    stages.check()
    stages.run()
    assert [one[0] for one in calls] == ["eval", "sft", "eval"]
    found = store.get(Key(AFTER, "mbpp"))
    assert found is not None and found.shown_P is not None
    assert (found.right_P.tolist(), found.shown_P.tolist()) == ([1, 1], [2, 2])
    assert (found.programs, found.truncated, found.tokens) == (6, 2, 10)
    shutil.rmtree(tmp_path / "scratch")
    stages.run()
    assert len(calls) == 3, "what is measured is not done again"


def test_the_page_of_plans_has_the_digest(repository: Path) -> None:
    assert load(PLAN).digest in (repository / "docs" / "evidence" / "plan.md").read_text()
