"""Graders give a verdict on whatever a model writes: an exception would lose the whole group."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from verifiers import Verdict
from verifiers.mathematics.grader import canonical
from verifiers.mathematics.parsing.answer import parse_answer
from verifiers.mathematics.parsing.normalization import normalize
from verifiers.tasks.gsm8k import grade, reference_number

PIECES = (
    r"0 1 25 1,000 .5 3/0 00 1e9 ½ ² x y' e inf nan dollars hours is + - * / ^ ** = < | ! % : , . ( ) [ ] { } _ ' $ \$"
    r" \frac \sqrt \times \pm \infty \text{ \boxed{ \begin{ #### √ ∞ ~"
)
TEXTS = st.lists(st.sampled_from([*PIECES.split(" "), " ", "\n"]), max_size=10).map("".join)
BEGINNINGS = st.sampled_from(["#### ", r"\boxed{", "The answer is ", ""])


@given(BEGINNINGS, TEXTS)
@example("#### ", "25/0")
@example("#### ", "10^y'")
@settings(max_examples=1000, deadline=None)
def test_any_response_to_gsm8k_gets_a_verdict(beginning: str, text: str) -> None:
    assert isinstance(grade(beginning + text, Fraction(3)), Verdict)
    assert isinstance(reference_number(text), Fraction | None)


@given(TEXTS)
@example("10^y'")
@example(r"\sqrt e'")
@settings(max_examples=1000, deadline=None)
def test_any_text_is_read_as_an_answer_or_refused(text: str) -> None:
    parsed = parse_answer(normalize(text))
    assert isinstance(canonical(parsed, text), str)


def test_a_letter_with_a_prime_is_a_whole_exponent() -> None:
    assert parse_answer("2^y'").node == parse_answer("2^{y'}").node != parse_answer("2^y").node
