"""Compares two expression trees: the exact and numeric path, without sympy.

Rational values are compared exactly, other closed values to about 35 digits, expressions with variables at random
points, where the difference of two distinct expressions vanishes with probability practically 0 (Schwartz 1980,
Zippel 1979, for polynomials). Structures (lists, tuples, intervals, sets, matrices, equations) are compared part
by part.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from fractions import Fraction

from verifiers.mathematics.comparison import close_values, numeric, real_sets
from verifiers.mathematics.comparison.numerals import decimal_digits, is_unreduced, like_minutes, terminates
from verifiers.mathematics.comparison.numeric import Evaluator, Undefined, Value, contains, variables
from verifiers.mathematics.comparison.rewriting import (
    distinct_letters,
    expand_plus_minus,
    simplify_relation,
    substitute,
)
from verifiers.mathematics.parsing.syntax import Node, Unsupported, number
from verifiers.mathematics.policy import MathPolicy

POINTS = 6
"""Random points at which expressions with variables are compared."""

MAX_UNORDERED = 64
"""Longer lists are compared in order only."""

SCALARS = frozenset(
    ("num", "const", "var", "add", "mul", "div", "pow", "neg", "call", "pm", "degree", "percent", "mod", "ratio")
)


class Comparison:
    """Compares the trees of one prediction and one reference.

    Args:
        policy: The grading options.
        seed: Text that seeds the random points, so that a verdict is reproducible.
        degree_signs: Whether a degree sign is required, because one side is in radians.
    """

    def __init__(self, policy: MathPolicy, seed: str, *, degree_signs: bool = False) -> None:
        self.policy = policy
        self.degree_signs = degree_signs
        self.rng = random.Random(hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest())

    def equal(self, left: Node, right: Node) -> bool:
        """Whether a prediction's tree (left) is equal to the reference's (right).

        Raises:
            Unsupported: Only the symbolic path can decide.
        """
        left, right = (self._one_of(simplify_relation(expand_plus_minus(node))) for node in (left, right))
        if left.kind == "false":
            return False  # a chain of equations that does not hold
        if left.kind == "named" or right.kind == "named":
            return self._named(left, right)
        if left.kind == "equation" or right.kind == "equation":
            return left.kind == right.kind and self._equations(left, right)
        if "based" in (left.kind, right.kind):
            return self._based(left, right)
        sets = real_sets.pair(left, right)
        if sets is not None:
            return sets[0] == sets[1]
        if left.kind in SCALARS and right.kind in SCALARS:
            return self.scalars(left, right)
        if any(node.kind in SCALARS and contains(node, "matrix") for node in (left, right)):
            raise Unsupported("arithmetic of matrices")
        return self._structures(left, right)

    def _one_of(self, node: Node) -> Node:
        """The first of alternatives that all have one value: 3/4 or 0.75."""
        if node.kind != "list" or node.value != "or" or not 1 < len(node.args) <= MAX_UNORDERED:
            return node
        first, *others = node.args
        return first if first.kind in SCALARS and all(self.equal(other, first) for other in others) else node

    # --- names and equations ----------------------------------------------------------------------

    def _named(self, left: Node, right: Node) -> bool:
        if left.kind == right.kind == "named":
            left_name, right_name = left.value, right.value
            if (
                left_name.kind == right_name.kind
                and left_name.kind in ("var", "call", "div")
                and left_name != right_name
            ):
                return self._equations(left.args[1], right.args[1])
            if left_name.kind == right_name.kind == "mul" and left_name.value != "apply":
                if not self.scalars(left_name, right_name):
                    return False  # AB = 5 is not AC = 5
            if left_name.value == right_name.value == "apply" and left_name.args[0] == right_name.args[0]:
                ours, theirs = left_name.args[1], right_name.args[1]
                if ours != theirs and ours.kind == theirs.kind == "var" and theirs.value not in variables(left):
                    return self.equal(substitute(left.args[0], ours.value, theirs), right.args[0])
            return self.equal(left.args[0], right.args[0])
        if left.kind == "named":
            if right.kind == "equation":
                return self._equations(left.args[1], right)
            return self.equal(left.args[0], right)
        if left.kind == "equation":
            return self._equations(left, right.args[1])
        return self.equal(left, right.args[0])

    def _equations(self, left: Node, right: Node) -> bool:
        """Two equations are equal if the differences of their sides are proportional."""
        ours, theirs = left.args[0], right.args[0]
        if not variables(ours) or not variables(theirs):
            return False
        points = self._points(variables(ours) | variables(theirs))
        ratio = self._common_ratio(ours, theirs, points, 35)
        if ratio is None or isinstance(ratio, Fraction):
            return ratio is not None
        with numeric.digits(numeric.FINE_DIGITS):
            return self._common_ratio(ours, theirs, points, numeric.FINE_DIGITS // 2) is not None

    def _common_ratio(self, left: Node, right: Node, points: Sequence[dict[str, Fraction]], digits: int) -> Value:
        """The ratio of two expressions if it is the same at all points, to `digits` digits; else None."""
        ratio: Value = None
        for point in points:
            values = self._at(left, right, point)
            if values is None or values[0] == 0 or values[1] == 0:
                continue
            exact = all(isinstance(value, Fraction) for value in values)
            current = values[0] / values[1] if exact else numeric.as_real(values[0]) / numeric.as_real(values[1])
            if ratio is not None and not numeric.same(ratio, current, digits):
                return None
            ratio = current
        return ratio

    # --- structures -------------------------------------------------------------------------------

    def _based(self, left: Node, right: Node) -> bool:
        if left.kind == right.kind:
            return left.value == right.value
        # 12 in base ten is just 12.
        (digits, base), other = (left.value, right) if left.kind == "based" else (right.value, left)
        return base == 10 and digits.isdigit() and other == number(int(digits))

    def _structures(self, left: Node, right: Node) -> bool:
        if left.kind == "matrix" or right.kind == "matrix":
            return (
                left.kind == right.kind
                and left.value == right.value
                and len(left.args) == len(right.args)
                and self._in_order(left.args, right.args)
            )
        if left.kind in ("union", "minus") or right.kind in ("union", "minus"):
            if left.kind != right.kind:
                return False
            ours, theirs = real_sets.flatten(left), real_sets.flatten(right)
            return self._in_order(ours, theirs) or (left.kind == "union" and self._unordered(ours, theirs))
        kinds = {left.kind, right.kind}
        if "rel" in kinds:
            return left.kind == right.kind and self._relations(left, right)
        if kinds == {"seq"}:
            return left.value == right.value and self._in_order(left.args, right.args)
        if kinds == {"list", "seq"}:
            brackets = left.value if left.kind == "seq" else right.value
            if "or" in (left.value, right.value):
                return False  # x = 1 or y = 2 is not the point (1, 2)
            # Three values in square brackets are no interval but a list, as programs write it.
            listed = brackets == "()" or (brackets == "[]" and len(left.args) > 2)
            return listed and self._in_order(left.args, right.args)
        if kinds <= {"list", "set"}:
            named = [distinct_letters(node.args) for node in (left, right)]
            # The values of a = 1, b = 2 are 1, 2 and not 2, 1.
            ordered = kinds == {"list"} and (self.policy.list_order or named[0] != named[1])
            if not ordered and len(left.args) != len(right.args):
                left, right = self._without_repeats(left), self._without_repeats(right)
            return (self._in_order if ordered else self._unordered)(left.args, right.args)
        if "set" in kinds and len(left.args if left.kind == "set" else right.args) == 1:
            return self.equal(*(node.args[0] if node.kind == "set" else node for node in (left, right)))
        return False

    def _in_order(self, left: Sequence[Node], right: Sequence[Node]) -> bool:
        return len(left) == len(right) and all(self.equal(a, b) for a, b in zip(left, right, strict=True))

    def _unordered(self, left: Sequence[Node], right: Sequence[Node]) -> bool:
        if len(left) != len(right):
            return False
        if len(left) > MAX_UNORDERED:
            return self._in_order(left, right)
        rest = list(right)
        for item in left:
            found = next((index for index, other in enumerate(rest) if self.equal(item, other)), None)
            if found is None:
                return False
            del rest[found]
        return True

    def _without_repeats(self, node: Node) -> Node:
        """A set, or a list of tuples, without what it repeats; repeated roots of a list are kept."""
        points = node.kind == "set" or all(part.kind == "seq" for part in node.args)
        if len(node.args) > MAX_UNORDERED or not points:
            return node
        kept: list[Node] = []
        for part in node.args:
            if not any(self.equal(part, other) for other in kept):
                kept.append(part)
        return Node(node.kind, tuple(kept), node.value)

    def _relations(self, left: Node, right: Node) -> bool:
        """Inequalities between expressions: the same up to a factor; a negative one reverses the relation."""
        if left == right:
            return True
        if len(left.args) == len(right.args) and left.value == right.value and self._in_order(left.args, right.args):
            return True
        if len(left.args) != 2 or len(right.args) != 2:
            if contains(left, "call") or contains(right, "call"):
                raise Unsupported("a chain of inequalities")
            return False
        turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
        ours, theirs = (Node("add", (node.args[0], Node("neg", (node.args[1],)))) for node in (left, right))
        if left.value[0] not in turned or right.value[0] not in turned:
            return False
        ratio = self._constant_ratio(ours, theirs)
        if ratio is None:
            return False
        return (left.value[0] if ratio > 0 else turned[left.value[0]]) == right.value[0]

    def _constant_ratio(self, left: Node, right: Node) -> Value:
        points = self._points(variables(left) | variables(right))
        ratio = self._common_ratio(left, right, points, 35)
        return ratio.real if ratio is not None and numeric.is_real(ratio) else None

    # --- scalars ----------------------------------------------------------------------------------

    def scalars(self, left: Node, right: Node) -> bool:
        """Whether two scalar expressions have the same value, under the policy's interpretations."""
        if left == right:
            return True
        if left.kind == right.kind == "ratio":
            return self._ratios(left, right)
        if self.policy.reduced_fractions and is_unreduced(left) and right.kind == "div":
            return False
        for ours, theirs in self._percent_readings(left, right):
            if self._same_value(ours, theirs):
                return True
        return False

    def _ratios(self, left: Node, right: Node) -> bool:
        if self._in_order(left.args, right.args):
            return True
        # 4:30 may be a time of day: only ratios that cannot be one are compared as proportions.
        if len(left.args) != len(right.args) or any(like_minutes(node) for node in (left, right)):
            return False
        return all(
            self._same_value(Node("div", (a, left.args[0])), Node("div", (b, right.args[0])))
            for a, b in zip(left.args[1:], right.args[1:], strict=True)
        )

    def _percent_readings(self, left: Node, right: Node) -> list[tuple[Node, Node]]:
        if left.kind == right.kind == "percent":
            return [(left.args[0], right.args[0])]
        # 45 and 45 degrees are the same answer; 120 degrees is also two thirds of pi.
        ours, theirs = (node.args[0] if node.kind == "degree" else node for node in (left, right))
        if left.kind == "degree" and right.kind == "degree":
            return [(ours, theirs)]
        if left.kind == "degree" or right.kind == "degree":
            return [(left, right)] if self.degree_signs else [(ours, theirs), (left, right)]
        if left.kind != "percent" and right.kind != "percent":
            return [(left, right)]
        bare = tuple(node.args[0] if node.kind == "percent" else node for node in (left, right))
        readings = {"lenient": [bare, (left, right)], "sign_optional": [bare], "strict": [(left, right)]}
        return readings[self.policy.percent]  # type: ignore[return-value]

    def _same_value(self, left: Node, right: Node) -> bool:
        names = variables(left) | variables(right)
        bases: tuple[int | None, ...] = (None,)
        if any(_has_plain_log(node) for node in (left, right)):
            bases = (None, 10)  # schools write log for base 10, universities for base e: one reading for both sides
        if names:
            return any(self._same_function(left, right, names, base) for base in bases)
        for base in bases:
            left_evaluator, right_evaluator = Evaluator(log_base=base), Evaluator(log_base=base)
            try:
                ours, theirs = left_evaluator.value(left), right_evaluator.value(right)
            except Undefined:
                continue
            cancelled = left_evaluator.cancelled or right_evaluator.cancelled
            if self._agree(left, right, (ours, theirs), None, base, cancelled=cancelled):
                return True
            if self._rounded(left, ours, right, theirs):
                return True
        return False

    def _agree(
        self,
        left: Node,
        right: Node,
        values: tuple[Value, Value],
        point: dict[str, Fraction] | None,
        base: int | None,
        *,
        cancelled: bool,
        checked: bool = False,
    ) -> bool:
        """Whether two values are equal. If rounding may hide a difference, residues or more digits decide.

        ``checked``: the values are known to be equal at other points, with many digits.
        """
        ours, theirs = values
        if isinstance(ours, Fraction) and isinstance(theirs, Fraction):
            return bool(ours == theirs)
        same = numeric.same(ours, theirs)
        if (same and checked) or not (same or cancelled or numeric.close(ours, theirs)):
            return same
        if same and point is None and (exact := close_values.equal_residues(left, right)) is not None:
            return exact
        return close_values.equal_with_more_digits(left, right, point, base)

    def _same_function(self, left: Node, right: Node, names: frozenset[str], base: int | None) -> bool:
        if variables(left) != variables(right) and (not variables(left) or not variables(right)):
            return False
        agreed = complex_agreed = 0
        for point in self._points(names):
            evaluator = Evaluator(point, base)
            try:
                values = evaluator.value(left), evaluator.value(right)
            except Undefined:
                continue
            checked = agreed + complex_agreed > 0
            same = self._agree(left, right, values, point, base, cancelled=evaluator.cancelled, checked=checked)
            if all(numeric.is_real(value) for value in values):
                if not same:
                    return False
                agreed += 1
            elif contains_imaginary(left) or contains_imaginary(right):
                if not same:
                    return False
                agreed += 1
            else:
                complex_agreed += 1 if same else -POINTS
        return agreed >= 2 or (agreed == 0 and complex_agreed >= 2)

    def _at(
        self, left: Node, right: Node, point: dict[str, Fraction], base: int | None = None
    ) -> tuple[Value, Value] | None:
        evaluator = Evaluator(point, base)
        try:
            return evaluator.value(left), evaluator.value(right)
        except Undefined:
            return None

    def _points(self, names: frozenset[str]) -> list[dict[str, Fraction]]:
        """Half of the points are positive, half of either sign: |x| is not x, and the root of x has a domain."""
        points = []
        for index in range(POINTS):
            sign: Callable[[], int] = (lambda: 1) if index % 2 == 0 else (lambda: self.rng.choice((-1, 1)))
            points.append({name: sign() * Fraction(self.rng.randint(21, 331), 101) for name in sorted(names)})
        for name in names:  # at least one point of each sign for a single variable
            points[1][name] = -abs(points[1][name])
        return points

    def _rounded(self, left: Node, ours: Value, right: Node, theirs: Value) -> bool:
        """The rounding policies: an exact answer to a rounded reference, a long decimal for an exact reference."""
        if not numeric.is_real(ours) or not numeric.is_real(theirs):
            return False
        ours, theirs = (numeric.as_real(value).real for value in (ours, theirs))
        left_places, right_places = decimal_digits(left), decimal_digits(right)
        if left_places is None and right_places is not None:
            places, significant = right_places
            if left.kind == "num" or (left.kind == "neg" and left.args[0].kind == "num"):
                return False  # an integer is no closer form of a decimal
            return significant >= self.policy.reference_digits and _within(ours, theirs, Fraction(1, 2 * 10**places))
        if left_places is not None and right_places is None:
            places, significant = left_places
            if significant < self.policy.decimal_digits or terminates(right):
                return False
            return _within(ours, theirs, Fraction(1, 10**places))
        return False


def _within(left: Value, right: Value, tolerance: Fraction) -> bool:
    return bool(abs(left - right) <= numeric.as_real(tolerance))


def contains_imaginary(node: Node) -> bool:
    """Whether the imaginary unit occurs in a tree."""
    return (node.kind == "const" and node.value == "i") or any(contains_imaginary(part) for part in node.args)


def _has_plain_log(node: Node) -> bool:
    plain = node.kind == "call" and node.value == "log" and len(node.args) == 1
    return plain or any(_has_plain_log(part) for part in node.args)
