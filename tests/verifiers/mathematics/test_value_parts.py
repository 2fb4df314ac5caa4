"""The sides of a chain of equations that the symbolic comparison gets."""

from __future__ import annotations

import pytest

from verifiers.mathematics.symbolic.value_parts import value_parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"F_n = a + b = c", ["a + b", "c"]),
        (r"x = \left(2\right)", [r"\left(2\right)"]),
        (r"\int_0^1 t = 1/2", [r"\int_0^1 t", "1/2"]),
        (r"a = \infty", [r"\infty"]),
    ],
)
def test_a_chain_of_equations_has_sides(text: str, parts: list[str]) -> None:
    assert value_parts(text) == parts


@pytest.mark.parametrize(
    "text",
    [r"x \le y = 3", r"x \geq y = 3", "x < y = 3", r"x \ne y = 3", r"x \in A = B", r"\begin{cases}x=1\end{cases}"],
)
def test_a_part_of_another_relation_is_no_side(text: str) -> None:
    assert value_parts(text) == [text]
