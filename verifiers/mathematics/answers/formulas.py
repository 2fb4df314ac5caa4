r"""Finds formulas in a text, between ``$``, ``$$``, ``\(`` or ``\[`` and their ends, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARK = re.compile(r"\\[$()\[\]]|\$\$?")
_DIGIT = re.compile(r"\d")
_OPENINGS = ("$", "$$", "\\(", "\\[")
_OPENED_BY = {"$": "$", "$$": "$$", "\\)": "\\(", "\\]": "\\["}


@dataclass(frozen=True, slots=True)
class Formula:
    """One formula: start and end including its delimiters, and the content between them."""

    start: int
    end: int
    content: str


def formulas(text: str) -> Iterator[Formula]:
    r"""The formulas of a text from left to right. Unclosed ones are ignored.

    ``\$`` is a dollar sign, and so are two signs that both stand before a number: ``$5 and $7``.
    """
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
        if sign == "$" and begin is not None and _is_money(text, begin, start):
            opened["$"] = start
            continue
        if begin is not None and opening is not None:
            content = text[begin + len(opening) : start]
            if content.strip():
                yield Formula(begin, position, content)
                opened.clear()
            else:
                opened[opening] = start
        elif sign in _OPENINGS:
            opened.setdefault(sign, start)


def _is_money(text: str, begin: int, end: int) -> bool:
    """Whether a dollar sign before a number is an amount of money, because the next one begins something else."""
    if not _DIGIT.match(text, begin + 1):
        return False
    if _DIGIT.match(text, end + 1):
        return True
    return text[end - 1].isspace() and text[end + 1 : end + 2] not in ("", " ", "\n", ".", ",", ")", ";", ":", "*")


def without_formulas(text: str) -> str:
    """The text with each formula replaced by a space."""
    parts: list[str] = []
    position = 0
    for formula in formulas(text):
        parts.append(text[position : formula.start])
        position = formula.end
    return " ".join([*parts, text[position:]])
