"""Rewrites trees before comparison: drops names from equations, expands plus-minus signs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from verifiers.mathematics.comparison import numeric
from verifiers.mathematics.comparison.numeric import Evaluator, Undefined, variables
from verifiers.mathematics.parsing.syntax import Node, Unsupported

_NAMED_VALUES = frozenset("sin cos tan cot sec csc".split())
"""Functions whose value at an angle may be the answer, as in ``cos A = 1/2``."""

MAX_SIGNS = 5
"""More independent plus-minus signs than this are not expanded."""


def substitute(node: Node, name: str, value: Node) -> Node:
    """The tree with each variable ``name`` replaced."""
    if node.kind == "var" and node.value == name:
        return value
    if not node.args:
        return node
    return replace(node, args=tuple(substitute(part, name, value) for part in node.args))


def is_name(node: Node) -> bool:
    """Whether a side of an equation is only a name for the other side: ``x``, ``a_1``, ``f(x)``, ``|AB|``."""
    if node.kind == "var":
        return True
    if node.kind == "mul" and node.value == "apply":
        return all(part.kind in ("var", "num", "seq") for part in node.args[1].args or (node.args[1],))
    if node.kind == "mul":
        factors = _factors(node)
        if [part.value for part in factors[:2]] == ["m", "angle"]:
            factors = factors[1:]  # the measure of an angle
        return all(_is_point(part) for part in factors)
    if node.kind in ("div", "ratio"):
        return all(is_name(part) or _is_point(part) or _is_differential(part) for part in node.args)
    if node.kind == "call" and node.value in _NAMED_VALUES:
        return len(node.args) == 1 and (node.args[0].kind == "var" or _is_point(node.args[0]))
    if node.kind == "call" and node.value == "abs":
        return is_name(node.args[0]) and node.args[0].kind == "mul"
    return node.kind == "seq" and all(part.kind == "var" for part in node.args)


def _is_differential(node: Node) -> bool:
    """``dy``, as in ``dy/dx``."""
    return node.kind == "mul" and node.args[0] == Node("var", value="d") and node.args[1].kind == "var"


def _factors(node: Node) -> list[Node]:
    if node.kind != "mul" or node.value == "apply":
        return [node]
    return [factor for part in node.args for factor in _factors(part)]


def _is_point(node: Node) -> bool:
    """A capital letter, as in the segment AB, or the sign before some: ``\\angle ABC``."""
    if node.kind == "mul":
        return all(_is_point(part) for part in _factors(node))
    return node.kind == "var" and (str(node.value)[:1].isupper() or node.value in ("angle", "triangle"))


def _signs(node: Node) -> set[int]:
    found = {node.value[0]} if node.kind == "pm" else set()
    return found.union(*(_signs(part) for part in node.args))


def _with_signs(node: Node, signs: dict[int, int]) -> Node:
    args = tuple(_with_signs(part, signs) for part in node.args)
    if node.kind == "pm":
        group, direction = node.value
        return args[0] if signs[group] * direction > 0 else Node("neg", args)
    return replace(node, args=args)


def expand_plus_minus(node: Node) -> Node:
    """The tree with every plus-minus expanded: one expression becomes the list of its values."""
    if not _signs(node):
        return node
    if node.kind in ("list", "set"):
        items: list[Node] = []
        for part in node.args:
            resolved = expand_plus_minus(part)
            items += resolved.args if resolved.kind == "list" and part.kind != "list" else (resolved,)
        return replace(node, args=tuple(items))
    groups = sorted(_signs(node))
    if len(groups) > MAX_SIGNS:
        raise Unsupported("too many plus-minus signs")
    if node.kind == "rel":
        *names, last = node.args
        if any(_signs(part) for part in names):
            raise Unsupported("plus-minus signs on both sides")
        resolved = expand_plus_minus(last)
        return Node("list", tuple(replace(node, args=(*names, item)) for item in resolved.args), ",")
    combinations = itertools.product((1, -1), repeat=len(groups))
    return Node("list", tuple(_with_signs(node, dict(zip(groups, signs, strict=True))) for signs in combinations), ",")


def simplify_relation(node: Node) -> Node:
    """Simplifies an equation, or a true approximation.

    Returns:
        ``named`` (the value and the equation; its ``value`` is the name's tree) for ``x = 3``; the value alone for a
        chain without a name such as ``sqrt(4) = 2``; ``equation`` (left minus right) for any other; ``false`` for a
        chain whose parts differ; other trees unchanged.

    Raises:
        Unsupported: Only the symbolic path can evaluate a part of a chain.
    """
    if node.kind != "rel":
        return node
    if node.value == ("in",):
        return node.args[1] if is_name(node.args[0]) or node.args[0].kind == "list" else node
    if node.value == ("===",) * len(node.value):
        return node
    if not set(node.value) <= {"=", "~"}:
        return node
    parts = list(node.args)
    if "~" in node.value:
        cut = node.value.index("~")
        if not all(_near(a, b) for a, b, sign in zip(parts, parts[1:], node.value, strict=False) if sign == "~"):
            return Node("false")
        exact = [part for part in parts[: cut + 1] if not is_name(part)]
        parts = parts[: cut + 1] if exact else parts[: cut + 2]
        if len(parts) == 1:
            return parts[0]
    if is_name(parts[-1]) and not is_name(parts[0]) and not any(map(variables, parts[:-1])):
        parts.reverse()  # 3 = x
    names = list(itertools.takewhile(is_name, parts[:-1]))
    values = parts[len(names) :]
    if len(values) > 1 and not _consistent(values):
        if len(values) == 2 and not names and any(variables(value) for value in values):
            return Node("equation", (Node("add", (values[0], Node("neg", (values[1],)))),))
        return Node("false")
    value = values[-1]
    if not names:
        return value
    name = names[0]
    difference = Node("add", (name, Node("neg", (value,))))
    return Node("named", (value, Node("equation", (difference,))), name)


def distinct_letters(items: Sequence[Node]) -> bool:
    """Whether each item gives a value to a letter of its own, as in ``a = 1, b = 2``, and not ``x_1 = 1, x_2 = 2``."""
    letters: set[str] = set()
    for item in items:
        named = item.kind == "rel" and "=" in item.value and item.args[0].kind == "var"
        if not named:
            return False
        letters.add(str(item.args[0].value).partition("_")[0])
    return len(letters) == len(items) > 1


def _near(exact: Node, rounded: Node) -> bool:
    """Whether an approximation is true: correct to its last decimal place, or to one percent."""
    try:
        left, right = (numeric.as_real(Evaluator().value(node)) for node in (exact, rounded))
    except KeyError:
        return True  # a name such as x: nothing to compare
    except Undefined:
        return False
    place = rounded.args[0] if rounded.kind == "neg" else rounded
    places = place.value.places if place.kind == "num" else None
    error = abs(left - right)
    shown = 10.0**-places if places is not None else 0.5 * (place.kind == "num")
    return bool(error <= abs(left) / 100 or error <= shown)


def _consistent(values: list[Node]) -> bool:
    """Whether all closed parts of a chain have one value; False for a chain with variables."""
    try:
        found = [Evaluator().value(value) for value in values]
    except KeyError:
        return False
    except Undefined:
        return False
    return all(numeric.same(found[-1], value) for value in found[:-1])
