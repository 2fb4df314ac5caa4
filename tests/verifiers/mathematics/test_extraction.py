"""Where the final answer is found, and what counts as several answers."""

from __future__ import annotations

import pytest

from verifiers import Status, grade_math
from verifiers.mathematics.answers.extraction import extract


@pytest.mark.parametrize(
    ("response", "answer", "source"),
    [
        (r"so \boxed{12}.", "12", "box"),
        (r"\boxed {12}", "12", "box"),
        (r"\fbox{12}", "12", "box"),
        (r"\boxed{\boxed{12}}", "12", "box"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}", "box"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "box"),
        (r"The answer is $3$. \boxed{4}", "4", "box"),
        (r"<think>maybe \boxed{1}</think> It is \boxed{2}", "2", "box"),
        ("The answer is 12.", "12", "phrase"),
        ("We get 5. The final answer is: $x+1$. I hope it is correct.", "x+1", "phrase"),
        ("**Answer:** 12", "12", "phrase"),
        ("Answer: 11 was a guess.\nAnswer: 12", "12", "phrase"),
        ("steps\n#### 12", "12", "phrase"),
        ("12", "12", "bare"),
        ("$x = 4$", "$x = 4$", "bare"),
        ("64 square feet", "64 square feet", "bare"),
        (r"Therefore we find \(a=3\) and then \(b=12\).", "b=12", "prose"),
        ("so the number is 12", "12", "prose"),
    ],
)
def test_the_answer_is_found(response: str, answer: str, source: str) -> None:
    found = extract(response)
    assert (found.candidates[-1].strip(), found.source) == (answer, source)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        r"<think>\boxed{12}</think>",
        r"<think>it is \boxed{12}",
        "there is no answer here",
        r"\boxed{1}" * 100,
    ],
)
def test_no_answer(response: str) -> None:
    assert extract(response).candidates == ()


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        (r"\boxed{5} \boxed{6}", "6", False),
        (r"\boxed{6} \boxed{5}", "6", False),
        (r"\boxed{6}, so again \boxed{6.0}", "6", True),
        (r"first \boxed{?}, then \boxed{6}", "6", True),
        (r"what belongs in \boxed{\phantom{0}} is \boxed{6}", "6", True),
        (r"\boxed{1} and \boxed{2}", "1,2", True),
        (r"\boxed{1} and \boxed{3}", "1,2", False),
        (r"\boxed{1}, \boxed{2}, \boxed{3}", "1,2", False),
        (" ".join(rf"\boxed{{{i}}}" for i in range(40)), "39", False),
        ("it could be 5 but also 6", "6", False),
        (r"\boxed{5} but the answer is 6", "6", False),
        (r"\boxed{(A)}\boxed{(B)}", "A", False),
        (r"\boxed{\text{A}}\boxed{\text{B}}", "A", False),
        (r"\boxed{7}\boxed{\text{seven}}", "7", True),
        (r"\boxed{7}\boxed{\text{eight}}", "7", False),
        (r"\boxed{\text{no solution}} or \boxed{42}", "42", False),
        (r"first attempt \boxed{guess}, then \boxed{42}", "42", True),
        ("The answer is not 42.", "42", False),
        ("The answer is definitely not $42$.", "42", False),
        ("The answer cannot be 42", "42", False),
        ("The answer isn't $42$.", "42", False),
        ("The answer is neither 12 nor 42.", "42", False),
        ("The answer is less than 42.", "42", False),
        ("The answer is not 42 but 43.", "43", True),
        ("The answer is 15, not 16.", "15", True),
        ("The answer is 15, not 16.", "16", False),
        ("It is 3 rather than 4", "3", True),
        ("It is 3 rather than 4", "4", False),
        ("We know that what is not prime here is 9", "9", True),
        ("It does not stop there, so we find 9", "9", True),
    ],
)
def test_several_answers(response: str, reference: str, right: bool) -> None:
    assert (grade_math(response, reference).status is Status.CORRECT) is right


def test_a_reference_may_be_a_whole_solution() -> None:
    solution = r"As $2+2=4$, we have \[ x = \boxed{4}. \]"
    assert grade_math("4", solution).status is Status.CORRECT
    assert grade_math("2", solution).status is Status.WRONG
