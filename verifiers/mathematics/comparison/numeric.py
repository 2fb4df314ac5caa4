"""Evaluates expressions: exact fractions where possible, else 50 digits. Bounded in time and size."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from verifiers.mathematics import deadline
from verifiers.mathematics.parsing.syntax import Node, Unsupported, number

DIGITS = 50
"""Working precision. Two values are equal when they agree to about 35 digits."""

MAX_BITS = 80_000
"""Exact integers have at most this many bits; larger values have ``DIGITS`` significant digits."""

MAX_FACTORIAL = 5_000
"""Factorials up to this one are exact."""

_LOG_MAGNITUDE = 10**12  # natural logarithm of the largest magnitude that is evaluated
_CANCELLATION = 100_000  # a sum has cancelled if a term is this many times larger
_MAX_ARGUMENT = 100_000  # of sine, exponential and the like
FINE_DIGITS = 350
"""Precision at which values that agree, or that cancelled, are computed again."""

Value = Any
"""A Fraction, or a real or complex number of the context (mpmath's types have no annotations)."""


class Undefined(ValueError):
    """The expression has no value: a division by zero, a function outside its domain."""


class OutOfRange(Unsupported):
    """A number too large to compare quickly; it equals only the same expression."""


class _Contexts(threading.local):
    """One arbitrary-precision context per thread, because a context's precision is mutable state."""

    def __init__(self) -> None:
        from mpmath import mp  # a third of sympy's import time, so only if a root or a variable needs it

        self.context = mp.clone()
        self.context.dps = DIGITS


_contexts: _Contexts | None = None
_contexts_lock = threading.Lock()


def context() -> Any:
    """The calling thread's mpmath context, at ``DIGITS`` digits."""
    global _contexts
    if _contexts is None:
        with _contexts_lock:
            _contexts = _contexts or _Contexts()
    return _contexts.context


def as_real(value: Value) -> Value:
    """A Fraction as a number of the context; other values unchanged."""
    if isinstance(value, Fraction):
        ctx = context()
        return ctx.mpf(value.numerator) / value.denominator
    return value


def is_infinite(value: Value) -> bool:
    return not isinstance(value, Fraction) and bool(context().isinf(value))


def is_real(value: Value) -> bool:
    """Whether a value is real, up to rounding noise."""
    if isinstance(value, Fraction):
        return True
    return bool(abs(value.imag) <= abs(value) * context().mpf(10) ** -35) if hasattr(value, "imag") else True


def same(left: Value, right: Value, digits: int = 35) -> bool:
    """Whether two values are equal: exactly for fractions, to `digits` significant digits otherwise."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = as_real(left), as_real(right)
    if is_infinite(left) or is_infinite(right):
        return bool(left == right)
    return bool(abs(left - right) <= max(abs(left), abs(right)) * context().mpf(10) ** -digits)


def close(left: Value, right: Value) -> bool:
    """Whether the difference of two values may be rounding, as between the sine of pi and 0."""
    if is_infinite(left) or is_infinite(right):
        return False
    left, right = as_real(left), as_real(right)
    small, large = sorted((abs(left), abs(right)))
    return bool(min(small, abs(left - right)) <= large * context().mpf(10) ** -20)


def digits(count: int) -> Any:
    """A context manager: arithmetic with `count` significant digits."""
    return context().workdps(count)


def difference(left: Value, right: Value) -> Value:
    """The distance of two values; 0 for equal infinities."""
    if is_infinite(left) or is_infinite(right):
        return Fraction(0) if left == right else context().inf
    return abs(as_real(left) - as_real(right))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if _bits(value) > MAX_BITS:
            return as_real(value)
        return value
    if context().isnan(value):
        raise Undefined("not a number")
    return value


class Evaluator:
    """Evaluates one tree at one point.

    Args:
        point: A value for each variable; a variable that is missing makes ``value`` raise KeyError.
        log_base: What ``log`` without a base means: None for the natural logarithm, else the base.
    """

    def __init__(self, point: Mapping[str, Value] | None = None, log_base: int | None = None) -> None:
        self.point = point or {}
        self.log_base = log_base
        self.cancelled = False  # whether a sum of inexact terms was much smaller than one of them

    def value(self, node: Node) -> Value:
        """The value of a scalar expression.

        Raises:
            Undefined: It has none at this point.
            Unsupported: It is not a scalar, or out of range.
            KeyError: A variable without a value.
            OutOfTime: The deadline of the answer has passed.
        """
        deadline.check()
        method: Callable[[Node], Value] | None = getattr(self, "_" + node.kind, None)
        if method is None:
            raise Unsupported(f"no value for a {node.kind}")
        try:
            return _bounded(method(node))
        except (ZeroDivisionError, OverflowError) as error:
            raise Undefined(str(error)) from error
        except (TypeError, ValueError) as error:
            if isinstance(error, (Undefined, Unsupported)):
                raise
            raise Undefined(str(error)) from error

    def _num(self, node: Node) -> Value:
        return node.value.value

    def _const(self, node: Node) -> Value:
        ctx = context()
        return {"pi": ctx.pi, "e": ctx.e, "i": ctx.j, "inf": ctx.inf}[node.value] * 1

    def _var(self, node: Node) -> Value:
        return self.point[node.value]

    def _add(self, node: Node) -> Value:
        values = [self.value(part) for part in node.args]
        if all(isinstance(value, Fraction) for value in values):
            return sum(values, Fraction(0))
        terms = [as_real(value) for value in values]
        total = sum(terms, context().mpf(0))
        if abs(total) * _CANCELLATION < max(map(abs, terms)):
            self.cancelled = True
        return total

    def _pair(self, node: Node) -> tuple[Value, Value, bool]:
        left, right = (self.value(part) for part in node.args)
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left, right, True
        return as_real(left), as_real(right), False

    def _mul(self, node: Node) -> Value:
        left, right, _ = self._pair(node)
        return left * right

    def _div(self, node: Node) -> Value:
        left, right, _ = self._pair(node)
        if right == 0:
            raise Undefined("a division by zero")
        return left / right

    _ratio = _div

    def _neg(self, node: Node) -> Value:
        return -self.value(node.args[0])

    def _percent(self, node: Node) -> Value:
        return self.value(node.args[0]) / 100

    def _degree(self, node: Node) -> Value:
        return as_real(self.value(node.args[0])) * context().pi / 180

    def _mod(self, node: Node) -> Value:
        left, right, exact = self._pair(node)
        if not exact or right == 0:
            raise Unsupported("a remainder of numbers that are not rational")
        return left % right

    def _pow(self, node: Node) -> Value:
        base, exponent = (self.value(part) for part in node.args)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                power = exponent.numerator
                if base == 0 and power <= 0:
                    raise Undefined("zero to the power of zero or less")
                if base in (0, 1, -1):
                    return base if base in (0, 1) else base ** (power % 2)
                if abs(power) * _bits(base) <= MAX_BITS:
                    return base**power
            if base >= 0 and 1 < exponent.denominator <= 12:
                exact = _exact_root(base, exponent.denominator)
                if exact is not None:
                    return self._pow(Node("pow", (number(exact), number(Fraction(exponent.numerator)))))
        base, exponent = as_real(base), as_real(exponent)
        if base == 0:
            if is_real(exponent) and exponent.real > 0:
                return Fraction(0)
            raise Undefined("zero to a power that is not positive")
        ctx = context()
        if not is_infinite(base) and abs(exponent * ctx.log(base)) > _LOG_MAGNITUDE:
            raise OutOfRange("a power beyond the range that is compared")
        return base**exponent

    def _call(self, node: Node) -> Value:
        if node.value == "det":
            return self.value(_determinant(node.args[0]))
        arguments = [self.value(part) for part in node.args]
        method = getattr(self, "_fn_" + node.value, None)
        if method is not None:
            return method(*arguments)
        return self._transcendental(node.value, arguments)

    def _fn_root(self, radicand: Value, degree: Value = Fraction(2)) -> Value:
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 100:
            raise Unsupported("a root whose index is no small integer")
        index = int(degree)
        if isinstance(radicand, Fraction):
            exact = _exact_root(abs(radicand), index)
            if exact is not None and (radicand >= 0 or index % 2):
                return exact if radicand >= 0 else -exact
        radicand = as_real(radicand)
        if index % 2 and is_real(radicand) and radicand.real < 0:
            return -context().root(-radicand.real, index)
        return context().root(radicand, index)

    def _fn_abs(self, value: Value) -> Value:
        return abs(value)

    def _rounded(self, value: Value, function: Callable[[Value], int], name: str) -> Value:
        if isinstance(value, Fraction):
            return Fraction(function(value))
        return getattr(context(), name)(value)

    def _fn_floor(self, value: Value) -> Value:
        return self._rounded(value, math.floor, "floor")

    def _fn_ceil(self, value: Value) -> Value:
        return self._rounded(value, math.ceil, "ceil")

    def _fn_factorial(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise Undefined("the factorial of a negative integer")
            if value <= MAX_FACTORIAL:
                return Fraction(math.factorial(int(value)))
        value = as_real(value)
        if abs(value) > _LOG_MAGNITUDE / 100:
            raise OutOfRange("a factorial beyond the range that is compared")
        return context().gamma(value + 1)

    def _fn_binom(self, total: Value, chosen: Value) -> Value:
        if max(abs(as_real(total)), abs(as_real(chosen))) > _LOG_MAGNITUDE / 100:
            raise OutOfRange("a binomial coefficient beyond the range that is compared")
        if all(isinstance(v, Fraction) and v.denominator == 1 and v >= 0 for v in (total, chosen)):
            fewer = min(chosen, total - chosen)
            if fewer < 0 or min(fewer * _bits(total), total) <= MAX_BITS:
                return Fraction(math.comb(int(total), int(chosen)))
        return context().binomial(as_real(total), as_real(chosen))

    def _extremum(self, function: Callable[..., Value], values: tuple[Value, ...]) -> Value:
        if not all(is_real(value) for value in values):
            raise Undefined("the extremum of complex numbers")
        return function(values, key=lambda value: as_real(value).real)

    def _fn_max(self, *values: Value) -> Value:
        return self._extremum(max, values)

    def _fn_min(self, *values: Value) -> Value:
        return self._extremum(min, values)

    def _fn_gcd(self, *values: Value) -> Value:
        return Fraction(math.gcd(*map(_integer, values)))

    def _fn_lcm(self, *values: Value) -> Value:
        return Fraction(math.lcm(*map(_integer, values)))

    def _fn_log(self, value: Value, base: Value = None) -> Value:
        ctx = context()
        if base is None and self.log_base is not None:
            base = Fraction(self.log_base)
        result = ctx.log(as_real(value))
        return result if base is None else result / ctx.log(as_real(base))

    def _fn_ln(self, value: Value) -> Value:
        return context().log(as_real(value))

    def _fn_lg(self, value: Value, base: Value = Fraction(10)) -> Value:
        return self._fn_log(value, base)

    def _transcendental(self, name: str, arguments: list[Value]) -> Value:
        if len(arguments) != 1:
            raise Undefined(f"{name} of several values")
        argument = as_real(arguments[0])
        if abs(argument) > _MAX_ARGUMENT:
            raise OutOfRange("a function beyond the range that is compared")
        if argument == 0 and name in ("sin", "tan", "arcsin", "arctan", "sinh", "tanh"):
            return Fraction(0)
        names = {"arc" + f: "a" + f for f in ("sin", "cos", "tan", "cot", "sec", "csc")}
        return getattr(context(), names.get(name, name))(argument)


def _integer(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise Undefined("a divisor of numbers that are not integers")
    return int(value)


def _exact_root(value: Fraction, index: int) -> Fraction | None:
    """The root of a non-negative fraction if it is a fraction, else None."""
    top = _integer_root(value.numerator, index)
    bottom = _integer_root(value.denominator, index)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, index: int) -> int | None:
    if index == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 1_000:
        return None
    low, high = 0, 1 << (value.bit_length() // index + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**index <= value:
            low = middle
        else:
            high = middle - 1
    return low if low**index == value else None


def _determinant(matrix: Node) -> Node:
    size = matrix.value
    if matrix.kind != "matrix" or len(matrix.args) != size * size or size > 4:
        raise Unsupported("a determinant of more than four rows")
    rows = [matrix.args[i * size : (i + 1) * size] for i in range(size)]
    if size == 1:
        return rows[0][0]
    terms = []
    for column in range(size):
        minor = tuple(entry for row in rows[1:] for j, entry in enumerate(row) if j != column)
        term = Node("mul", (rows[0][column], _determinant(Node("matrix", minor, size - 1))))
        terms.append(Node("neg", (term,)) if column % 2 else term)
    return Node("add", tuple(terms))


def variables(node: Node) -> frozenset[str]:
    """Names of the variables in a tree."""
    if node.kind == "var":
        return frozenset((node.value,))
    return frozenset().union(*(variables(part) for part in node.args))


def contains(node: Node, *kinds: str) -> bool:
    """Whether a tree contains a node of one of the kinds."""
    return node.kind in kinds or any(contains(part, *kinds) for part in node.args)
