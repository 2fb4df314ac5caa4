"""References that the verifier cannot match are found before the start."""

from pathlib import Path

import pytest

from verifiers.settings import TaskSettings
from verifiers.task import Task
from verifiers.tasks.references import check_references
from verifiers.tasks.registry import make_task


def _task(tmp_path: Path, *answers: str) -> Task:
    import json

    file = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": "?", "answer": answer} for i, answer in enumerate(answers)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return make_task(TaskSettings(name="jsonl", jsonl={"test": str(file)}))


@pytest.mark.parametrize("answer", ["12", "24 clips in May.\n#### 72", "The answer is 42", r"\textbf{(B)}\ 12", "東京"])
def test_readable_references_pass(tmp_path: Path, answer: str) -> None:
    task = _task(tmp_path, answer)
    report = check_references(task, task.prompts("test"))
    assert (report.checked, report.failures, report.message()) == (1, (), "")


def test_unreadable_references_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    task = _task(tmp_path, "12", "$$", "7")
    report = check_references(task, task.prompts("test"))
    assert report.checked == 3 and [failure.prompt_id for failure in report.failures] == ["p1"]
    assert not report.none_passes
    assert "1 of 3" in report.message() and "p1" in report.message()


def test_a_set_without_any_readable_reference_is_recognized(tmp_path: Path) -> None:
    task = _task(tmp_path, "<think>", "$$")
    assert check_references(task, task.prompts("test")).none_passes


def test_generated_tasks_have_nothing_to_check() -> None:
    task = make_task(TaskSettings(name="countdown", train_size=3))
    assert check_references(task, task.prompts("train")).checked == 0


def test_a_single_offender_among_thousands_is_found(tmp_path: Path) -> None:
    answers = [str(number) for number in range(1300)]
    answers[1234] = "$$"
    task = _task(tmp_path, *answers)
    report = check_references(task, task.prompts("test"))
    assert report.checked == 1300 and [failure.prompt_id for failure in report.failures] == ["p1234"]
