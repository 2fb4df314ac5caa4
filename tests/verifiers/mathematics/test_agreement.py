"""The exact path and the symbolic path agree, on expressions that hypothesis makes up and on real answers."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verifiers import Status, grade_math
from verifiers.mathematics.parsing.normalization import normalize
from verifiers.mathematics.symbolic import host
from verifiers.mathematics.symbolic.value_parts import value_parts

DATA = Path(os.environ.get("BONRL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
DOUBTFUL = Path(__file__).parents[3] / "benchmarks" / "math_grader_doubtful.jsonl"
needs_cases = pytest.mark.skipif(
    not (DATA / "grader_cases.jsonl").is_file(), reason=f"no grader cases in {DATA}; set BONRL_DATA"
)
needs_math = pytest.mark.skipif(not (DATA / "math_train.jsonl").is_file(), reason=f"no MATH in {DATA}; set BONRL_DATA")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    host.shared().warm()
    yield
    host.shared().close()


def symbolic(prediction: str, reference: str) -> bool | None:
    """math-verify's opinion, None where it has none in time."""
    outcome, _ = host.shared().ask(value_parts(normalize(prediction)), normalize(reference), 5.0)
    return {"equal": True, "different": False}.get(outcome)


integers = st.integers(-20, 20)
positive = st.integers(1, 12)
numbers = st.one_of(
    integers.map(str),
    st.tuples(integers, positive).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
    st.tuples(integers, positive).map(lambda p: f"{p[0]}/{p[1]}"),
    positive.map(lambda n: f"\\sqrt{{{n}}}"),
    st.sampled_from(["\\pi", "2^{3}", "3!", "\\sqrt[3]{8}", "\\sqrt2", "\\frac12"]),
)
# math-verify computes with floats where a decimal stands: (3.06)^2 + 9 is not 9 + (3.06)^2 to it. So decimals are
# compared alone, and not as parts of larger expressions.
decimals = st.tuples(st.integers(-9, 9), st.integers(0, 99)).map(lambda p: f"{p[0]}.{p[1]:02d}")
atoms = st.one_of(numbers, st.sampled_from(["x", "y", "x^2"]))
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]})+({p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})-({p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) \\cdot ({p[1]})"),
        inner.map(lambda text: f"({text})^2"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=4,
)


SHAPES = [
    "({1})+({0})|({0})+({1})",
    "({0}) \\cdot ({1})|({1}) \\cdot ({0})",
    "({0}+1)^2|({0})^2+2 \\cdot ({0})+1",
    "-({0})+({1})|({1})-({0})",
    "({0})+1|({0})+2",
]
SIGNS = [*"0123456789xyz+-*/^_(){}[]|,.=<>!%' \\", "\\frac", "\\sqrt", "\\pm", "\\text{", "\\cup"]


def check(left: str, right: str) -> None:
    ours = grade_math(left, right)
    theirs = symbolic(left, right)
    if theirs is not None:
        assert (ours.status is Status.CORRECT) == theirs, (left, right, ours)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(expressions, expressions)
def test_two_expressions(left: str, right: str) -> None:
    check(left, right)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(expressions, expressions, st.sampled_from(SHAPES))
def test_two_spellings(left: str, right: str, shape: str) -> None:
    first, second = (half.format(left, right) for half in shape.split("|"))
    check(first, second)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.one_of(numbers, decimals), st.one_of(numbers, decimals))
def test_two_numbers(left: str, right: str) -> None:
    check(left, right)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(numbers, min_size=2, max_size=3),
    st.lists(numbers, min_size=2, max_size=3),
    st.sampled_from(["()", "[]", "(]"]),
)
def test_tuples_and_intervals(left: list[str], right: list[str], brackets: str) -> None:
    first, second = (brackets[0] + ",".join(items) + brackets[1] for items in (left, right))
    ours = grade_math(first, second).status is Status.CORRECT
    items = [grade_math(a, b).status is Status.CORRECT for a, b in zip(left, right, strict=False)]
    assert ours == (len(left) == len(right) and all(items))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    for prediction, reference in ((text, "42"), ("42", text or "x"), (f"\\boxed{{{text}}}", "\\frac12")):
        assert grade_math(prediction, reference, timeout_s=1.0).status is not None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(SIGNS), max_size=25).map("".join))
def test_any_formula_equals_itself(text: str) -> None:
    verdict = grade_math(f"\\boxed{{{text}}}", text, timeout_s=1.0)
    assert verdict.status is not None
    balanced = text.count("{") == text.count("}") == 0 and "\\" not in text
    if balanced and any(sign.isalnum() for sign in text):
        assert verdict.status is Status.CORRECT


@needs_math
@pytest.mark.slow
def test_identity_on_the_answers_of_math_and_speed() -> None:
    rows = [json.loads(line) for name in ("math_train", "math_test") for line in (DATA / f"{name}.jsonl").open()]
    answers = sorted({row["answer"] for row in rows} - {""})
    times = []
    for answer in answers:
        started = time.perf_counter()
        assert grade_math(f"\\boxed{{{answer}}}", answer).status is Status.CORRECT, answer
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < 0.001


@pytest.mark.slow
@needs_math
def test_answers_to_other_problems_are_wrong() -> None:
    rows = [json.loads(line) for line in (DATA / "math_test.jsonl").open()]
    answers = sorted({row["answer"] for row in rows} - {""})
    rng = random.Random(0)
    accepted = []
    for _ in range(4_000):
        left, right = rng.sample(answers, 2)
        if grade_math(f"\\boxed{{{left}}}", right).status is Status.CORRECT and not symbolic(left, right):
            accepted.append((left, right))
    assert not accepted


@pytest.mark.slow
@needs_math
def test_reference_solutions_are_right() -> None:
    """The solutions of MATH box their answer; the few that box several values are wrong by the policy of boxes."""
    rows = [json.loads(line) for line in (DATA / "math_test.jsonl").open()]
    failed = [row["id"] for row in rows if grade_math(row["solution"], row["answer"]).reward != 1.0]
    assert len(failed) <= 20, failed


@pytest.mark.slow
@needs_cases
def test_the_gates_on_the_cases() -> None:
    cases = [json.loads(line) for line in (DATA / "grader_cases.jsonl").open(encoding="utf-8")]
    right = {id(case): (grade_math(case["pred"], case["gold"]).reward == 1.0) == case["expected"] for case in cases}

    def rate(chosen: list[dict]) -> float:
        return sum(right[id(case)] for case in chosen) / len(chosen)

    clean = [case for case in cases if not case.get("policy") and "TinyV" not in case["source"]]
    assert rate(clean) >= 0.975
    assert rate([case for case in clean if case["kind"] == "public"]) >= 0.97
    assert all(right[id(case)] for case in clean if case["kind"] == "handmade")
    tinyv = [case for case in cases if "TinyV" in case["source"]]
    assert rate([case for case in tinyv if case["expected"]]) >= 0.68
    assert sum(not right[id(case)] for case in tinyv if not case["expected"]) <= 3


@needs_cases
def test_all_responses() -> None:
    rows = map(json.loads, DOUBTFUL.read_text(encoding="utf-8").splitlines())
    doubtful = {(row["id"], row["labelled"]) for row in rows}
    for line in (DATA / "grader_response_cases.jsonl").open(encoding="utf-8"):
        case = json.loads(line)
        if (case["id"], case["expected"]) not in doubtful:
            assert (grade_math(case["pred"], case["gold"]).reward == 1.0) == case["expected"], case["id"]
