"""Names that the tests use but do not define: modules, and names that the program must define."""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from .preloaded_modules import PRELOAD

_ALIASES = {"np": "numpy", "numpy": "numpy"}


@dataclass
class Names:
    """Names that a source uses without defining them.

    Attributes:
        modules: Module by name. They must be the real ones: with a program's own ``math`` everything could be close to
            everything.
        program: All others, in order, without built-in names: a program must not replace the ``len`` or ``set`` of the
            tests.
    """

    modules: dict[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=list)


def outside(tree: ast.AST, known: Iterable[str] = ()) -> Names:
    """The unbound names of ``tree``, without the names ``known``.

    Raises:
        ValueError: A star import of a module that is not preloaded; the message names it.
    """
    used, bound = _used_and_bound(tree)
    bound |= set(vars(builtins)) | set(known)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    names = Names()
    for name in dict.fromkeys(used):
        if name in bound:
            continue
        module = _ALIASES.get(name, name if name in sys.stdlib_module_names else None)
        # A name that is called is not a module.
        if module is not None and name not in called:
            names.modules[name] = module
        else:
            names.program.append(name)
    return names


def _used_and_bound(tree: ast.AST) -> tuple[list[str], set[str]]:
    used: list[str] = []
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.append(node.id) if isinstance(node.ctx, ast.Load) else bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            bound |= exported(node.module or "")
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
    return used, bound


def exported(module: str) -> set[str]:
    """What a star import of ``module`` binds. Raises ValueError unless it is one of the preloaded standard ones."""
    if module not in PRELOAD:
        raise ValueError(f"the names that 'from {module} import *' defines are not known; import them by name")
    found = importlib.import_module(module)
    return set(getattr(found, "__all__", (name for name in vars(found) if not name.startswith("_"))))
