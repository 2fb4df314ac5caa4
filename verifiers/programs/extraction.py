"""The program in a model's response: the code block of a chat answer, or the continuation of a prompt."""

from __future__ import annotations

import re
import textwrap

from verifiers.programs.blocks import before_fence, fenced_blocks
from verifiers.programs.bodies import after_prompt, continued, with_body
from verifiers.programs.lines import Lexer, begins_as_code, is_code, is_prose, lines_of
from verifiers.programs.parts import defines, parsed, program_in, without_prompts
from verifiers.programs.wrappers import INVISIBLE, unquoted, unwrapped
from verifiers.reasoning import after_reasoning
from verifiers.turns import without_end, without_start

_SESSION = re.compile(r"^>>> ", re.MULTILINE)

MAX_RESPONSE_CHARS = 200_000
"""Only the end of a longer response is looked at."""

MAX_PROGRAM_CHARS = 64_000
"""A longer text is not accepted as a program: solutions of these tasks have a few thousand characters at most."""


def whole_program(response: str) -> str:
    """The code in a text without fences: from the first line of code up to where prose begins."""
    kept: list[str] = []
    lexer = Lexer()
    for line in lines_of(response):
        at_margin = bool(line.strip()) and not line[0].isspace()
        if at_margin and is_prose(line) and all(text.startswith("#") or not text.strip() for text in kept):
            kept.clear()  # "# Solution" before a sentence is a heading
        if kept:
            code = not at_margin or lexer.goes_on or not is_prose(line)
        else:
            code = at_margin and is_code(line)
        if code:
            line, ends = lexer.take(line)
            kept.append(line)
            if ends:
                break
        elif kept:
            break
    return "".join(kept)


def indented_program(response: str) -> str:
    """The code of a text that indents all of it, as Markdown does for code: from its first indented line on."""
    lines = lines_of(response)
    start = next((number for number, line in enumerate(lines) if line.strip() and line[0].isspace()), len(lines))
    end = next((n for n in range(start, len(lines)) if lines[n].strip() and not lines[n][0].isspace()), len(lines))
    return whole_program(textwrap.dedent("".join(lines[start:end])))


def _cleaned(response: str) -> str:
    """The answer in a response: without reasoning and marks of chat templates, with Python's line ends."""
    text = after_reasoning(response, code=True)[-MAX_RESPONSE_CHARS:].replace("\r\n", "\n").replace("\r", "\n")
    return unquoted(without_end(without_start(text)))


def _from_session(text: str) -> str:
    """The inputs of a session of the interpreter that only prose precedes; other text as it is."""
    start = _SESSION.search(text)
    return without_prompts(text[start.start() :]) if start and not whole_program(text[: start.start()]) else text


def _without_prose(blocks: list[tuple[str, str]], response: str) -> None:
    """Leave out what follows the program in a last block that is not closed."""
    label, content = blocks[-1] if blocks else ("", "")
    if content and response.rstrip().endswith(content.rstrip()) and parsed(content) is None:
        blocks[-1] = (label, whole_program(content) or content)


def _without_first_space(text: str) -> str:
    """The text without one space in front, which tokenizers put there, unless it indents the next line too."""
    following = next((line for line in text.split("\n")[1:] if line.strip()), "")
    return text[1:] if re.match(r" \S", text) and not re.match(r" \S", following) else text


def program_of(response: str, *, prompt: str = "", entry_point: str | None = None) -> str | None:
    """The program in a response.

    Args:
        response: The model's text, without special tokens.
        prompt: Source that the program continues (HumanEval), or "" where the response is the whole program (MBPP).
        entry_point: The function that it must define, where that is known.

    Returns:
        Source text, not checked in any way, or None if the response holds no code. With a ``prompt``, that comes
        first: its imports and helpers stay available, and a complete function overrides the prompt's stub.
    """
    # Without an entry point the prompt is not source code that could be continued.
    name = entry_point if prompt else None
    response = _cleaned(response)
    if name is None:
        response = without_prompts(response)
    blocks = fenced_blocks(response)
    _without_prose(blocks, response)
    # A prompt may have opened a block, which the first fence closes.
    text = before_fence(response) or ("" if blocks else response)
    text = unwrapped(text, tags=not begins_as_code(text.split("\n")))
    if name is None or defines(_without_first_space(text), name):
        text = _from_session(_without_first_space(text))
        blocks.insert(0, ("python", whole_program(text) or indented_program(text)))
    code = program_in([block for block in blocks if block[1].strip()], entry_point) or ""
    body = name is not None and not defines(code, name)
    code = without_prompts((text if body and text else code).lstrip(INVISIBLE))
    if not code.strip() or len(code) > MAX_PROGRAM_CHARS:
        return None
    if not body:
        return after_prompt(prompt, code, entry_point)
    return continued(prompt, code) if text else with_body(prompt, code)
