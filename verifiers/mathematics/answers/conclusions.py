"""Answers that a text states without the usual phrases: "B is correct", and the row "Total" of a table."""

from __future__ import annotations

import re

_CHOSEN = re.compile(
    r"(?:^|[.:,;!]\s)[ \t]{0,4}(?:(?:so|thus|hence|therefore),? )?(?:the )?"
    r"(?:(?:correct |right )?(?:option|choice|answer) )?\(?(?P<letter>[A-J])\)?"
    r" is (?:the )?(?:(?:correct|right|best)(?: (?:answer|option|choice))?|answer)[.!]?(?=\s|$)",
    re.IGNORECASE | re.MULTILINE,
)
_CHOOSING = re.compile(
    r"\bI (?:choose|pick|select|would choose|'d choose) (?:option |choice )?\(?(?P<letter>[A-J])\)?[.!]?(?=\s|$)"
)
_TOTAL_ROW = re.compile(
    r"^[ \t]{0,8}\|[ \t]{1,8}(?:final )?(?:answer|total|result|sum)[ \t]{1,80}"
    r"\|(?P<value>[^|\n]{0,80}\d[^|\n]{0,80})\|[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


def concluded(text: str) -> str | None:
    """The only choice that a text calls correct, or the only value in the rows of its totals; None without one."""
    if " is " in text or "I " in text:
        letters = {match["letter"].upper() for pattern in (_CHOSEN, _CHOOSING) for match in pattern.finditer(text)}
        if len(letters) == 1:
            return letters.pop()
    if "|" not in text:
        return None
    totals = {match["value"].strip() for match in _TOTAL_ROW.finditer(text)}
    return totals.pop() if len(totals) == 1 else None
