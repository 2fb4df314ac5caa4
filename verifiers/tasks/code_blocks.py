"""Fenced code blocks of a Markdown text, where a fence inside a Python string does not count."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

_FENCE = re.compile(r"([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)")
# "Here it is: ```python": an opening fence at the end of a line of prose.
_INLINE = re.compile(r"([^`\n]*?)(`{3,})((?:i?python|py)[\d.]*)[ \t]*", re.IGNORECASE)
_LABEL = re.compile(r"\{?[ .]*([\w+#-]+)")
_PYTHON = re.compile(r"(?:i?python|py)\d*")
_WRAPPERS = ("markdown", "md")

_OUTSIDE = re.compile(
    r'#.*|"""|\'\'\'|"(?:\\.|[^"\\\n])*(?:"|$)|\'(?:\\.|[^\'\\\n])*(?:\'|$)|[()\[\]{}]'  # in this order
)
_INSIDE = re.compile(r"\\.|\"\"\"|'''")

_RESCANS = 20
"""After this many strings without an end in one text, fences in strings count as fences, which bounds the time."""


class Lexer:
    """Reads Python line by line, only to know whether the next line begins inside a string or brackets.

    Attributes:
        quote: The mark of the triple-quoted string that is open, or "".
        depth: Brackets that are open.
    """

    def __init__(self) -> None:
        self.quote = ""
        self.depth = 0

    def feed(self, line: str) -> str:
        """Read one line. Returns it without comments and without the contents of strings."""
        bare: list[str] = []
        at = 0
        while True:
            if self.quote:
                end = next((m.end() for m in _INSIDE.finditer(line, at) if m.group() == self.quote), None)
                if end is None:
                    return "".join(bare)
                at, self.quote = end, ""
            token = _OUTSIDE.search(line, at)
            if token is None:
                return "".join([*bare, line[at:]])
            bare.append(line[at : token.start()])
            at = token.end()
            self._take(token.group(), bare)

    def _take(self, text: str, bare: list[str]) -> None:
        if text in ('"""', "'''"):
            self.quote = text
            bare.append('""')
        elif text[0] in "\"'":
            # One that is not closed on its line is an apostrophe, not a string, and stays visible.
            bare.append('""' if len(text) > 1 and text[-1] == text[0] else "'")
        elif text in "([{":
            self.depth += 1
            bare.append(text)
        elif text in ")]}":
            self.depth = max(0, self.depth - 1)
            bare.append(text)


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
    block before was not closed, or only wrapped it. Blocks labeled ``markdown`` are looked into.
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
    return [(block.label, _dedented(content, block.indent)) for block, content in found]


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


def begins_as_code(lines: list[str]) -> bool:
    """Whether a text begins with a definition, an import, an indented line or a string, and not with prose."""
    first = next((line for line in lines if line.strip()), "")
    return (
        re.match(r'[ \t]+[^ \t`~]|[rRbBuUfF]{0,2}(?:"""|\'\'\')|(?:def|class|import|from|async|#|@)\b|\w+ *=', first)
        is not None
    )


def _dedented(lines: list[str], indent: int) -> str:
    """The content without the indentation of its fence and without the indentation that all lines share."""
    if indent:
        lines = [re.sub(f"^[ \t]{{0,{indent}}}", "", line) for line in lines]
    text = "".join(f"{line}\n" for line in lines)
    # Unindented code stays as it is: dedent would also strip blank lines, which may be inside a string.
    first = next((line for line in lines if line.strip()), "")
    return textwrap.dedent(text) if first[:1].isspace() else text
