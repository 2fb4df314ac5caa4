r"""Infinity and sets of numbers in words: "all real numbers except 2" is \mathbb{R} \setminus \{2\}."""

from __future__ import annotations

import re

_NUMBERS = re.compile(
    r"(?:[a-z] (?:is|can be|may be|\\in) )?(?:the )?(?:set of )?(?:all |any |every )?(?:the )?(?:possible )?"
    r"(?P<sign>non-?negative |non-?zero |positive |negative )?(?P<kind>real|rational|complex|integer)"
    r"(?:s| numbers?| values?)?(?: (?:values )?(?:of |for )?[a-z])?"
    r"(?:(?: *,? (?:except|excluding|other than|but not)(?: for| when)? |(?:,? (?:such that|where|with) [a-z])? *\\ne )"
    r"(?P<holes>[^<>\[\]()]{1,80}))?",
    re.IGNORECASE,
)
_INFINITE = re.compile(r"(?:positive |plus |\+ ?)?(?P<sign>negative |minus |- ?)?infinity", re.IGNORECASE)
_EMPTY = re.compile(r"(?:the )?(?:empty|null) set|(?:there (?:is|are) )?no solutions?(?: exists?)?\.?", re.IGNORECASE)
_ANY = re.compile(r"\b(?:all|any|every|reals|numbers|integers)\b", re.IGNORECASE)
_NAME = re.compile(r"(?<![A-Za-z\\])[A-Za-z] *(?:=|\\ne(?![A-Za-z])) *")
_BRACES = re.compile(r"\\\{(.*)\\\}")
_SIGNED = {
    "": r"\mathbb{R}", "positive": r"(0,\infty)", "negative": r"(-\infty,0)", "nonnegative": r"[0,\infty)",
    "nonzero": r"\mathbb{R} \setminus \{0\}",
}  # fmt: skip
_LETTERS = {"integer": "Z", "rational": "Q", "complex": "C"}


def in_symbols(text: str) -> str | None:
    """What a normalized text without commands for text names in words, in LaTeX; None for any other text."""
    if (infinite := _INFINITE.fullmatch(text.strip())) is not None:
        return r"-\infty" if infinite["sign"] else r"\infty"
    if _EMPTY.fullmatch(text.strip()):
        return r"\emptyset"
    match = _NUMBERS.fullmatch(text.strip())
    if match is None or not _ANY.search(text):
        return None
    kind, sign = match["kind"].lower(), (match["sign"] or "").lower().replace("-", "").strip()
    if kind != "real" and sign:
        return None
    named = _SIGNED[sign] if kind == "real" else rf"\mathbb{{{_LETTERS[kind]}}}"
    if match["holes"] is None:
        return named
    holes = re.sub(r"\b(?:and|or)\b", ",", _NAME.sub("", match["holes"])).strip(" ,.")
    holes = _BRACES.sub(r"\1", holes)
    return rf"{named} \setminus \{{{holes}\}}"
