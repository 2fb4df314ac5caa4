"""The symbolic path: the only file that calls math-verify. Runs only in a child of the host process.

Both time-outs of math-verify are off: they use SIGALRM, which does not fire inside one long C call. The parent enforces
the deadline. Only its LaTeX reader is used, which is a grammar: its reader for plain expressions uses sympy's
``parse_expr``, which evaluates text as code.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any


@cache
def _reader() -> Any:
    from math_verify import LatexExtractionConfig

    return (LatexExtractionConfig(),)


def _parse(answer: str) -> list[Any]:
    from math_verify import parse

    found = parse(f"${answer}$", _reader(), fallback_mode="no_fallback", parsing_timeout=None)
    return found


def equal(prediction: str, reference: str) -> bool:
    """Whether two normalized answers are equal according to math-verify.

    Args:
        prediction: The answer's formula, without box or dollars.
        reference: The reference's formula, likewise.

    Raises:
        Exception: Any error of sympy on a formula that it cannot compare.
    """
    from math_verify import verify

    gold, answer = _parse(reference), _parse(prediction)
    if not gold or not answer:
        return False
    return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))


def warm_up() -> None:
    """Import everything and fill the grammar's caches, so that children start warm."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
    for prediction, reference in (
        ("\\frac{1}{2}+\\sqrt{3}", "\\sqrt{3}+0.5"),
        ("x^2+2x+1", "(x+1)^2"),
        ("(1,2]", "[1,2]"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
        ("\\sum_{k=1}^{8} k", "36"),
        ("\\lim_{x \\to 0} x", "0"),
    ):
        equal(prediction, reference)
