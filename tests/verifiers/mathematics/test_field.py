"""Kinds of answers from public bug reports: other scripts, tiny and huge values, Markdown, tags, choices, units."""

import time

import pytest

from verifiers import Status, grade_math

RIGHT = [
    # Markdown, with or without a full stop
    ("The answer is **12**.", "12"),
    (r"\boxed{**73**}", "73"),
    ("**Answer:** 12", "12"),
    (r"The final answer is **$\frac12$**.", "0.5"),
    ("The answer is `12`.", "12"),
    ("2**3", "8"),
    # answer tags
    (r"<think>x</think><answer>\frac{3}{4}</answer>", "0.75"),
    ("<think>x</think><answer>(1,2)</answer>", "(1,2)"),
    ("Reasoning 5. <answer>73</answer> extra 9", "73"),
    (r"<ANSWER>\boxed{5}</ANSWER>", "5"),
    ("<answer>7", "7"),
    # reasoning that other models mark otherwise
    (r"[THINK]\boxed{1}[/THINK] \boxed{2}", "2"),
    (r"◁think▷\boxed{1}◁/think▷ \boxed{2}", "2"),
    (r"<|begin_of_thought|>\boxed{1}<|end_of_thought|><|begin_of_solution|>\boxed{2}<|end_of_solution|>", "2"),
    (r"<|channel|>analysis<|message|>\boxed{1}<|end|><|start|>assistant<|channel|>final<|message|>\boxed{2}.", "2"),
    # references are read as predictions are
    (r"\boxed{72}", "24 clips in May.\n#### 72"),
    (r"\boxed{42}", "The answer is 42"),
    (r"\boxed{72}", "72 clips"),
    # choices with their values
    (r"\boxed{B}", r"\textbf{(B)}\ 12"),
    (r"\boxed{12}", r"\textbf{(B)}\ 12"),
    (r"\boxed{\textbf{(D)}\ 72}", "72"),
    (r"\boxed{\text{(B)}}", "(B) 12"),
    # times of day
    (r"\boxed{3{:}45\text{ PM}}", r"3:45\text{ p.m.}"),
    # other scripts
    (r"\boxed{東京。}", "東京"),
    (r"\boxed{\text{東京}}", "東京"),
    ("Москва.", "москва"),
    ("１２", "12"),
    ("3小时", "3"),
    ("3小时", "180分钟"),
    ("50 км/ч", "50 km/h"),
    ("5平方米", r"5\text{ m}^2"),
    # values
    (r"\sin(\pi)", "0"),
    (r"\sqrt2\cdot\sqrt2-2", "0"),
    (r"\sin^2 1+\cos^2 1-1", "0"),
    (r"\frac{10000!}{9998!}", "99990000"),
    ("2^{1000000}", r"2\cdot 2^{999999}"),
    ("10,25", "10.25"),
]

WRONG = [
    (r"\boxed{e^{-101}}", "e^{-100}"),
    (r"\boxed{0}", "e^{-100}"),
    ("0", "10^{-300}"),
    ("e^{-100}-e^{-101}", "0"),
    (r"\boxed{\frac{1}{2006!}}", r"\frac{1}{2004!}"),
    ("1000!", "1001!"),
    ("2^{1000000}", "2^{1000001}"),
    ("10^{10^{10}}", "10^{10^{11}}"),
    (r"\binom{2000}{1000}", r"\binom{2000}{999}"),
    ("(10^{13})!", "42"),
    (r"\boxed{10.25}", "10,25"),
    (r"\boxed{大阪}", "東京"),
    (r"\boxed{左}", "右"),
    ("是", "否"),
    ("。", "、"),
    ("!", "?"),
    ("résumé", "resume"),
    ("A→B", "A←B"),
    (r"\boxed{3小时}", "3分钟"),
    (r"\boxed{7 км}", "7 м"),
    ("3万", "3"),
    ("3个", "3人"),
    ("-3 flurbs", "3 flurbs"),
    ("-72 clips", "72"),
    ("72 wrong", "72"),
    ("2 tenths", "2"),
    (r"\boxed{C}", r"\textbf{(B)}\ 12"),
    ("(B) 13", "(B) 12"),
    ("(C) 12", "(B) 12"),
    (r"\textbf{(D)}\ 72", "73"),
    ("3:45 PM", r"3{:}45\text{ a.m.}"),
    ("<answer>5</answer> or <answer>6</answer>", "6"),
]

UNPARSABLE = [
    (r"[THINK] so \boxed{5} [/THINK] I do not know", "5"),
    (r"<think>\boxed{5}", "5"),
    (r"<thought>\boxed{5}", "5"),
    (r"<|channel|>analysis<|message|>\boxed{5}", "5"),
    (r"<think>a</think> So <think>\boxed{5}", "5"),
    ("<answer> </answer>", "5"),
]

CASES = [
    *((*case, Status.CORRECT) for case in RIGHT),
    *((*case, Status.WRONG) for case in WRONG),
    *((*case, Status.UNPARSABLE) for case in UNPARSABLE),
]


@pytest.mark.parametrize(("prediction", "reference", "expected"), CASES)
def test_verdicts(prediction: str, reference: str, expected: Status) -> None:
    assert grade_math(prediction, reference).status is expected


def test_huge_and_tiny_values_take_milliseconds() -> None:
    grade_math("1", "1")
    for prediction, reference in (
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        ("2^{1000000}", "2^{1000001}"),
        ("10^{10^{10}}", "10^{10^{11}}"),
        ("(10^{13})!", "(10^{13})!+1"),
        (r"\binom{10^9}{5\cdot10^8}", "42"),
    ):
        started = time.process_time()
        grade_math(prediction, reference)
        assert time.process_time() - started < 0.1, prediction
