"""Quantities in words, and in several units, such as ``3 hours 20 minutes`` or ``5 ft 3 in``, as one number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from verifiers.mathematics.parsing import units
from verifiers.mathematics.parsing.number_words import MAX_WORDS, spelled_number

_PART = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)\.?")
_FEET_INCHES = re.compile(r"(\d{1,3})' ?(\d{1,2}(?:\.\d+)?)(?:\"|'')")
_TIME = (("time", 1),)
_JOINT = re.compile(r",? (?:and )?|,|")


@dataclass(frozen=True, slots=True)
class Quantity:
    """The value in the first and in the last of the units, and the last unit."""

    first: Fraction
    last: Fraction
    unit: str


def spelled_quantity(words: str) -> tuple[Fraction, str] | None:
    """The value and the unit of a quantity in words, such as "five dollars" or "half an hour"; None for other words."""
    parts = words.lower().split()
    if not 1 < len(parts) <= MAX_WORDS:
        return None
    for length in range(len(parts) - 1, 0, -1):
        value = spelled_number(" ".join(parts[:length]))
        unit = " ".join(part for part in parts[length:] if part not in ("a", "an", "of"))
        if value is not None and units.measure(unit) is not None:
            return value, unit
    return None


def compound(text: str) -> Quantity | None:
    """A quantity in several units; None if the text is not two or three quantities of one kind.

    The units must become smaller: "3 m 2 km" is not a quantity.
    """
    text = _FEET_INCHES.sub(r"\1 ft \2 in", text)
    parts: list[tuple[Fraction, units.Measure, str]] = []
    position = 0
    while position < len(text):
        if parts:
            joint = _JOINT.match(text, position)
            position = joint.end() if joint else position
        match = _PART.match(text, position)
        if match is None or len(parts) == 3:
            return None
        unit = match[2]
        if unit == "m" and parts and parts[-1][1].powers == _TIME:
            unit = "min"  # 3 h 20 m
        measure = units.measure(unit)
        if measure is None:
            return None
        parts.append((Fraction(match[1]), measure, unit))
        position = match.end()
    if len(parts) < 2 or len({measure.powers for _, measure, _ in parts}) > 1:
        return None
    sizes = [measure.size for _, measure, _ in parts]
    if sorted(sizes, reverse=True) != sizes or len(set(sizes)) < len(sizes):
        return None
    total = sum((value * measure.size for value, measure, _ in parts), Fraction(0))
    return Quantity(total / sizes[0], total / sizes[-1], parts[-1][2])
