"""Units and the other words around a number: which may be dropped, and which change its value."""

from __future__ import annotations

import re

_GROUPS = """
mm millimeter millimetre|cm centimeter centimetre|dm decimeter|m meter metre|km kilometer kilometre
|in inch inches|ft foot feet|yd yard|mi mile|mg milligram|g gram gm|kg kilogram|lb pound lbs|oz ounce|ton tonne
|ms millisecond|s second sec|min minute|h hour hr|day|week|month|year yr|cent|dollar usd buck|euro|yuan|rupee
|l liter litre|ml milliliter millilitre|gallon gal|quart|pint|cup|mph|kph|hz|joule|newton|watt|volt|kelvin|radian rad
|am|pm|unit|people person|student|way|integer|number|ticket|page|book|apple|coin|point|step|mark|hectare|acre|card|game
|child children|man men|woman women|boy|girl|digit|solution|time|pair|degree|outfit|marble|ball|piece|match matches
"""
_CANONICAL: dict[str, str] = {}
for _group in _GROUPS.replace("\n", "").split("|"):
    _names = _group.split()
    for _name in _names:
        _CANONICAL[_name] = _names[0]
        if len(_name) > 2:
            _CANONICAL.setdefault(_name + "s", _names[0])

_MEASURES = frozenset(
    "mm cm dm m km in ft yd mi mg g kg lb oz ton ms s min h day week month year l ml gallon quart pint cent dollar"
    " euro yuan am pm".split()
)
"""Units of which two different ones on the two sides never match. A word that only counts things is no measure."""

CHANGES_VALUE = frozenset(
    "not no non never neither nor none except without minus negative plus hundred hundreds thousand thousands million"
    " millions billion billions trillion dozen dozens half halves third thirds quarter quarters double twice times"
    " less least greater more most than over between between up from to squared cubed mod modulo base divided"
    " if unless or and either maybe perhaps possibly versus below beneath under above after before ago past short off"
    " until beyond within against instead rather but".split()
)
"""Words that may not be dropped as if they were a unit: numbers, negations, comparisons, directions, alternatives."""

_ORDER = max(len(name) for name in _CANONICAL)
_BARE_UNIT = re.compile(
    r"(?<=[0-9)}\]])\s{0,4}(?P<power>square |cubic |sq\.? |cu\.? )?(?P<unit>"
    + "|".join(sorted(map(re.escape, _CANONICAL), key=len, reverse=True))
    + r")(?P<script>\^\{?[23]\}?|\^[23])?(?:\s?(?:/|per)\s?(?:[a-z]{1,10})(?:\^\{?2\}?)?)?$",
    re.IGNORECASE,
)
_HALF_OF_DAY = re.compile(r"(?<=\d)\s?[ap]\.\s?m\.?$|(?<=\d)\s?[ap]m$", re.IGNORECASE)
_PERCENT_WORD = re.compile(
    r"\s*\\text\s*\{\s*(?:percent|per cent|pct|percentage)s?\s*\}|(?<=[0-9}])\s*(?:percentage|percent|per cent|pct)\b"
)
_DEGREE_WORD = re.compile(r"\s*\\text\s*\{\s*degrees?\s*\}|(?<=[0-9}])\s*degrees?$")
_ORDINAL = re.compile(r"(?<=[0-9])(?:\^?\{?\\text\{(?:st|nd|rd|th)\}\}?|(?:st|nd|rd|th)\b)")


def signs_for_words(text: str) -> str:
    """``28 percent`` as ``28%``, ``72 degrees`` with a degree sign, ``12th`` as 12."""
    if not any(letter.isalpha() for letter in text):
        return text
    text = _PERCENT_WORD.sub("%", text)
    text = _DEGREE_WORD.sub(r"^{\\circ}", text)
    return _ORDINAL.sub("", text)


def canonical(words: str) -> str:
    """The measure that a unit's words name, such as ``cm`` or ``cm^2``; empty where they name none."""
    cleaned = re.sub(r"[^a-z/^0-9 ]", " ", re.sub(r"\b([ap])\.? ?m\.?", r"\1m", words.lower())).split()
    power = "2" if cleaned[:1] in (["square"], ["sq"]) else "3" if cleaned[:1] in (["cubic"], ["cu"]) else ""
    names = cleaned[1:] if power else cleaned
    if not names:
        return ""
    first, _, script = names[0].partition("^")
    unit = _CANONICAL.get(first, "")
    if unit not in _MEASURES or "/" in words or "per" in names:
        return ""
    script = script or power
    return unit + ("^" + script if script else "")


def droppable(words: str) -> bool:
    """Whether words beside a number leave its value alone."""
    return not (set(re.findall(r"[a-z]+", words.lower())) & CHANGES_VALUE)


def split_bare_unit(text: str) -> tuple[str, str]:
    """A number and the unit that follows it as plain words: ``64 square feet`` gives ``64`` and ``square feet``."""
    if len(text) > 200 or not text[-1:].isalnum() and text[-1:] not in ("}", "."):
        return text, ""
    half = _HALF_OF_DAY.search(text)
    if half is not None:
        return text[: half.start()].rstrip(), half.group().strip()
    match = _BARE_UNIT.search(text.rstrip("."))
    if match is None:
        return text, ""
    # A single letter after a digit is a variable (3m, 2s) unless a blank stands between.
    if len(match.group("unit")) == 1 and not match.group().startswith(" "):
        return text, ""
    return text[: match.start()].rstrip(), match.group().strip()
