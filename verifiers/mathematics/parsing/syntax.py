"""The expression tree, and the tokens from which the parser builds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

MAX_ANSWER_CHARS = 2_000
"""Longer answers are rejected before parsing; the longest answer of MATH has 159 characters."""

MAX_DEPTH = 60
"""Deeper nesting is rejected."""

MAX_DIGITS = 1_000
"""Longer runs of digits are rejected."""


class NotMath(ValueError):
    """The text is not a formula that the parser can read: words, garbage, broken LaTeX."""


class Unsupported(ValueError):
    """A formula that only the symbolic path can compare: limits, sums, integrals, values out of range."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of an expression.

    ``kind`` is one of: num, const (pi, e, i, inf), var, add, mul, div, pow, neg, call (value: name), pm, degree,
    percent, mod, list, seq (value: its two brackets), set, union, minus (set difference), matrix (value: columns),
    rel (value: operators), ratio, based (value: digits, base), named (value: the name; one argument), text.
    """

    kind: str
    args: tuple[Node, ...] = ()
    value: Any = None


@dataclass(frozen=True, slots=True)
class Number:
    """A numeral: its exact value, and how it was written (decimal places, None for an integer)."""

    value: Fraction
    places: int | None = None
    significant: int = 0


def number(value: int | Fraction) -> Node:
    """A node for an exact value that was not written as a decimal."""
    return Node("num", value=Number(Fraction(value)))


@dataclass(frozen=True, slots=True)
class Token:
    """One token. ``kind``: num, cmd, word, sign, end. ``blank``: whether a space precedes it."""

    kind: str
    text: str
    blank: bool


_TOKEN = re.compile(
    r"(?P<blank>[ ]*)(?:(?P<num>\d*\.\d*\\overline\{\d+\}|\d+(?:\.\d+)?|\.\d+)|(?P<cmd>\\(?:[A-Za-z]+|[{}|\\]))"
    r"|(?P<word>[A-Za-z]+'*)|(?P<sign><=|>=|!=|==|\*\*|[-+*/^_()\[\]{}|,;:!=<>&'%@]))"
)


def tokenize(text: str) -> list[Token]:
    """Tokens of a normalized answer.

    Raises:
        NotMath: Too long, too deep, or an unexpected character.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise NotMath(f"longer than {MAX_ANSWER_CHARS} characters")
    tokens: list[Token] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotMath(f"unexpected character {text[position:].lstrip()[:1]!r}")
        kind = match.lastgroup or ""
        content = match.group(kind)
        if kind == "num" and len(content) > MAX_DIGITS:
            raise NotMath(f"a number of more than {MAX_DIGITS} digits")
        tokens.append(Token(kind, content, bool(match.group("blank"))))
        position = match.end()
    tokens.append(Token("end", "", False))
    return tokens
