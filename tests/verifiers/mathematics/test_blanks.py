"""Long runs of blanks and line breaks in an answer take linear time."""

from __future__ import annotations

import time

import pytest

from verifiers import grade_math
from verifiers.mathematics.answers.denials import is_negated, retraction
from verifiers.mathematics.answers.extraction import extract
from verifiers.mathematics.comparison.quantities import named_counts
from verifiers.mathematics.parsing.normalization import normalize
from verifiers.mathematics.parsing.remarks import profit_or_loss, without_remark

# The ends of the texts keep each pattern from matching, so that it tries every way to divide the blanks.
TEXTS = [
    f"{start}{blank * 20_000}{end}"
    for blank in (" ", "\n", " \n")
    for start, end in (
        ("5", "x"),
        ("5", "base ?"),
        ("5 \\text{", "base 5 ?"),
        ("12:00", "noon?"),
        ("", "?noon"),
        ("\\text{", "xnoon"),
        ("5", "o' ?"),
        ("3", "{,} x"),
        ("[[1,2],[3,4]]", "x"),
        ("3 boys and", "?"),
        ("3 boys", "?"),
        ("5 (", "exactly"),
        ("5 \\text{", "loss of ?"),
        ("x <", "4 <"),
        ("12. Actually,", "it is ?"),
        ("Maybe 3.", "Maybe ?"),
        ("12", "B is good."),
        ("B", "is correct."),
        ("The answer is $12$", "or maybe 13"),
        ("The answer is 12", "rejected"),
        ("Yes,", "the statement is true"),
    )
]


def test_long_runs_of_blanks_take_linear_time() -> None:
    for text in TEXTS:
        started = time.perf_counter()
        normalized = normalize(text)
        without_remark(normalized), profit_or_loss(normalized), named_counts(normalized)
        is_negated(text, len(text) - 1, 3), retraction(text), extract(text)
        assert time.perf_counter() - started < 0.5, text[:20]


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_a_box_of_blanks_is_graded_at_once(blank: str) -> None:
    response = f"\\boxed{{5{blank * 19_000}x}}"
    started = time.perf_counter()
    assert extract(response).source == "box"
    assert grade_math(response, "5").reward == 0.0
    assert grade_math(f"\\boxed{{5{blank * 1_500}x}}", "5").reward == 0.0
    assert time.perf_counter() - started < 0.5
