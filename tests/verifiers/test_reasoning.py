"""Reasoning earns nothing, whatever marks it: closed, open, repeated, nested, or opened by the template."""

import time

import pytest

from verifiers import Status, grade_math
from verifiers.reasoning import after_reasoning

TAGS = [
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "thoughts", "reasoning", "reason")),
    *((f"<{name}>", f"</{name}>") for name in ("reflection", "analysis", "scratchpad", "cot", "inner_thoughts")),
    *((f"<{name}>", f"</{name}>") for name in ("internal_monologue", "deep_thought", "THINK", "Thought", "seed:think")),
    *((f"<{name}>", f"</{name}>") for name in ("mm:think", "think:6124c78e", "think ", "think\n")),
    ("< think >", "< /think >"),
    ('<think type="a">', "</think>"),
    ("<start_working_out>", "<end_working_out>"),
    ("[THINK]", "[/THINK]"),
    ("[REASONING]", "[/REASONING]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|><|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|think|>", "<|/think|>"),
    ("<|reasoning_start|>", "<|reasoning_end|>"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysisWe add. ", "assistantfinal"),
    ("to=self<|message|>", "<|eom|>to=user<|message|>"),
    ("Here is my thought process:", "Here is my response:"),
]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_only_the_answer_counts(opening: str, closing: str) -> None:
    response = rf"{opening}\boxed{{1}}{closing} \boxed{{2}}"
    assert grade_math(response, "2").status is Status.CORRECT
    assert grade_math(response, "1").status is Status.WRONG


# Without its special tokens, gpt-oss marks reasoning only at the start of a response.
@pytest.mark.parametrize(("opening", "closing"), [tags for tags in TAGS if not tags[0].startswith("analysis")])
@pytest.mark.parametrize(
    "response",
    [
        r"{0}so \boxed{{5}}{1} I do not know",
        r"{0}so \boxed{{5}}",
        r"so \boxed{{5}}{1} I do not know",
        r"{0}first{1}{0}\boxed{{5}}{1} none",
        r"{0}first{1} text {0}\boxed{{5}}",
        r"{0}first {0}\boxed{{5}}{1} \boxed{{5}}{1} none",
        "Hm.\n{0}so \\boxed{{5}}{1} I do not know",
    ],
)
def test_reasoning_earns_nothing(opening: str, closing: str, response: str) -> None:
    assert grade_math(response.format(opening, closing), "5").reward == 0.0


@pytest.mark.parametrize(
    "text", ["a < think and b > c", "I think> so", "[1, 2]", "x<y", "his analysis", "to=5", "<thinker>", "[reasons]"]
)
def test_other_text_is_no_mark(text: str) -> None:
    assert after_reasoning(text) == text


@pytest.mark.parametrize(
    "attack", ["<think>", "</think>", "<think a=", "< ", "<|", "[THINK", "<|channel|>final", "to="]
)
def test_marks_are_found_in_linear_time(attack: str) -> None:
    started = time.process_time()
    after_reasoning(attack * (100_000 // len(attack)))
    assert time.process_time() - started < 2.0
