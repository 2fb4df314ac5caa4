"""The program in a model's response: the code block of a chat answer, or the continuation of a prompt."""

from __future__ import annotations

import re
import textwrap

MAX_RESPONSE_CHARS = 200_000
"""Only the end of a longer response is looked at."""

MAX_PROGRAM_CHARS = 64_000
"""A longer program is no program: solutions of these tasks have a few thousand characters at most."""

_FENCE = re.compile(r"^ {0,8}(```+|~~~+) *([A-Za-z0-9+_-]*)[^`\n]*$", re.MULTILINE)
_PYTHON = ("python", "py", "python3")
_CLOSER = (")", "]", "}")
# How a line at the left margin begins if it is code and not prose.
_CODE = re.compile(
    r"(?:async +def|def|class) +\w|import +\w|from +[\w.]+ +import\b"
    r"|(?:if|elif|for|while|with|except)\b.*:|(?:else|try|finally) *:"
    r"|[@#)\]}]"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])? *(?:[-+*/|&%^]?=(?!=)|: *\w+.*=)"
)


def fenced_blocks(response: str) -> list[tuple[str, str]]:
    """The code blocks of a Markdown text as (label in lower case, content); one left open goes to the end."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(response):
        if opened is None:
            opened = fence
        elif fence.group(1).startswith(opened.group(1)) and not fence.group(2):
            blocks.append((opened.group(2).lower(), response[opened.end() + 1 : fence.start()]))
            opened = None
    if opened is not None:
        blocks.append((opened.group(2).lower(), response[opened.end() + 1 :]))
    return [(label, textwrap.dedent(text)) for label, text in blocks]


def defines(code: str, name: str) -> bool:
    """Whether a line at the left margin defines ``name``."""
    word = re.escape(name)
    return (
        re.search(rf"^(?:(?:async +def|def|class) +{word}\b|{word} *(?::[^=\n]+)?=(?!=))", code, re.MULTILINE)
        is not None
    )


def _chosen_block(response: str, entry_point: str | None) -> str | None:
    """The last block that defines the entry point, else the last block; Python ones before those without a label."""
    blocks = fenced_blocks(response)
    python = [text for label, text in blocks if label in _PYTHON]
    candidates = python or [text for label, text in blocks if not label] or [text for _, text in blocks]
    defining = [text for text in candidates if entry_point and defines(text, entry_point)]
    chosen = defining or candidates
    return chosen[-1] if chosen else None


def _lines_outside_strings(text: str) -> list[tuple[str, bool]]:
    """Each line, and whether it begins outside of a triple-quoted string."""
    found, quote = [], ""
    for line in text.splitlines(keepends=True):
        found.append((line, not quote))
        for mark in re.findall(r'"""|\'\'\'', line):
            quote = "" if quote == mark else quote or mark
    return found


def continuation(response: str) -> str:
    """The rest of a function's body: up to the first line at the left margin, where something new begins."""
    kept: list[str] = []
    for number, (line, outside) in enumerate(_lines_outside_strings(response)):
        at_margin = bool(line.strip()) and not line[0].isspace() and not line.startswith(_CLOSER)
        # The first line continues the line at which the prompt ended.
        if outside and at_margin and number > 0:
            break
        kept.append(line)
    return "".join(kept)


def as_body(code: str) -> str:
    """``code`` indented as the body of a function, which it may have lost in part or altogether."""
    lines = code.lstrip("\n").splitlines(keepends=True)
    if not lines or lines[0][0].isspace():
        return code
    second = next((line for line in lines[1:] if line.strip()), "")
    depth = len(second) - len(second.lstrip())
    # Often only the first line has lost its indentation: models and tokenizers strip what they begin with.
    only_first = depth > (4 if lines[0].rstrip().endswith(":") else 0)
    return "    " + "".join(lines) if only_first else textwrap.indent("".join(lines), "    ")


def whole_program(response: str) -> str:
    """The code in a text without fences: from the first line of code up to where prose begins."""
    kept: list[str] = []
    for line, outside in _lines_outside_strings(response):
        at_margin = bool(line.strip()) and not line[0].isspace()
        code = not outside or not at_margin or _CODE.match(line) is not None
        if code and (kept or at_margin):
            kept.append(line)
        elif kept:
            break
    return "".join(kept)


def program_of(response: str, *, prompt: str = "", entry_point: str | None = None) -> str | None:
    """The program that a response stands for.

    Args:
        response: The model's text, without special tokens.
        prompt: Source that the program continues (HumanEval), or "" where it has to stand alone (MBPP).
        entry_point: The function that it must define, where that is known.

    Returns:
        Source text, not checked in any way, or None if the response holds no code. With a ``prompt``, that comes
        first: its imports and helpers stay available, and a complete function overrides the prompt's stub.
    """
    response = response[-MAX_RESPONSE_CHARS:].rsplit("</think>", 1)[-1].replace("\r\n", "\n")
    code = _chosen_block(response, entry_point)
    complete = not prompt or entry_point is None
    if code is None:
        # Without a fence it is a program if it defines the function, and else goes on where the prompt stops.
        complete = complete or defines(response, str(entry_point))
        code = whole_program(response) if complete else continuation(response)
    else:
        complete = complete or defines(code, str(entry_point))
    if not code.strip() or len(code) > MAX_PROGRAM_CHARS:
        return None
    if complete:
        return f"{prompt}\n{code}" if prompt else code
    return prompt + (as_body(code) if prompt.endswith("\n") else code)
