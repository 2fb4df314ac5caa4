"""Decides whether two values that agree to 35 digits, or differ only by possible rounding, are equal.

Rational values are compared by residues: if they agree to 35 digits and modulo two primes of 60 and 127 bits, they are
equal except with probability about 2^-187. That distinguishes 2^1000000 from 2^1000000 + 1. Other values are computed
again with 350 digits, and with 700 if a sum cancels.
"""

from __future__ import annotations

from fractions import Fraction

from verifiers.mathematics import deadline
from verifiers.mathematics.comparison import numeric
from verifiers.mathematics.comparison.numeric import Evaluator, Undefined, Value
from verifiers.mathematics.parsing.syntax import Node, Unsupported

_PRIMES = (10**18 + 9, 2**127 - 1)
_MAX_FACTORIAL = 50_000
"""A larger factorial takes too many products."""


def equal_residues(left: Node, right: Node) -> bool | None:
    """Whether two closed expressions of sums, products, powers and factorials are equal; None if others occur."""
    try:
        return all(_residue(left, prime) == _residue(right, prime) for prime in _PRIMES)
    except (Unsupported, Undefined, ZeroDivisionError, ValueError):
        return None


def equal_with_more_digits(left: Node, right: Node, point: dict[str, Fraction] | None, log_base: int | None) -> bool:
    """Whether two values agree to almost all of 350 digits; cancellation costs some.

    If they do not, the difference may be rounding: then it shrinks with twice the digits, and a real one does not.
    """
    differences: list[Value] = []
    for digits in (numeric.FINE_DIGITS, 2 * numeric.FINE_DIGITS):
        with numeric.digits(digits):
            evaluator = Evaluator(point, log_base)
            try:
                values = evaluator.value(left), evaluator.value(right)
            except Undefined:
                return False
            if not differences and numeric.same(*values, digits // 2 if evaluator.cancelled else digits - 10):
                return True
            differences.append(numeric.difference(*values))
    return bool(differences[1] <= differences[0] * numeric.context().mpf(10) ** -(numeric.FINE_DIGITS // 2))


def _residue(node: Node, prime: int) -> int:
    deadline.check()
    if node.kind == "num":
        return _of_fraction(node.value.value, prime)
    if node.kind == "neg":
        return -_residue(node.args[0], prime) % prime
    if node.kind == "add":
        return sum(_residue(part, prime) for part in node.args) % prime
    if node.kind == "mul":
        left, right = (_residue(part, prime) for part in node.args)
        return left * right % prime
    if node.kind in ("div", "ratio") and len(node.args) == 2:
        left, right = (_residue(part, prime) for part in node.args)
        return left * pow(right, -1, prime) % prime
    if node.kind == "pow":
        return pow(_residue(node.args[0], prime), _integer(node.args[1]), prime)
    if node.kind == "call" and node.value == "factorial":
        return _factorial(_integer(node.args[0]), prime)
    if node.kind == "call" and node.value == "binom":
        total, chosen = (_integer(part) for part in node.args)
        if not 0 <= chosen <= total:
            raise Unsupported("a binomial coefficient of other numbers")
        below = _factorial(chosen, prime) * _factorial(total - chosen, prime)
        return _factorial(total, prime) * pow(below, -1, prime) % prime
    raise Unsupported(f"no residue of a {node.kind}")


def _of_fraction(value: Fraction, prime: int) -> int:
    return value.numerator * pow(value.denominator, -1, prime) % prime


def _integer(node: Node) -> int:
    value = Evaluator().value(node)
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise Unsupported("no integer")
    return int(value)


def _factorial(value: int, prime: int) -> int:
    if not 0 <= value <= _MAX_FACTORIAL:
        raise Unsupported("a factorial of a large number")
    product = 1
    for factor in range(2, value + 1):
        product = product * factor % prime
    return product
