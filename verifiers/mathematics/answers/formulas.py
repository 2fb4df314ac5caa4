r"""Finds formulas in a text, between ``$``, ``$$``, ``\(`` or ``\[`` and their ends, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARK = re.compile(r"\\[$()\[\]]|\$\$?")
_OPENINGS = ("$", "$$", "\\(", "\\[")
_OPENED_BY = {"$": "$", "$$": "$$", "\\)": "\\(", "\\]": "\\["}


@dataclass(frozen=True, slots=True)
class Formula:
    """One formula: start and end including its delimiters, and the content between them."""

    start: int
    end: int
    content: str


def formulas(text: str) -> Iterator[Formula]:
    r"""The formulas of a text from left to right. Unclosed ones are ignored; ``\$`` is a dollar sign."""
    opened: dict[str, int] = {}
    position = 0
    while mark := _MARK.search(text, position):
        sign, start, position = mark.group(), mark.start(), mark.end()
        if sign == "$$" and "$" in opened:
            sign, position = "$", start + 1  # $a$$b$ is two formulas
        opening = _OPENED_BY.get(sign)
        if sign == "$" and "$" not in opened and "$$" in opened:
            opening = "$$"  # a displayed formula that one dollar closes
        begin = None if opening is None else opened.get(opening)
        if begin is not None and opening is not None:
            content = text[begin + len(opening) : start]
            if content.strip():
                yield Formula(begin, position, content)
                opened.clear()
            else:
                opened[opening] = start
        elif sign in _OPENINGS:
            opened.setdefault(sign, start)


def without_formulas(text: str) -> str:
    """The text with each formula replaced by a space."""
    parts: list[str] = []
    position = 0
    for formula in formulas(text):
        parts.append(text[position : formula.start])
        position = formula.end
    return " ".join([*parts, text[position:]])
