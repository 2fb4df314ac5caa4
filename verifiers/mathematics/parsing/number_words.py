"""English numerals: "twenty-one" is 21, "three quarters" is 3/4, "two and a half" is 5/2."""

from __future__ import annotations

from fractions import Fraction

_ONES = "zero one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_BELOW_100 = {word: value for value, word in enumerate([*_ONES, *_TEENS])}
_BELOW_100 |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_BELOW_100 |= {f"{ten} {one}": _BELOW_100[ten] + value for ten in _TENS for value, one in enumerate(_ONES) if value}
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 1000, "hundred": 100}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS |= {"halves" if name == "half" else name + "s": size for name, size in _PARTS.items()}

NUMERALS = frozenset(_BELOW_100) | frozenset(_SCALES)
"""Words of which numerals are made."""

MAX_WORDS = 12
"""Longer numerals are not read."""


def spelled_number(text: str) -> Fraction | None:
    """The value of a text that is one English numeral; None for any other text."""
    words = text.lower().replace("-", " ").split()
    if not 0 < len(words) <= MAX_WORDS:
        return None
    if words[0] in ("minus", "negative"):
        value = _positive(words[1:])
        return None if value is None else -value
    return _positive(words)


def _positive(words: list[str]) -> Fraction | None:
    if not words or words[-1] not in _PARTS:
        whole = _integer(words)
        return None if whole is None else Fraction(whole)
    if "and" in words:  # two and a half
        at = len(words) - 1 - words[::-1].index("and")
        whole, part = _integer(words[:at]), _fraction(words[at + 1 :])
        return None if whole is None or part is None or part >= 1 else whole + part
    return _fraction(words)


def _fraction(words: list[str]) -> Fraction | None:
    top = 1 if words[:-1] in ([], ["a"], ["an"]) else _integer(words[:-1])
    if top is None or not words or words[-1] not in _PARTS or (len(words) == 1 and words != ["half"]):
        return None
    return Fraction(top, _PARTS[words[-1]])


def _integer(words: list[str]) -> int | None:
    for name, size in _SCALES.items():
        if name not in words:
            continue
        at = words.index(name)
        rest = words[at + 1 :]
        if rest[:1] == ["and"]:
            rest = rest[1:] or ["and"]
        above = 1 if words[:at] == ["a"] else _integer(words[:at])
        below = 0 if not rest else _integer(rest)
        return None if not above or below is None or below >= size else above * size + below
    return _BELOW_100.get(" ".join(words))
