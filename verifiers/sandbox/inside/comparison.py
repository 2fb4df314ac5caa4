"""Whether a program printed what was expected: line by line, and numbers with a tolerance where the task has one."""

from __future__ import annotations

import re

# Possessive, so that a long row of digits before a letter is read once.
_NUMBER = re.compile(
    r"(?<![\w.])[+-]?(?:(?:\d++(?:\.\d*+)?|\.\d++)(?:e[+-]?\d++)?|inf(?:inity)?|nan)(?!\w)", re.ASCII | re.IGNORECASE
)
_INTEGER = re.compile(r"([+-]?)0*+(\d*)", re.ASCII)


def same(printed: str, expected: str, tolerance: float) -> bool:
    """Whether the texts agree, without white space at the ends of lines and without empty lines at the end.

    With a ``tolerance`` above 0 numbers may differ by it, absolutely or relative to the expected one, and may be
    written differently (``1e-3``, ``0.00100``); the text between them must be the same. Two integers must be equal.
    """
    ours, theirs = _lines(printed), _lines(expected)
    if ours == theirs:
        return True
    if tolerance <= 0 or len(ours) != len(theirs):
        return False
    return all(_close_lines(*pair, tolerance) for pair in zip(ours, theirs, strict=True))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _close_lines(printed: str, expected: str, tolerance: float) -> bool:
    if printed == expected:
        return True
    if _NUMBER.split(printed) != _NUMBER.split(expected):
        return False
    pairs = zip(_NUMBER.findall(printed), _NUMBER.findall(expected), strict=True)
    return all(_close(*pair, tolerance) for pair in pairs)


def _close(printed: str, expected: str, tolerance: float) -> bool:
    integers = [_INTEGER.fullmatch(text) for text in (printed, expected)]
    if all(integers):
        first, second = (_canonical(match) for match in integers if match)
        return first == second
    value, wanted = float(printed), float(expected)
    if value == wanted or (value != value and wanted != wanted):  # equal infinities too, and two that are no number
        return True
    return abs(value - wanted) <= tolerance * max(1.0, abs(wanted)) < float("inf")


def _canonical(match: re.Match[str]) -> tuple[bool, str]:
    """Sign and digits. Not ``int``, which refuses very long ones."""
    sign, digits = match.groups()
    return sign == "-" and digits != "", digits
