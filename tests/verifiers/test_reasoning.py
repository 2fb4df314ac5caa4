"""Reasoning earns nothing, whatever marks it: closed, open, repeated, nested, or opened by the template."""

import time

import pytest

from verifiers import Status, grade_math
from verifiers.programs.extraction import program_of
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


GOOD, DRAFT = "```python\nprint(2)\n```", "```python\nprint(1)\n```"
ANSWERED = [
    f"{{0}}{DRAFT}{{1}}\n{GOOD}",
    f"{{0}}\n{DRAFT}\n{{1}}\nSo:\n{GOOD}",
    f"{{0}}print(1)\n```python\nprint(1)\n{{1}}\n{GOOD}",
    "{0}\nprint(1)\n{1}\nprint(2)\n",
]
UNANSWERED = [
    f"{{0}}\n{GOOD}\n{{1}}\nI do not know.",
    f"{{0}}\n{GOOD}\n",
    f"Hm.\n{{0}}\n{GOOD}\n{{1}}\nI do not know.",
    f"{GOOD}\n{{1}}\nI do not know.",
    f"{{0}}a{{1}}\n{{0}}\n{GOOD}\n{{1}}\nI do not know.",
]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_program_inside_the_reasoning_earns_nothing(opening: str, closing: str) -> None:
    for response in ANSWERED:
        program = program_of(response.format(opening, closing))
        assert program is not None and program.strip() == "print(2)", response
    if not opening.startswith("analysis"):  # gpt-oss without its special tokens: only at the start of a response
        for response in UNANSWERED:
            assert program_of(response.format(opening, closing)) is None, response


PROGRAMS = [
    "def count(reasons):\n    n = {}\n    for reason in reasons:\n        n[reason] = n.get(reason, 0) + 1\n",
    "def parse(text):\n    return text.split('</think>')[-1]\n",
    "import re\n\ndef parse(text):\n    return re.sub(r\"<think>.*?</think>\", '', text)\n",
    "def tag(text):\n    return '<analysis>' + text + '</analysis>'\n",
    "def rows(reason):\n    return [reason] * 2 + [\n        [reason],\n    ][0]\n",
    'def page():\n    """Write it as\n\n    <reasoning>\n    </reasoning>\n    """\n    return \'<thought>\'\n',
]


@pytest.mark.parametrize("code", PROGRAMS)
@pytest.mark.parametrize(
    "form", ["```python\n{}```", "<think>a</think>\nSo:\n```python\n{}```\nIt is so.", "Yes: ```py\n{}```"]
)
def test_tags_in_a_program_are_a_part_of_it(code: str, form: str) -> None:
    assert program_of(form.format(code) if "{}" not in code else form.replace("{}", code)) == code


def test_names_in_a_program_without_a_fence_are_no_tags() -> None:
    for code in (PROGRAMS[0], PROGRAMS[3].replace(" + '</analysis>'", ""), "def f(reason):\n    return [reason]\n"):
        assert program_of(code) == code


@pytest.mark.parametrize(
    "text", ["a < think and b > c", "I think> so", "[1, 2]", "x<y", "his analysis", "to=5", "<thinker>", "[reasons]"]
)
def test_other_text_is_no_mark(text: str) -> None:
    assert after_reasoning(text) == text


@pytest.mark.parametrize(
    "attack",
    ["<think>", "</think>", "<think a=", "< ", "<|", "[THINK", "[reason]", "```\n<think>", "<|channel|>final", "to="],
)
def test_marks_are_found_in_linear_time(attack: str) -> None:
    started = time.process_time()
    for code in (False, True):
        after_reasoning(attack * (100_000 // len(attack)), code=code)
    assert time.process_time() - started < 2.0
