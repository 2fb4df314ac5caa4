"""Puts a program together: helpers of earlier blocks, and the inputs of an interactive session."""

from __future__ import annotations

import ast
import re
import warnings

from verifiers.sandbox.inside.unbound_names import outside

MAX_BLOCKS = 30
"""Only so many blocks before the chosen one are read."""

_NAME = "<response>"
warnings.filterwarnings("ignore", module=re.escape(_NAME))  # what Python says about a model's escape sequences

_SESSION = re.compile(r"(?:>>>|\.\.\.)(?: (.*)|$)")
# A part of a program that only defines something, so that putting it before another part runs nothing.
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def without_prompts(code: str) -> str:
    """The inputs of a session of Python's interactive interpreter (``>>> x = 1``); other code as it is."""
    if not code.lstrip("\n").startswith(">>>"):
        return code
    inputs = [found for line in code.splitlines() if (found := _SESSION.match(line)) is not None]
    return "".join(f"{found[1] or ''}\n" for found in inputs)


def with_helpers(code: str, earlier: list[str]) -> str:
    """A block with the earlier blocks that it needs: those that only import, and those that only define what it uses.

    A block that defines a name again is a later version of the earlier ones, which are then left out.
    """
    if not earlier:
        return code
    earlier = earlier[-MAX_BLOCKS:]
    names, missing = [_defined(text) for text in earlier], _missing(code)
    taken = {number for number, defined in enumerate(names) if defined == set()}
    while (found := _last_with(missing, names)) is not None:
        taken.add(found)
        missing = (missing | _missing(earlier[found])) - (names[found] or set())
        names[found] = None
    return "".join([*(text for number, text in enumerate(earlier) if number in taken), code])


def _last_with(missing: set[str], names: list[set[str] | None]) -> int | None:
    """The number of the last block that defines one of the names."""
    return next((number for number in range(len(names) - 1, -1, -1) if missing & (names[number] or set())), None)


def _missing(code: str) -> set[str]:
    """The names that a block uses and does not define."""
    tree = _tree(code)
    return set() if tree is None else set(outside(tree).program)


def _defined(code: str) -> set[str] | None:
    """The functions and classes that a block defines; None if it does more than import and define."""
    tree = _tree(code)
    if tree is None or not all(isinstance(node, _DEFINES) or _is_docstring(node) for node in tree.body):
        return None
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code, _NAME)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
