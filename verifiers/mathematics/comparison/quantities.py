"""Whether the units or counted things of two answers conflict, and the ratio of their units."""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.mathematics.parsing import foreign_units, units
from verifiers.mathematics.parsing.answer import ParsedAnswer
from verifiers.mathematics.policy import MathPolicy

# Signs and names that may stand for another unit.
_AMBIGUOUS = {"¥": {"yen", "yuan"}, "pound": {"sterling"}, "pounds": {"sterling"}}


def compare_units(ours: str, theirs: str, policy: MathPolicy, *, several: bool = False) -> tuple[str, Fraction]:
    """The reason why two units conflict (empty if they do not), and the size of our unit in theirs.

    Args:
        several: Whether the units are those of the last items of lists, which may be in another order.
    """
    if ours == theirs:
        return "", Fraction(1)
    ours, theirs = foreign_units.latin(ours), foreign_units.latin(theirs)
    if theirs in _AMBIGUOUS.get(ours, ()) or ours in _AMBIGUOUS.get(theirs, ()):
        return "", Fraction(1)
    left, right = units.measure(ours), units.measure(theirs)
    clash = f"the unit is {ours or 'missing'!r} and not {theirs or 'none'!r}"
    if left and right and left.powers != right.powers:
        # "square units" stands for any area, and not for a volume
        same = any("unit" in dict(measure.powers) for measure in (left, right)) and left.degree == right.degree
        return "" if same else clash, Fraction(1)
    if ours and theirs and not (ours.isascii() and theirs.isascii()) and not (left and right) and ours != theirs:
        return clash, Fraction(1)
    if policy.units == "required" and (left or ours.lower()) != (right or theirs.lower()):
        return clash, Fraction(1)
    if not several and not (left and right) and name_different_things(ours, theirs):
        return clash, Fraction(1)
    return "", left.size / right.size if left and right else Fraction(1)


def name_different_things(ours: str, theirs: str) -> bool:
    """Whether each of two units says something that the other does not: red clips and blue clips, north and south.

    Measures and words for things of any kind are not compared.
    """
    left, right = ({word for word in words(unit) if units.is_specific(word)} for unit in (ours, theirs))
    if "right" not in left | right:  # 42 apples left, and no direction
        left, right = left - {"left"}, right - {"left"}
    return bool(left - right and right - left)


_NAMED_COUNT = re.compile(r"\s*(-?\d[\d.]*)\s+([A-Za-z][A-Za-z ]{1,40}?)\s*(?:,\s*(?:and\s)?|;|\band\b|$)")


def named_counts(text: str) -> dict[str, str]:
    """The numbers of an answer such as "3 boys and 5 girls" by what they count; empty for any other text."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _NAMED_COUNT.match(text, position)
        if match is None:
            return {}
        found[singular(match[2].lower())] = match[1]
        position = match.end()
    return found if len(found) > 1 else {}


def same_named_counts(ours: str, theirs: str) -> bool | None:
    """Whether two texts without commands give the same numbers to the same things; None if they name other things."""
    left, right = named_counts(ours), named_counts(theirs)
    return left == right if left and left.keys() == right.keys() else None


def counts_differ(ours: ParsedAnswer, theirs: ParsedAnswer) -> str:
    """Why two counts cannot be equal: they count different things, or one is a percentage; empty if they can."""
    if name_different_things(ours.unit, theirs.unit) or _is_count_of_measure(ours.unit, theirs.unit):
        return f"counts {ours.unit!r} and not {theirs.unit!r}"
    nodes = (ours.node, theirs.node)
    return "a percentage is not a count" if any(node and node.kind == "percent" for node in nodes) else ""


def _is_count_of_measure(ours: str, theirs: str) -> bool:
    """Whether one unit is a measure and all words of the other are things: 72 clips are not 72 m."""
    things, measured = (ours, theirs) if units.measure(theirs) else (theirs, ours)
    return bool(things) and units.measure(measured) is not None and all(map(units.is_specific, words(things)))


def is_percent_of_quantity(one: ParsedAnswer, other: ParsedAnswer) -> bool:
    """Whether one is a percentage without a unit and the other has a measure."""
    percent = one.node is not None and one.node.kind == "percent" and not one.unit
    return percent and units.measure(other.unit) is not None


def words(text: str) -> list[str]:
    """The words of a unit in singular form."""
    return re.findall(r"[^\W\d_]+", singular(text.lower()))


def singular(text: str) -> str:
    """Words without plural endings: "no solutions" is "no solution"."""
    # "inch" and "inches", "cache" and "caches" alike
    return re.sub(r"(?:(?<=[cs]h)|(?<=ss)|(?<=x))es?\b|(?<=[a-z]{3})(?<!s)s\b", "", text)
