"""The tasks on mathematics: their splits, filters and demonstrations; contamination."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.verifiers.problem_files import problems, write
from verifiers import Prompt, Status, TaskSettings, make_task
from verifiers.tasks.contamination import contamination
from verifiers.tasks.demonstrations import check_demonstrations
from verifiers.tasks.file_task import hold_out
from verifiers.tasks.gsm8k import FILES as GSM8K_FILES
from verifiers.tasks.math_tasks import IDS_FILE, MATH500_FILE, TEST_FILE, TRAIN_FILE

DATA = Path(os.environ.get("BONRL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


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


def prompt(identity: str, text: str) -> Prompt:
    return Prompt(identity, text, {}, "all")


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


def test_rows_of_the_public_sets(tmp_path: Path) -> None:
    public = [
        {
            "problem": f"What is ${i}+1$?",
            "level": f"Level {1 + i % 5}" if i else "Level ?",
            "type": "Algebra",
            "solution": f"Not $\\boxed{{0}}$ but $\\boxed{{\\frac{{{i + 1}}}{{1}}}}$.",
        }
        for i in range(4)
    ]
    write(tmp_path / TRAIN_FILE, public)
    write(tmp_path / TEST_FILE, [*public[:2], public[2] | {"solution": "So it is $\\boxed{}$."}])
    five = {"problem": "?", "answer": "1", "subject": "Algebra", "level": 2, "unique_id": "test/algebra/1.json"}
    write(tmp_path / MATH500_FILE, [five])
    task = make_task(settings(tmp_path, validation_size=0))
    found = {p.id: (p.reference, p.level, p.demonstration) for p in task.prompts("train")}
    assert found["train/4"] == ({"answer": r"\frac{4}{1}", "subject": "Algebra"}, "level 4", public[3]["solution"])
    assert found["train/1"][1] == "level ?"
    assert [p.id for p in task.prompts("test")] == ["test/1", "test/2"], "the problem with an empty answer is left out"
    (prompt,) = make_task(settings(tmp_path, "math500")).prompts("test")
    assert (prompt.id, prompt.level) == ("test/algebra/1.json", "level 2")
    write(tmp_path / TRAIN_FILE, [*public, {"problem": "?", "solution": "It is 5."}])
    with pytest.raises(ValueError, match=r"line 5: the field 'answer' is missing .* 'solution' with .* in \\boxed\{\}"):
        make_task(settings(tmp_path)).prompts("train")


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
        prompts = task.prompts("train")
        assert check_demonstrations(task, prompts, [9] * len(prompts), every=True).wrong == {}


def test_contamination() -> None:
    long = "A train leaves the station at noon and travels north at sixty miles an hour until"
    train = [prompt("t1", "What is $2+2$?!\nAnswer."), prompt("t2", long + " one."), prompt("t3", "Something else.")]
    same = prompt("e1", "what is 2 + 2\nAnswer.")
    near = prompt("e2", long + " it meets another.")
    found = contamination(train, [same, near, prompt("t3", "Nothing alike.")], instruction="\nAnswer.")
    assert (found.evaluated, found.same_text, found.overlapping) == (3, 1, 2)
    assert found.examples == (("e1", "t1"), ("e2", "t2"))
    assert contamination(train, [prompt("e", "A new problem.")]).overlapping == 0
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
    assert found.same_text == 1  # one problem of MATH-500 occurs twice in MATH
    for one in math500.prompts("test")[:100]:
        assert task.verify(one, f"So it is $\\boxed{{{one.reference['answer']}}}$.").status is Status.CORRECT
