"""The pairs that users reported, by their ids, each with the verdict that is right."""

import pytest

from verifiers import grade_math

CASES = [
    # Tiny values: equality must be relative, never below an absolute floor.
    ("field-00", r"\boxed{e^{-101}}", "e^{-100}", "wrong"),
    # Zero is not a small number.
    ("field-01", r"\boxed{0}", "e^{-100}", "wrong"),
    # Tiny rationals decided exactly, in milliseconds.
    ("field-02", r"\boxed{\frac{1}{2006!}}", r"\frac{1}{2004!}", "wrong"),
    # A list of two is no decimal comma unless the other side says so.
    ("field-03", r"\boxed{10.25}", "10,25", "wrong"),
    # Markdown emphasis, with or without a full stop.
    ("field-04", "The answer is **12**.", "12", "correct"),
    # Markdown inside the box.
    ("field-05", r"\boxed{**73**}", "73", "correct"),
    # Answer tags hold any formula.
    ("field-06", r"<think>x</think><answer>\frac{3}{4}</answer>", "0.75", "correct"),
    # Answer tags hold tuples.
    ("field-07", "<think>x</think><answer>(1,2)</answer>", "(1,2)", "correct"),
    # The tag wins over what follows.
    ("field-08", "Reasoning 5. <answer>73</answer> extra 9", "73", "correct"),
    # Reasoning under any of the field's tags earns nothing.
    ("field-09", r"[THINK] so \boxed{5} [/THINK] I do not know", "5", "unparsable"),
    # GSM8K's own answer field as reference.
    ("field-10", r"\boxed{72}", "24 clips in May.\n#### 72", "correct"),
    # References are read as predictions are.
    ("field-11", r"\boxed{42}", "The answer is 42", "correct"),
    # Choice with its value, as competition references write it.
    ("field-12", r"\boxed{B}", r"\textbf{(B)}\ 12", "correct"),
    # The same in the prediction.
    ("field-13", r"\boxed{\textbf{(D)}\ 72}", "72", "correct"),
    # A unit that only the reference has.
    ("field-14", r"\boxed{72}", "72 clips", "correct"),
    # {:} is a colon.
    ("field-15", r"\boxed{3{:}45\text{ PM}}", r"3:45\text{ p.m.}", "correct"),
    # Text in any script is compared, never dropped.
    ("field-16", r"\boxed{大阪}", "東京", "wrong"),
    # The same.
    ("field-17", r"\boxed{左}", "右", "wrong"),
    # Units in any script.
    ("field-18", r"\boxed{3小时}", "3分钟", "wrong"),
    # The same.
    ("field-19", r"\boxed{7 км}", "7 м", "wrong"),
    # Full stops of other scripts.
    ("field-20", r"\boxed{東京。}", "東京", "correct"),
]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdict(prediction: str, reference: str, expected: str) -> None:
    assert grade_math(prediction, reference).status.value == expected
