"""GSM8K: extraction of the final number, splits, and errors about broken files."""

from __future__ import annotations

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest

from verifiers import Status, TaskSettings, make_task
from verifiers.tasks.gsm8k import extract_number, parse_number, reference_number

DATA = Path(os.environ.get("BONRL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("#### 72", "72"),
        ("She sold 48/2 = 24.\n#### 72\n", "72"),
        ("#### 10\nno, wait\n#### $1,234.50", "2469/2"),
        ("#### 5 apples", "5"),
        ("#### She has 5 apples left.", "5"),
        ("#### 48 + 24 = 72", "72"),
        ("#### 10/2", "5"),
        ("#### 5e3", "5000"),
        ("#### − 5", "-5"),
        ("#### 5%", "5"),
        ("so \\boxed{42}.", "42"),
        ("\\boxed{-3} dollars 9", "-3"),
        ("\\boxed{5}, that is \\boxed{5.0}", "5"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("<think>#### 5</think>\n#### 6", "6"),
        ("The answer is 18.\n\nUser: another question 7", "18"),
        ("\\boxed{1{,}000}", "1000"),
        ("The answer is 18.", "18"),
        ("It costs $2,000,000 a year", "2000000"),
        ("it is 50%", "50"),
        ("5-3", "2"),
        ("So 5-3 = 2", "2"),
        ("x = -7", "-7"),
        (".5", "1/2"),
        ("3.", "3"),
        ("72.00", "72"),
        # money in prose is no formula
        ("She earns $12 per hour, so after 10 hours she earns $120.", "120"),
        ("12 apples were sold at $3 each, giving $36.", "36"),
        ("He made a profit of 200,000-80,000-50,000=$70,000", "70000"),
        ("She pays $5 and tips $2, so $x = 7$ in all.", "7"),
        # four marks are a heading before a title
        ("#### Final Answer\n\n**12**", "12"),
        ("#### Answer\n12", "12"),
        ("#### Step 1\n5 + 7 = 12\n\nThe answer is 12.", "12"),
        ("#### 1. Add the numbers\n5 + 7 = 12", "12"),
        ("#### Conclusion\nShe has 12 apples.", "12"),
        # spellings
        ("The answer is:\r\n\r\n12\r\n", "12"),
        ("#### minus 12", "-12"),
        ("#### negative 12", "-12"),
        ("The total is minus 12.", "-12"),
        ("#### 12 percent", "12"),
        ("#### 12!", "12"),
        ("#### =12", "12"),
        ("#### 5 x 7 = 35", "35"),
        ("#### $5 x 7 = $35", "35"),
        ("#### <<5+7=12>>12", "12"),
        ("#### $12/hour", "12"),
        ("#### 12 per day", "12"),
        ("#### ~5 apples", "5"),
        ("٣", "3"),
    ],
)
def test_extraction(response: str, number: str) -> None:
    assert extract_number(response) == Fraction(number)


@pytest.mark.parametrize(
    "response",
    ["", "no number", "####", "#### none\n", "12 \\boxed{none}", "1,2,3", "9" * 100, "\\boxed{5}\\boxed{6}"]
    + ["#### 5 (not 6)", "#### not 5", "#### 5 or 6", "#### 3, 4, 5", "#### 1,2345", "#### 12:30"]
    + [
        "#### 20 dollars and 50 cents",
        "#### 3 hours 20 minutes",
        "#### 48 + 24 = 73",
        "<think>#### 5</think>",
        "#### x = 5y",
        "#### almost 12",
        "#### over 12",
        "#### half of 12",
        "#### twice 12",
        "#### 12 squared apples",
        "The ratio is 2:3.",
    ],
)
def test_nothing_to_extract(response: str) -> None:
    assert extract_number(response) is None


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("1,000", "1000"),
        ("She earns $<<9*2=18>>18 a day.\n#### 18", "18"),
        ("#### **18**", "18"),
        ("The answer is 18.", "18"),
        ("<answer>18</answer>", "18"),
        (r"so \boxed{18}", "18"),
    ],
)
def test_references_are_read_as_responses_are(reference: str, number: str) -> None:
    assert reference_number(reference) == Fraction(number)


@pytest.mark.parametrize("line", ["at least 5", "5 is wrong", ">5", "≥ 5", "5+", "5-", "up to 5"])
def test_a_bound_or_a_denied_number_is_no_answer(line: str) -> None:
    assert extract_number(f"#### {line}") is None
    assert extract_number("#### a 5-year plan") == 5


@pytest.mark.parametrize("reference", ["", "12 apples and 3 pears", "there are 3", "#### none", "1,23"])
def test_references_without_a_number(reference: str) -> None:
    assert reference_number(reference) is None


@pytest.mark.parametrize("text", ["", "-", "1/2", "1,23", "1e5", "12 apples", "--3", "１", "9" * 41, "nan"])
def test_not_a_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "attack",
    ["9" * 100_000, "#" * 100_000, "\\boxed{" * 20_000, "1," * 50_000, " " * 100_000, "1,234" * 20_000],
)
def test_hostile_responses_are_quick(attack: str) -> None:
    times = []
    for _ in range(3):
        start = time.process_time()
        extract_number(attack)
        times.append(time.process_time() - start)
    assert min(times) < 0.05


def write(directory: Path, rows: list, name: str = "gsm8k_train.jsonl") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (directory / name).write_text("\n".join(lines) + "\n")


def rows(split: str, count: int) -> list[dict]:
    return [{"id": f"{split}/{i}", "problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(count)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, rows("train", 40))
    write(tmp_path, rows("test", 10), "gsm8k_test.jsonl")
    return tmp_path


def test_splits(directory: Path) -> None:
    settings = TaskSettings(name="gsm8k", path=str(directory), validation_size=8)
    task = make_task(settings)
    train, validation, test = (task.prompts(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (32, 8, 10)
    assert not {p.id for p in train} & {p.id for p in validation}
    assert list(train) == list(make_task(settings).prompts("train"))
    assert train[0].text.endswith(settings.instruction)
    reordered = make_task(settings.model_copy(update={"seed": 1}))
    assert list(reordered.prompts("validation")) == list(validation)
    assert {p.id for p in reordered.prompts("train")} == {p.id for p in train}
    assert [p.id for p in reordered.prompts("train")] != [p.id for p in train]


def test_verdicts(directory: Path) -> None:
    task = make_task(TaskSettings(name="gsm8k", path=str(directory)))
    prompt = task.prompts("test")[4]
    right = task.verify(prompt, "4+1 = 5\n#### 5.0")
    assert (right.status, right.reward, right.answer) == (Status.CORRECT, 1.0, "5")
    assert task.verify(prompt, "#### 6").status is Status.WRONG
    assert task.verify(prompt, "I do not know").status is Status.UNPARSABLE


def test_rows_of_the_public_set(tmp_path: Path) -> None:
    public = [
        {"question": f"What is {i}+1?", "answer": f"It is {i}+1 = <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1},000"}
        for i in range(10)
    ]
    write(tmp_path, public)
    write(tmp_path, [{"question": "What?", "answer": 7}, {"question": "What?", "answer": "#### 8"}], "gsm8k_test.jsonl")
    task = make_task(TaskSettings(name="gsm8k", path=str(tmp_path), instruction="", reward="https://x.example/"))
    train = {p.id: p for p in [*task.prompts("train"), *task.prompts("validation")]}
    assert sorted(train) == sorted(f"train/{i}" for i in range(1, 11))
    assert train["train/3"].text == "What is 2+1?" and train["train/3"].reference == {"answer": "3000"}
    assert train["train/3"].row == public[2], "a reward reads the columns of the file"
    shown = {p.id: p.demonstration for p in task.prompts("train")}
    number = next(iter(shown)).removeprefix("train/")
    assert shown[f"train/{number}"] == f"It is {int(number) - 1}+1 = {number}.\n#### {number},000"
    assert [(p.id, p.reference["answer"]) for p in task.prompts("test")] == [("test/1", "7"), ("test/2", "8")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"gsm8k_train\.jsonl, line 2: not valid JSON"),
        ("[]", r"line 2: not a JSON object"),
        ({"id": "x", "answer": "3"}, r"line 2: the field 'problem' is missing"),
        ({"id": "x", "problem": "?", "answer": "three"}, r"line 2: the answer 'three' is not a number"),
        ({"id": "a", "problem": "?", "answer": "3"}, r"line 2: the id 'a' was seen before"),
    ],
)
def test_broken_files_are_refused_with_the_line(directory: Path, bad: object, message: str) -> None:
    write(directory, [{"id": "a", "problem": "?", "answer": "3"}, bad])
    with pytest.raises(ValueError, match=message):
        make_task(TaskSettings(name="gsm8k", path=str(directory))).prompts("train")


def test_missing_files_and_sizes_are_refused_with_the_key(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.path is not set"):
        make_task(TaskSettings(name="gsm8k"))
    with pytest.raises(ValueError, match=r"task\.path: no file gsm8k_train\.jsonl"):
        make_task(TaskSettings(name="gsm8k", path=str(directory / "nowhere")))
    with pytest.raises(ValueError, match=r"task\.test_size is 11, but the test split has only 10"):
        make_task(TaskSettings(name="gsm8k", path=str(directory), test_size=11)).prompts("test")
    (directory / "gsm8k_test.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no problems"):
        make_task(TaskSettings(name="gsm8k", path=str(directory))).prompts("test")


@pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl").is_file(), reason=f"no GSM8K in {DATA}; set BONRL_DATA")
def test_the_real_files() -> None:
    task = make_task(TaskSettings(name="gsm8k", path=str(DATA)))
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [6973, 500, 1319]
    with (DATA / "gsm8k_test.jsonl").open(encoding="utf-8") as lines:
        solutions = {row["id"]: row["solution"] for row in map(json.loads, lines)}
    for prompt in task.prompts("test")[::8]:
        assert task.verify(prompt, solutions[prompt.id]).status is Status.CORRECT
