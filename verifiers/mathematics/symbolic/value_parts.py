"""The sides of a chain of equations, as the symbolic comparison gets them."""

from __future__ import annotations

import re


def value_parts(text: str) -> list[str]:
    """The sides of a chain of equations without a name at its start: ``F_n = A = B`` gives ``A`` and ``B``.

    All of an answer's sides must equal the reference, so that a chain cannot hide a second answer.
    """
    if _RELATION.search(text):
        return [text]
    parts: list[str] = []
    depth = start = 0
    for index, sign in enumerate(text):
        depth += (sign in "({[") - (sign in ")}]")
        if sign == "=" and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    if len(parts) > 1 and _NAME.fullmatch(parts[0]):
        del parts[0]
    return parts if all(parts) else [text]


# Of these an equation is only a part: in x \le y = 3 the 3 alone is not the answer.
_RELATION = re.compile(r"[<>]|\\(?:[lgn]eq?(?:slant|q)?|lt|gt|in|begin)(?![A-Za-z])")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[^{}]{1,20}\}|\w))?(?:\([A-Za-z, ]{1,10}\))?")
