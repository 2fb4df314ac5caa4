"""Words right after a value of a sentence that belong to it: "12 dozen", "$3$ cm", "12, or maybe 13"."""

from __future__ import annotations

import re

from verifiers.mathematics.parsing import units

_WORDS = re.compile(r"\s?[ap]\.?m\b\.?|(?:[ ~]{1,2}[A-Za-z]{1,15}\b){1,4}", re.IGNORECASE)
_SCALES = frozenset(("hundred", "thousand", "million", "billion", "trillion", "dozen"))
# Also words of another kind: "12 in total", "the team that scored 12 won".
_AMBIGUOUS = frozenset("in won unit units mark real".split())
# The value is only a part of what the sentence says, such as "12 squared" or "12 or more".
_CHANGED = re.compile(
    r"[\s)\\]{0,3}\s(?:squared|cubed|factorial|plus|minus|thirds|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths"
    r"|(?:degrees )?below zero|to the (?:power|[a-z]{4,8} power)"
    r"|and a (?:half|third|quarter)|or (?:less|more|fewer|greater|above|below)"
    r"|(?:to|through|times|divided by|multiplied by|choose)\s{1,2}[$\\(-]{0,3}\d)(?![a-z])",
    re.IGNORECASE,
)
_SMALLER = re.compile(r",?\s(?:and\s)?\$?(\d{1,6}(?:\.\d{1,6})?)\$?\s([A-Za-z]{2,12})\b")
_OTHER = re.compile(
    r"[\s,;.?(—–-]{0,4}(?:(?:but|and)\s)?(?:(?:it|also)\s)?(?:or|else|maybe|perhaps|possibly|alternatively|could|might)\b"
    r",?(?:\s[a-z]{1,12}){0,3}\s{0,2}(?:\$([^$\n]{1,80})\$|(-?\d[\d.,/]{0,30}(?<=\d)%?)(?!\w))",
    re.IGNORECASE,
)


def is_changed(text: str, end: int) -> bool:
    """Whether the words after a value that ends at ``end`` make another value of it."""
    return _CHANGED.match(text, end) is not None


def alternative(text: str, end: int) -> str | None:
    """Another value that the words right after one offer instead of it: 13 in "$12$, or maybe $13$"."""
    match = _OTHER.match(text, end)
    return None if match is None else match[1] or match[2]


def with_words(text: str, end: int, value: str) -> str:
    """A value that ends at ``end`` with the scale and the measure after it, such as "million dollars" or "cm"."""
    match = None if value[-1:] in "%}" else _WORDS.match(text, end)
    if match is None:
        return value
    words = match.group().split()
    scale = words.pop(0) if words[0].lower() in _SCALES else ""
    unit = _measure(words) if not scale or "dozen" not in scale.lower() else ""
    smaller = _SMALLER.match(text, end + match.group().find(unit) + len(unit)) if unit else None
    if smaller is not None and units.measure(smaller[2]) is not None:
        return f"{value} {unit} {smaller[1]} {smaller[2]}"  # 5 hours and 20 minutes
    added = f"{scale} {unit}".strip()
    return rf"{value} \text{{ {added}}}" if added else value


def _measure(words: list[str]) -> str:
    """The longest start of some words that is a measure; empty if there is none."""
    if not words or len(words[0]) < 2 or words[0].lower() in _AMBIGUOUS:
        return ""
    starts = (" ".join(words[:count]) for count in range(min(3, len(words)), 0, -1))
    return next((start for start in starts if units.measure(start) is not None), "")
