"""The program in a model's response: the code block of a chat answer, or the continuation of a prompt."""

from __future__ import annotations

import keyword
import re
import textwrap

from verifiers.reasoning import after_reasoning
from verifiers.tasks.code_blocks import Lexer, before_fence, begins_as_code, fenced_blocks, is_python
from verifiers.tasks.code_parts import with_helpers, without_prompts
from verifiers.tasks.code_wrappers import INVISIBLE, unquoted, unwrapped
from verifiers.turns import without_end, without_start

MAX_RESPONSE_CHARS = 200_000
"""Only the end of a longer response is looked at."""

MAX_PROGRAM_CHARS = 64_000
"""A longer text is not accepted as a program: solutions of these tasks have a few thousand characters at most."""

_CLOSER = (")", "]", "}")
# How a line at the left margin begins where a program begins after prose or at the start of a text.
_CODE = re.compile(
    r"(?:async +def|def|class) +\w|import +\w|from +[\w.]+ +import\b"
    r"|(?:if|elif|for|while|with|except|match|case)\b.*:|(?:else|try|finally) *:"
    r"|[@#)\]}]|[rRbBuUfF]{0,2}(?:\"\"\"|''')|(?:pass|break|continue) *$|(?:del|global|assert|raise) +\w"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])? *(?:[-+*/|&%^@<>]{0,2}=(?!=)|: *\w+.*=)"
    r"|[*(\[]? *[A-Za-z_][\w.]*(?:\[[^\]]*\])? *,[^=]*=(?!=)"
    r"|\[? *[A-Za-z_][\w.]*(?:\[[^\]]*\])?\("
)
# Two words in a row of which neither is a keyword: a sentence.
_WORDS = re.compile(r"(?<![\w.])(\w[\w.]*) +(?=(\w+))")
_NO_CODE = re.compile(r"[>|]|\*\*|[-*] |.*[`$?'!](?!=)|.*(?:[^\d\W]|\))\.$|\w+:$")
_KEYWORDS = {*keyword.kwlist, *keyword.softkwlist}


def defines(code: str, name: str) -> bool:
    """Whether a line at the left margin defines ``name``."""
    word = re.escape(name)
    return (
        re.search(rf"^(?:(?:async +def|def|class) +{word}\b|{word} *(?::[^=\n]+)?=(?!=))", code, re.MULTILINE)
        is not None
    )


def _chosen_block(response: str, entry_point: str | None) -> str | None:
    """The last block that defines the entry point, else the last block; Python ones before those without a label.

    None where the program is the text before the first fence: a prompt may have opened the block that this one closes.
    """
    blocks = fenced_blocks(response)
    if (start := before_fence(response)) and not any(is_python(label) for label, _ in blocks):
        named = [text for _, text in blocks if entry_point and defines(text, entry_point)]
        if not named or defines(start, str(entry_point)):
            return None
    python = [text for label, text in blocks if is_python(label)]
    candidates = python or [text for label, text in blocks if not label] or [text for _, text in blocks]
    defining = [text for text in candidates if entry_point and defines(text, entry_point)]
    chosen = (defining or candidates)[-1:]
    if not chosen:
        return None
    return with_helpers(chosen[0], candidates[: candidates.index(chosen[0])])


def _lines(text: str) -> list[str]:
    """With their ends. Not ``splitlines``, which also splits at characters that strings may hold."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def continuation(response: str) -> str:
    """The rest of a function's body: up to the first line at the left margin, where something new begins."""
    kept: list[str] = []
    lexer = Lexer()
    for number, line in enumerate(_lines(response)):
        at_margin = bool(line.strip()) and not line[0].isspace() and not line.startswith(_CLOSER)
        # The first line continues the line at which the prompt ended.
        if at_margin and not (lexer.quote or lexer.depth) and number > 0:
            break
        kept.append(line)
        lexer.feed(line)
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
    lexer = Lexer()
    for line in _lines(response):
        at_margin = bool(line.strip()) and not line[0].isspace()
        if at_margin and _is_prose(line) and all(text.startswith("#") or not text.strip() for text in kept):
            kept.clear()  # "# Solution" before a sentence is a heading
        if not kept:
            code = at_margin and _CODE.match(line) is not None and not _is_prose(line)
        else:
            code = not at_margin or bool(lexer.quote or lexer.depth) or not _is_prose(line)
        if code:
            kept.append(line)
            lexer.feed(line)
        elif kept:
            break
    return "".join(kept)


def indented_program(response: str) -> str:
    """The code of a text that indents all of it, as Markdown does for code: from its first indented line on."""
    lines = _lines(response)
    start = next((number for number, line in enumerate(lines) if line.strip() and line[0].isspace()), len(lines))
    end = next((n for n in range(start, len(lines)) if lines[n].strip() and not lines[n][0].isspace()), len(lines))
    return whole_program(textwrap.dedent("".join(lines[start:end])))


def _is_prose(line: str) -> bool:
    """Whether a line at the left margin, outside of strings, is a sentence, a list item or other text."""
    bare = Lexer().feed(line).rstrip()
    if _NO_CODE.match(bare) and bare.removesuffix(":") not in _KEYWORDS:
        return True
    return any(not _KEYWORDS.intersection(pair) for pair in _WORDS.findall(bare))


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
    response = after_reasoning(response, code=True)[-MAX_RESPONSE_CHARS:].replace("\r\n", "\n")
    response = unquoted(without_end(without_start(response)))
    if not prompt:
        response = without_prompts(response)
    code = _chosen_block(response, entry_point)
    complete = not prompt or entry_point is None
    if code is None:
        response = before_fence(response) or response
        response = unwrapped(response, tags=not begins_as_code(response.split("\n")))
        # Without a fence it is a program if it defines the function, and else continues where the prompt stops.
        complete = complete or defines(response, str(entry_point))
        code = whole_program(response) or indented_program(response) if complete else continuation(response)
    else:
        complete = complete or defines(code, str(entry_point))
    code = without_prompts(code.lstrip(INVISIBLE))
    if not code.strip() or len(code) > MAX_PROGRAM_CHARS:
        return None
    if complete:
        return f"{prompt}\n{code}" if prompt else code
    return prompt + (as_body(code) if prompt.endswith("\n") else code)
