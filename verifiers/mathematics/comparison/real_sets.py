"""Sets of real numbers: intervals, unions, single points and inequalities in one variable, in one canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from verifiers.mathematics.comparison import numeric
from verifiers.mathematics.comparison.numeric import Evaluator, Undefined, Value, variables
from verifiers.mathematics.comparison.rewriting import is_name
from verifiers.mathematics.parsing.syntax import Node, Unsupported

_INFINITY = Node("const", value="inf")
_BELOW = Node("neg", (_INFINITY,))
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_MAX_CONDITIONS = 8


class NotASet(ValueError):
    """The tree is not a set of real numbers with known ends."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval with its ends; a single point is closed on both."""

    low: Value
    high: Value
    low_closed: bool
    high_closed: bool


class RealSet:
    """A union of pieces, sorted and joined where they touch."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = _joined(pieces)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RealSet) or len(self.pieces) != len(other.pieces):
            return False
        return all(
            (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
            and numeric.same(a.low, b.low)
            and numeric.same(a.high, b.high)
            for a, b in zip(self.pieces, other.pieces, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equality has a tolerance


def _order(left: Value, right: Value) -> int:
    if numeric.same(left, right):
        return 0
    return -1 if numeric.as_real(left) < numeric.as_real(right) else 1


def _by_ends(a: Piece, b: Piece) -> int:
    return _order(a.low, b.low) or (b.low_closed - a.low_closed) or _order(a.high, b.high)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    result: list[Piece] = []
    for piece in sorted(pieces, key=cmp_to_key(_by_ends)):
        if result:
            last = result[-1]
            touching = _order(piece.low, last.high)
            if touching < 0 or (touching == 0 and (piece.low_closed or last.high_closed)):
                further = _order(piece.high, last.high)
                closed = piece.high_closed if further > 0 else last.high_closed or (further == 0 and piece.high_closed)
                high = piece.high if further > 0 else last.high
                result[-1] = Piece(last.low, high, last.low_closed, closed)
                continue
        result.append(piece)
    return result


def flatten(node: Node) -> tuple[Node, ...]:
    """The members of nested unions."""
    if node.kind != "union":
        return (node,) if node.kind != "minus" else node.args
    return tuple(part for child in node.args for part in flatten(child))


def is_interval(node: Node) -> bool:
    """Whether a bracketed pair can only be an interval: mixed brackets, or an infinite end."""
    if node.kind != "seq" or len(node.args) != 2:
        return False
    return node.value in ("(]", "[)") or any(_infinite(part) for part in node.args)


def _infinite(node: Node) -> bool:
    return node == _INFINITY or (node.kind == "neg" and node.args[0] == _INFINITY)


def _is_inequality(node: Node) -> bool:
    return node.kind == "rel" and bool(node.value) and set(node.value) <= {"<", ">", "<=", ">=", "!="}


def _is_alternatives(node: Node) -> bool:
    return (
        node.kind == "list" and bool(node.args) and all(_is_inequality(part) or is_interval(part) for part in node.args)
    )


def is_set(node: Node) -> bool:
    """Whether a tree is unambiguously a set of real numbers, and not a pair, for example."""
    if is_interval(node) or node.kind in ("union", "minus") or _is_inequality(node) or _is_alternatives(node):
        return True
    return node.kind == "list" and node.value == "or" and any(_is_inequality(part) for part in node.args)


def pair(left: Node, right: Node) -> tuple[RealSet, RealSet] | None:
    """Both trees as sets, if one is unambiguously a set and the other can be one; else None."""
    if not (is_set(left) or is_set(right)):
        return None
    if left.kind == right.kind == "seq" and left.value != right.value:
        return None  # different brackets; the structural comparison rejects them
    try:
        return RealSet(pieces(left)), RealSet(pieces(right))
    except NotASet:
        return None


def pieces(node: Node) -> list[Piece]:
    """The pieces of a tree.

    Raises:
        NotASet: It is not a set, or its ends are not real numbers.
        Unsupported: Only the symbolic path can find its ends.
    """
    if node.kind == "seq" and len(node.args) == 2:
        low, high = (_end(part) for part in node.args)
        opening, closing = node.value
        return [Piece(low, high, opening == "[", closing == "]")]
    if node.kind == "union":
        return [piece for part in node.args for piece in pieces(part)]
    if node.kind == "list":
        if node.value == "or" or _is_alternatives(node):
            if node.value != "or" and all(_is_inequality(part) for part in node.args):
                return _conjunction(node.args)
            return [piece for part in node.args for piece in pieces(part)]
        raise NotASet("a list")
    if node.kind == "set":
        return [Piece(value, value, True, True) for value in map(_end, node.args)]
    if node.kind == "minus":
        return _without(pieces(node.args[0]), pieces(node.args[1]))
    if node.kind == "rel":
        return _inequality(node)
    raise NotASet(node.kind)


def _end(node: Node) -> Value:
    try:
        value = Evaluator().value(node)
    except (KeyError, Undefined) as error:
        raise NotASet(str(error)) from error
    if not numeric.is_infinite(value) and not numeric.is_real(value):
        raise NotASet("a complex end")
    return value if not hasattr(value, "imag") or numeric.is_infinite(value) else getattr(value, "real", value)


def _without(whole: list[Piece], removed: list[Piece]) -> list[Piece]:
    for hole in removed:
        if _order(hole.low, hole.high) != 0:
            raise NotASet("a difference of intervals")
        result: list[Piece] = []
        for piece in whole:
            if _order(piece.low, hole.low) <= 0 <= _order(piece.high, hole.low):
                if _order(piece.low, hole.low) < 0:
                    result.append(Piece(piece.low, hole.low, piece.low_closed, False))
                if _order(hole.low, piece.high) < 0:
                    result.append(Piece(hole.low, piece.high, False, piece.high_closed))
            else:
                result.append(piece)
        whole = result
    return whole


def _conjunction(conditions: Sequence[Node]) -> list[Piece]:
    """The numbers that satisfy all inequalities of a list: ``x >= 1, x <= 2`` is [1, 2].

    A comma may also join alternatives (``x < 1, x > 2``), so the conditions must have common numbers, and each must
    exclude some that the others admit.
    """
    if len(frozenset().union(*map(variables, conditions))) != 1 or len(conditions) > _MAX_CONDITIONS:
        raise NotASet("inequalities of several variables")
    sets = [pieces(condition) for condition in conditions]
    common = _intersection(sets)
    without_one = [_intersection([*sets[:index], *sets[index + 1 :]]) for index in range(len(sets))]
    if not common or any(RealSet(common) == RealSet(wider) for wider in without_one):
        raise NotASet("inequalities joined by a comma")
    return common


def _intersection(sets: Sequence[Sequence[Piece]]) -> list[Piece]:
    common = list(sets[0])
    for other in sets[1:]:
        found = [_overlap(a, b) for a in common for b in other]
        common = [piece for piece in found if piece is not None]
    return common


def _overlap(a: Piece, b: Piece) -> Piece | None:
    low = _order(a.low, b.low)
    high = _order(a.high, b.high)
    low_closed = a.low_closed and b.low_closed if low == 0 else (a if low > 0 else b).low_closed
    high_closed = a.high_closed and b.high_closed if high == 0 else (a if high < 0 else b).high_closed
    piece = Piece(a.low if low > 0 else b.low, a.high if high < 0 else b.high, low_closed, high_closed)
    extent = _order(piece.low, piece.high)
    return piece if extent < 0 or (extent == 0 and low_closed and high_closed) else None


def _inequality(node: Node) -> list[Piece]:
    """An inequality, or a chain around one variable, as an interval of that variable."""
    if (distance := _of_absolute_value(node)) is not None:
        return distance
    if set(node.value) & {"=", "~", "in", "==="}:
        if node.value == ("=",) and len(variables(node)) == 1 and node.args[0].kind == "var":
            value = _end(node.args[1])
            return [Piece(value, value, True, True)]
        raise NotASet("an equation")
    middle = [index for index, part in enumerate(node.args) if variables(part)]
    if len(middle) != 1:
        raise NotASet("no single variable side")
    index = middle[0]
    operators = list(node.value)
    low, low_closed, high, high_closed = _end(_BELOW), False, _end(_INFINITY), False
    if len(operators) > 2 or (len(operators) == 2 and index != 1):
        raise NotASet("a longer chain")
    scale, shift = _linear(node.args[index])
    for position, operator in enumerate(operators):
        other = position + 1 if position == index else position
        end = _end(node.args[other])
        if numeric.is_infinite(end):
            bound = end if scale > 0 else -end
        else:
            exact = _all_exact(end, shift, scale)
            bound = (
                (end - shift) / scale
                if exact
                else (numeric.as_real(end) - numeric.as_real(shift)) / numeric.as_real(scale)
            )
        variable_left = other > index
        if operator == "!=":
            return [Piece(low, bound, False, False), Piece(bound, high, False, False)]
        below = (operator in ("<", "<=")) == variable_left
        if scale < 0:
            below = not below
        closed = operator.endswith("=") and not numeric.is_infinite(end)
        if below:
            high, high_closed = bound, closed
        else:
            low, low_closed = bound, closed
    return [Piece(low, high, low_closed, high_closed)]


def _of_absolute_value(node: Node) -> list[Piece] | None:
    """``|x - 1| < 2`` as -2 < x - 1 < 2, and ``|x| > 2`` as x < -2 or x > 2; None for any other inequality."""
    if len(node.args) != 2 or not set(node.value) <= set(_TURNED):
        return None
    (inner, bound), operator = node.args, node.value[0]
    if bound.kind == "call":
        inner, bound, operator = bound, inner, _TURNED[operator]
    if inner.kind != "call" or inner.value != "abs" or variables(bound) or is_name(inner):
        return None
    (inside,), below = inner.args, Node("neg", (bound,))
    limit = numeric.as_real(_end(bound))
    if limit < 0 or (limit == 0 and operator in ("<", ">=")):
        raise NotASet("no number, or all numbers")
    if operator in ("<", "<="):
        return _inequality(Node("rel", (below, inside, bound), (operator, operator)))
    outside = _inequality(Node("rel", (inside, below), (_TURNED[operator],)))
    return outside + _inequality(Node("rel", (inside, bound), (operator,)))


def _all_exact(*values: Value) -> bool:
    return all(isinstance(value, Fraction) for value in values)


def _linear(node: Node) -> tuple[Value, Value]:
    """Slope and intercept of the side with the variable; a name such as ``f(x)`` counts as one variable."""
    if is_name(node):
        return Fraction(1), Fraction(0)
    names = variables(node)
    if len(names) != 1:
        raise NotASet("several variables")
    (name,) = names
    try:
        at = [Evaluator({name: Fraction(x)}).value(node) for x in (0, 1, 2, -7)]
    except Undefined as error:
        raise NotASet(str(error)) from error
    if not all(isinstance(value, Fraction) for value in at):
        raise Unsupported("an inequality that is not linear")
    slope = at[1] - at[0]
    if slope == 0 or at[2] != at[0] + 2 * slope or at[3] != at[0] - 7 * slope:
        raise Unsupported("an inequality that is not linear")
    return slope, at[0]
