"""Programs in several blocks, after a fence that the prompt opened, in a session, and before the end of a turn."""

from __future__ import annotations

import time
from typing import Any

import pytest

from verifiers.programs.extraction import program_of

ADD = "def add(a, b):\n    return a + b\n"
FENCED = f"```python\n{ADD}```\n"
WRONG = "def add(a, b):\n    return 0\n"


def value(response: str, *, prompt: str = "", entry_point: str | None = "add") -> Any:
    """add(2, 3) of the program in the response."""
    program = program_of(response, prompt=prompt, entry_point=entry_point)
    assert program is not None
    space: dict[str, Any] = {"__name__": "solution"}
    exec(compile(program, "<program>", "exec"), space)
    return space["add"](2, 3)


@pytest.mark.parametrize(
    "response",
    [
        # the prompt opened the block: the first fence closes it
        f"{ADD}```\nThis adds.",
        f"{ADD}```\nOutput:\n```\n5\n```\n",
        f"{ADD}\nExample output:\n```\n5\n```\n",
        f"{ADD}```\n\n```bash\npython add.py\n```\n",
        'def add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n```\nDone.',
        # a block that needs an earlier one
        "```python\ndef helper(a, b):\n    return a + b\n```\nNow:\n"
        "```python\ndef add(a, b):\n    return helper(a, b)\n```\n",
        "```python\nclass Adder:\n    def __call__(self, a, b):\n        return total(a, b)\n```\n"
        "```python\ndef total(*a):\n    return sum(a)\n```\n"
        "```python\ndef add(a, b):\n    return Adder()(a, b)\n```\n",
        "```python\ndef helper(a, b):\n    return 0\n```\n```python\ndef helper(a, b):\n    return a + b\n```\n"
        "```python\ndef add(a, b):\n    return helper(a, b)\n```\n",
        f"{FENCED}Test:\n```python\nassert add(1, 2) == 3\n```\n",
        # the interpreter's prompts
        "```python\n>>> def add(a, b):\n...     return a + b\n...\n>>> add(2, 3)\n5\n```\n",
        # marks of chat templates at the end, and of the start of the turn
        *(f"{ADD}{end}" for end in ("</s>", "<eos>", "<end_of_turn>\n", "<|im_end|>", "<｜end▁of▁sentence｜>")),
        f"```python\n{ADD}<|eot_id|><|eot_id|>",
        f"<|im_start|>assistant\n{ADD}<|im_end|>",
        f"<|python_tag|>{ADD}<|eom_id|>",
        # other wrappers
        f"<answer>\n```python\n{ADD}</answer>",
        f"'''python\n{ADD}'''\nIt adds.",
        f'"""py\n{ADD}"""',
        f"```python\n\ufeff{ADD}```",
        "    def add(a, b):\n        return a + b\n",
        "The code:\n\n    def add(a, b):\n        return a + b\n\nDone.",
    ],
)
@pytest.mark.parametrize("entry_point", ["add", None])
def test_the_program_is_found(response: str, entry_point: str | None) -> None:
    assert value(response, entry_point=entry_point) == 5


@pytest.mark.parametrize(
    "response",
    [
        f"```python\n{ADD}```\nBetter:\n```python\n{WRONG}```\n",  # the later one counts
        f"```python\n{WRONG}```\n```\n{ADD}```\n",  # Python before no label
    ],
)
def test_the_wrong_program_is_not_mended(response: str) -> None:
    assert value(response) == 0


def test_an_earlier_block_that_runs_something_is_left_out() -> None:
    blocks = "```python\ndef helper(): pass\nprint(1)\n```\n```python\ndef f():\n    helper()\n```\n"
    program = program_of(blocks, entry_point="f")
    assert program == "def f():\n    helper()\n"


def test_a_body_ends_at_the_fence_that_the_prompt_opened() -> None:
    body = "    c = a + b\n    return c\n"
    for response in (body, f"{body}```\nThis adds.", f"{body}```\nOutput:\n```\n5\n```\n"):
        assert value(response, prompt="def add(a, b):\n") == 5


def test_marks_inside_a_program_are_its_own() -> None:
    program = "x = '</s>'\nprint(x + '<|im_end|>')\n"
    assert program_of(program) == program
    assert program_of("```python\nprint('<eos>')\n```\n<|im_end|>") == "print('<eos>')\n"


@pytest.mark.parametrize("hostile", ["<|a|>", "</s> ", "'''python\n", ">>> x\n", "    x = 1\n\n", "x = 1\n```\n"])
def test_hostile_texts_are_quick(hostile: str) -> None:
    started = time.process_time()
    program_of((hostile * 200_000)[:200_000])
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("start, repeated", [("```python\n", "\n"), ("```\n", " \n"), ("x", "`")])
def test_a_response_that_repeats_one_mark_to_its_end_is_read_quickly(start: str, repeated: str) -> None:
    started = time.process_time()
    program_of((start + repeated * 60_000)[:60_000])
    assert time.process_time() - started < 2.0


def test_blank_lines_before_an_end_tag_belong_to_the_block() -> None:
    assert value(f"<answer>\n```python\n{ADD}\n \n</answer>\n\n") == 5
