"""Fenced code blocks of a Markdown text, where a fence inside a Python string does not count."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from verifiers.programs.lines import Lexer, begins_as_code

_FENCE = re.compile(r"([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)")
# "Here it is: ```python": an opening fence at the end of a line of prose.
_INLINE = re.compile(r"([^`\n]*?)(`{3,})((?:i?python|py)[\d.]*)[ \t]*", re.IGNORECASE)
_LABEL = re.compile(r"\{?[ .]*([\w+#.-]+)")
_PYTHON = re.compile(r"(?:i?python|pypy|pycon|py)(?:[-_]?\d[\d.]*)?|python-repl|[\w.-]+\.py")
_WRAPPERS = ("markdown", "md")

_RESCANS = 20
"""After this many strings without an end in one text, fences in strings count as fences, which bounds the time."""


@dataclass
class _Block:
    """A block that is open."""

    marks: str
    indent: int
    label: str
    start: int
    """Number of its first line."""
    lexer: Lexer = field(default_factory=Lexer)
    doubtful: int | None = None
    """The first fence that would have closed it and lies in a string."""

    def closed_by(self, marks: str) -> bool:
        return marks.startswith(self.marks)

    @property
    def may_be_python(self) -> bool:
        return not self.label or is_python(self.label)


def is_python(label: str) -> bool:
    """Whether a block with this label holds Python."""
    return _PYTHON.fullmatch(label) is not None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """The code blocks of a Markdown text as (label in lower case, content); one left open goes to the end.

    A fence in a triple-quoted string of Python is content. A fence with a label inside a block begins a new one: the
    block before was not closed, or only wrapped it. Blocks labeled ``markdown`` are looked into. Blank blocks are left
    out. The label may also be on a line below its fence.
    """
    lines = text.split("\n")
    found: list[tuple[_Block, list[str]]] = []
    at, left = 0, _RESCANS
    # A program without its own fence may have some in its docstrings.
    unfenced = Lexer() if begins_as_code(lines) else None
    last = {mark: max((n for n, line in enumerate(lines) if mark in line), default=-1) for mark in ('"""', "'''")}
    wrapper = ""
    while at < len(lines):
        opened = _opening(lines[at], at)
        if unfenced is not None:
            if opened is not None and unfenced.quote and last[unfenced.quote] > at:
                opened = None
            unfenced.feed(lines[at])
        if opened is None or (wrapper and not opened.label and opened.marks.startswith(wrapper)):
            wrapper = wrapper if opened is None else ""
            at += 1
            continue
        if opened.label in _WRAPPERS:
            wrapper = opened.marks
            at += 1
            continue
        unfenced = None
        content, at = _content(lines, opened, strings=left > 0)
        left -= opened.doubtful is not None
        found.append((opened, content))
    blocks = [(block.label, _dedented(content, block.indent)) for block, content in found]
    return [block if block[0] else _labeled(block[1]) for block in blocks if block[1].strip()]


def _labeled(content: str) -> tuple[str, str]:
    """A block without a label on its fence: its first line may be one."""
    first, _, rest = content.partition("\n")
    return ("python", rest) if is_python(first.strip().lower()) and rest.strip() else ("", content)


def before_fence(text: str) -> str:
    """The text before its first fence if it begins as code; "" if it does not, or has no fence.

    Fences inside its strings are content, as far as these strings end.
    """
    lines = text.split("\n")
    if not begins_as_code(lines):
        return ""
    lexer = Lexer()
    last = {mark: max((n for n, line in enumerate(lines) if mark in line), default=-1) for mark in ('"""', "'''")}
    for number, line in enumerate(lines):
        if _opening(line, number) is not None and not (lexer.quote and last[lexer.quote] > number):
            return "".join(f"{line}\n" for line in lines[:number])
        lexer.feed(line)
    return ""


def _opening(line: str, number: int) -> _Block | None:
    """The block that ``line`` opens. A fence followed by several words belongs to prose."""
    fence = _FENCE.fullmatch(line)
    if fence is None:
        inline = _INLINE.fullmatch(line)
        return inline and _Block(inline.group(2), 0, _label(inline.group(3)), number + 1)
    indent, marks, info = fence.groups()
    label = _label(info)
    if len(info.split()) > 1 and "=" not in info and info[0] != "{" and not is_python(label):
        return None
    return _Block(marks, len(indent), label, number + 1)


def _label(info: str) -> str:
    word = _LABEL.match(info)
    return word.group(1).lower() if word else ""


def _content(lines: list[str], block: _Block, strings: bool) -> tuple[list[str], int]:
    """The lines of a block that is open, and the number of the line after it."""
    for number in range(block.start, len(lines)):
        line = lines[number]
        fence = _FENCE.fullmatch(line)
        inside = strings and block.may_be_python and block.lexer.quote
        if fence is not None and not inside:
            if fence.group(3):
                # A new block, or words after the closing fence, which open nothing.
                return lines[block.start : number], number if _opening(line, number) else number + 1
            if block.closed_by(fence.group(2)):
                block.doubtful = None
                return lines[block.start : number], number + 1
        if fence is not None and inside and not fence.group(3) and block.closed_by(fence.group(2)):
            block.doubtful = number if block.doubtful is None else block.doubtful
        block.lexer.feed(line)
        if block.may_be_python and not block.lexer.quote and fence is None and line.rstrip().endswith(block.marks):
            code = line.rstrip().removesuffix(block.marks)
            if "#" not in code:  # the fence follows the last line of code
                block.doubtful = None
                return [*lines[block.start : number], code], number + 1
    if block.doubtful is not None and block.lexer.quote:
        # The string never ends, so it was none, or the code is broken.
        return lines[block.start : block.doubtful], block.doubtful + 1
    block.doubtful = None
    return lines[block.start :], len(lines)


def _dedented(lines: list[str], indent: int) -> str:
    """The content without the indentation of its fence and without the indentation that all lines share."""
    if indent:
        lines = [re.sub(f"^[ \t]{{0,{indent}}}", "", line) for line in lines]
    text = "".join(f"{line}\n" for line in lines)
    # Unindented code stays as it is: dedent would also strip blank lines, which may be inside a string.
    first = next((line for line in lines if line.strip()), "")
    return textwrap.dedent(text) if first[:1].isspace() else text
