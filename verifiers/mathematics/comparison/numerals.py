"""What the spelling of a number shows: its decimal places, whether it is in lowest terms or may be a time of day."""

from __future__ import annotations

import math
from fractions import Fraction

from verifiers.mathematics.comparison.numeric import Evaluator, Undefined
from verifiers.mathematics.parsing.syntax import Node


def decimal_digits(node: Node) -> tuple[int, int] | None:
    """Places and significant digits of a decimal numeral, None for anything else."""
    if node.kind == "neg":
        node = node.args[0]
    if node.kind == "percent":
        inner = decimal_digits(node.args[0])
        return None if inner is None else (inner[0] + 2, inner[1])
    if node.kind != "num" or node.value.places is None:
        return None
    return node.value.places, node.value.significant


def terminates(node: Node) -> bool:
    """Whether a closed expression is rational with a finite decimal expansion, so that a decimal can equal it."""
    try:
        value = Evaluator().value(node)
    except (Undefined, KeyError):
        return True
    if not isinstance(value, Fraction):
        return False
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1


def is_unreduced(node: Node) -> bool:
    """Whether a node is a fraction of two integers that is not in lowest terms."""
    if node.kind == "neg":
        return is_unreduced(node.args[0])
    if node.kind != "div" or any(part.kind != "num" for part in node.args):
        return False
    top, bottom = (part.value.value for part in node.args)
    return math.gcd(int(top), int(bottom)) != 1


def like_minutes(node: Node) -> bool:
    """Whether a ratio could be a time of day: two integers, the second with two digits below 60."""
    if len(node.args) != 2 or any(part.kind != "num" or part.value.places is not None for part in node.args):
        return False
    hours, minutes = (part.value.value for part in node.args)
    return hours <= 24 and (10 <= minutes < 60 or minutes == 0)
