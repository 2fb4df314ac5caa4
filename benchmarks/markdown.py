"""Tables and intervals of the evidence pages."""

from __future__ import annotations

from learner import Difference


def interval(found: Difference, scale: float = 1.0, digits: int = 3) -> str:
    """A difference with its interval; bold if the interval excludes 0."""
    apart = "**" if found.low > 0 or found.high < 0 else ""
    value, low, high = (f"{scale * x:+.{digits}f}" for x in (found.value, found.low, found.high))
    return f"{apart}{value}{apart} [{low}, {high}]"


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def counted(number: int, name: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
