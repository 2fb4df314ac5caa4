"""Countdown: the verifier against hostile answers, the generator, and the separation of the splits."""

from __future__ import annotations

import itertools
import json
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifiers import SPLITS, DifficultyMix, Status, TaskSettings, make_task
from verifiers.tasks.countdown import (
    LEVELS,
    MAX_RESPONSE_CHARS,
    MAX_TARGET,
    Countdown,
    ExpressionError,
    draw_problem,
    evaluate,
    grade,
    prompt_text,
    split_of,
)

SMALL = TaskSettings(train_size=120, validation_size=40, test_size=40)


@pytest.fixture(scope="module")
def task() -> Countdown:
    return Countdown(SMALL)


# --- The verifier ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    ["12+7*3-9", "12 + 7*3 - 9", "(12+(7*3))-9", "((12))+7*3-9", "7*3+12-9", "12-9+3*7\n", "  12+3*7-9"],
)
def test_right_answers(response: str) -> None:
    verdict = grade(response, [3, 7, 9, 12], 24)
    assert (verdict.status, verdict.reward, verdict.score) == (Status.CORRECT, 1.0, 1.0)


def test_fractions_are_exact() -> None:
    assert grade("8/(3-8/3)", [3, 3, 8, 8], 24).status is Status.CORRECT
    assert grade("1/3*3", [1, 3, 3], 1).status is Status.CORRECT
    # In floating point 49 * (1 / 49) is 0.9999999999999999.
    assert grade("49*(1/49)", [1, 49, 49], 1).status is Status.CORRECT


@pytest.mark.parametrize(
    "response",
    [
        "24",  # the target itself
        "12+7*3",  # a number left out
        "12+7*3-9+9-9",  # numbers used again
        "12+7+3-9",  # another value
        "127*3-9",  # two numbers glued together
        "(12+7*3)/(9-9)",  # division by zero, and 9 used twice
        "12-9-3+7*0",
    ],
)
def test_wrong_answers(response: str) -> None:
    verdict = grade(response, [3, 7, 9, 12], 24)
    assert (verdict.status, verdict.reward) == (Status.WRONG, 0.0)
    assert verdict.detail


def test_division_by_zero_is_wrong() -> None:
    for response in ("5/(3-3)", "(3-3)/(5-5)", "0/0", "3*(5/(3-3))"):
        verdict = grade(response, [int(c) for c in response if c.isdigit()], 5)
        assert verdict.status is Status.WRONG and verdict.detail == "divides by zero"


ATTACKS = [
    "",
    " ",
    "2**9**9**9",
    "2^9^9",
    "9" * 100_000,
    "9" * 120,
    "1" + "0" * 60 + "*1",
    "(" * 100_000 + "1" + ")" * 100_000,
    "(" * 60 + "1" + ")" * 60,
    "((((((((",
    "3+" * 50_000 + "3",
    " " * 100_000,
    "١٢+٧*٣-٩",  # Arabic-Indic digits, which str.isdigit and int() accept
    "１２+７*３-９",  # full-width digits
    "²+3",  # str.isdigit accepts the superscript, int() does not
    "12＋7",
    "12+7*3-9;",
    "12+7*3-9=24",
    "12+7*3-9 12+7*3-9",
    "12 7",
    "12(7)",
    "(12)(7)",
    "-9+12+7*3",  # no unary signs
    "12+7*3+-9",
    "12--9",
    "+12",
    "12//7",
    "12%7",
    "1_2+7",
    "0x0c+7",
    "012+7*3-9",
    "1.2e1+7",
    "12.0+7",
    "inf",
    "nan",
    "12+7*3-9\x00",
    "12\t+7",
    "12\u00a0+7",
    "12+",
    "()",
    "12+()",
    ")12(",
    "__import__('os').system('true')",
    "True+12",
    "\ud800",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda text: ascii(text[:16]))
def test_attacks_are_unparsable_within_microseconds(attack: str) -> None:
    verdict = grade(attack, [3, 7, 9, 12], 24)
    assert verdict.status is Status.UNPARSABLE
    assert verdict.reward == 0.0 and verdict.answer is None and verdict.detail
    # The fastest of several runs, because the machine may be busy.
    start = [time.perf_counter()]
    for _ in range(5):
        grade(attack, [3, 7, 9, 12], 24)
        start.append(time.perf_counter())
    assert min(b - a for a, b in itertools.pairwise(start)) < 1e-3


def test_longest_legal_expressions_are_fast() -> None:
    for response in (
        "9*" * 63 + "9",
        "1/9/" * 31 + "9",
        "999999999*" * 12 + "9",
        "(1/999999999+" * 9 + "1" + ")" * 9,
    ):
        assert len(response) <= MAX_RESPONSE_CHARS
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert grade(response, [1], 1).status is Status.WRONG
            times.append(time.perf_counter() - start)
        assert min(times) < 5e-3


@given(st.text(max_size=200))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert grade(text, [3, 7, 12], 24).status in (Status.CORRECT, Status.WRONG, Status.UNPARSABLE)


@given(st.text(alphabet="0123456789+-*/() ", max_size=30))
@settings(max_examples=300)
def test_parser_agrees_with_python_on_what_both_accept(text: str) -> None:
    try:
        value, numbers = evaluate(text)
    except ExpressionError:
        return
    # A second opinion on text that our grammar has already accepted: `//` and `**` cannot occur in it.
    wrapped = "".join(f"Fraction({t})" if t.isdigit() else t for t in _split_numerals(text.strip()))
    if value is None:
        with pytest.raises(ZeroDivisionError):
            eval(wrapped, {"Fraction": Fraction})
    else:
        assert eval(wrapped, {"Fraction": Fraction}) == value
    assert sorted(numbers) == sorted(int(t) for t in _split_numerals(text) if t.isdigit())


def _split_numerals(text: str) -> list[str]:
    return ["".join(group) for _, group in itertools.groupby(text, key=lambda c: "0" if c.isdigit() else c)]


@given(st.sampled_from(sorted(LEVELS)), st.integers(0, 10**6), st.randoms())
@settings(max_examples=200)
def test_generated_solutions_verify_in_any_order_of_the_numbers(level: str, seed: int, shuffler: random.Random) -> None:
    (numbers, target), solution = draw_problem(level, random.Random(seed))
    shown = list(numbers)
    shuffler.shuffle(shown)
    assert grade(solution, shown, target).status is Status.CORRECT
    assert grade(solution, shown, target + 1).status is Status.WRONG
    assert grade(solution, [*shown[1:], shown[0] + 1], target).status is Status.WRONG
    assert grade(f"({solution})", shown, target).status is Status.CORRECT


# --- The generator --------------------------------------------------------------------------------


def test_problems_are_deterministic_and_distinct() -> None:
    for split in SPLITS:
        first, second = (make_task(SMALL).prompts(split) for _ in range(2))
        assert list(first) == list(second)
        assert len(first) == getattr(SMALL, f"{split}_size")
        assert len({p.id for p in first}) == len({p.text for p in first}) == len(first)
    other = make_task(SMALL.model_copy(update={"seed": 1})).prompts("train")
    assert [p.text for p in other] != [p.text for p in make_task(SMALL).prompts("train")]


def test_a_pinned_problem_stays() -> None:
    """The shipped model was trained on the train split, so no setting may move a problem to another split."""
    assert [split_of(((1, 2, 3), target)) for target in range(1, 13)] == PINNED_SPLITS
    assert [p.text for p in make_task(TaskSettings(test_size=3)).prompts("test")] == PINNED_TEST


PINNED_SPLITS = [
    "train",
    "train",
    "train",
    "train",
    "validation",
    "validation",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
]
PINNED_TEST = ["2,27,30=59:", "1,7,9=16:", "10,11,12=98:"]


def test_splits_are_disjoint_across_seeds_and_mixes() -> None:
    keys: dict[str, set] = {split: set() for split in SPLITS}
    mixes = (DifficultyMix(), DifficultyMix(easy=1, medium=0, hard=0))
    for seed, mix in itertools.product(range(3), mixes):
        task = make_task(SMALL.model_copy(update={"seed": seed, "difficulty": mix}))
        for split in SPLITS:
            keys[split] |= {_key(p) for p in task.prompts(split)}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not keys[a] & keys[b]


def _key(prompt) -> tuple:
    return tuple(sorted(prompt.reference["numbers"])), prompt.reference["target"]


def test_shares_of_the_splits() -> None:
    rng = random.Random(0)
    drawn = {draw_problem("hard", rng)[0] for _ in range(2000)}
    shares = {split: sum(split_of(key) == split for key in drawn) / len(drawn) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.04)


def test_levels_and_texts(task: Countdown) -> None:
    for split in SPLITS:
        for prompt in task.prompts(split):
            numbers, target = prompt.reference["numbers"], prompt.reference["target"]
            level = LEVELS[prompt.level]
            assert len(numbers) == level.count and 1 <= target <= MAX_TARGET
            assert level.above < max(numbers) <= level.high and min(numbers) >= 1
            assert prompt.text == prompt_text(numbers, target) and len(prompt.text) <= 16
            assert json.loads(json.dumps(prompt.reference)) == prompt.reference


def test_the_mix_is_what_the_settings_say() -> None:
    mix = DifficultyMix(easy=1, medium=2, hard=1)
    prompts = Countdown(TaskSettings(train_size=800, difficulty=mix)).prompts("train")
    shares = [sum(p.level == level for p in prompts) / len(prompts) for level in LEVELS]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.06)


def test_every_problem_can_be_solved(task: Countdown) -> None:
    for prompt in task.prompts("test"):
        values = [Fraction(n) for n in prompt.reference["numbers"]]
        assert _reachable(values, Fraction(prompt.reference["target"])), prompt.text


def _reachable(values: list[Fraction], target: Fraction) -> bool:
    """Exhaustive search, written independently of the generator."""
    if len(values) == 1:
        return values[0] == target
    for i, j in itertools.permutations(range(len(values)), 2):
        rest = [v for k, v in enumerate(values) if k not in (i, j)]
        a, b = values[i], values[j]
        for joined in (a + b, a - b, a * b, *([a / b] if b else [])):
            if _reachable([*rest, joined], target):
                return True
    return False


def test_expert_solutions_come_from_the_train_split_and_verify(task: Countdown) -> None:
    examples = list(itertools.islice(task.expert_solutions(3), 400))
    assert examples == list(itertools.islice(task.expert_solutions(3), 400))
    assert examples != list(itertools.islice(task.expert_solutions(4), 400))
    for prompt, solution in examples:
        assert split_of(_key(prompt)) == "train"
        assert task.verify(prompt, solution).reward == 1.0


def test_impossible_size_is_refused_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifiers.tasks.countdown.DRAWS", 200)
    task = Countdown(TaskSettings(test_size=50_000, difficulty=DifficultyMix(easy=1, medium=0, hard=0)))
    with pytest.raises(ValueError, match=r"task\.test_size is 50000.*task\.difficulty\.easy"):
        task.prompts("test")


def test_unknown_split_and_empty_mix_are_refused(task: Countdown) -> None:
    with pytest.raises(ValueError, match="no split named 'dev'"):
        task.prompts("dev")
    with pytest.raises(ValueError, match=r"task\.difficulty"):
        DifficultyMix(easy=0, medium=0, hard=0)
