"""Exceptions of the program in the tests: only an ``except`` or a ``with`` of the tests can catch one.

As built-in types, some exceptions would look like an answer: StopIteration ends a ``map`` or a ``zip``, IndexError a
loop over ``__getitem__``, and the tests would pass without a comparison. So the exceptions of the program propagate as
``ProgramException``, which neither the language nor its library catches, and ``compiled`` rewrites the tests so that
their own handlers see the built-in exception that it represents.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import types
from collections.abc import Callable
from typing import Any

# Functions that call what they are given and expect an exception of it, by the number of arguments before that.
_EXPECTING = {"assertRaises": 1, "assertRaisesRegex": 2, "assert_raises": 1, "assert_raises_regex": 2}
# Where a statement begins, because most prompts have such a word in their text.
_HANDLES = re.compile(rf"(?m)(?:^|[:;])\s*(?:except|with|raise)\b|{'|'.join(_EXPECTING)}")
_EXPECTS, _REAL, _AGAIN, _MANAGER, _WITHIN = "__expects__", "__real__", "__again__", "__manager__", "__within__"


# Errors that a program may have in the sandbox only; see "What is not covered" in docs/sandbox.md.
_HINTS = {
    "PermissionError": " (programs in the sandbox start no processes, open no sockets and write no files)",
    "ModuleNotFoundError": " (besides the standard library, programs may import what task.sandbox.preload names)",
    "RuntimeError: can't start new thread": " (the sandbox limits how many a program may start)",
}


class CandidateError(Exception):
    """Represents an exception of the program whose type is not built in."""


class ProgramException(BaseException):
    """An exception of the program that propagates through the tests.

    Args:
        description: What the candidate says of it: ``type`` (the nearest built-in one), ``name``, ``text``.
        unhandled: The exceptions that no handler in the tests has caught; this one is removed when one does.
    """

    def __init__(self, description: Any, unhandled: set[ProgramException]) -> None:
        name, text = text_of(description, "name"), text_of(description, "text")
        self.what = f"{name}: {text}" if text else name
        self.what += next((hint for start, hint in _HINTS.items() if self.what.startswith(start)), "")
        self.error = _built_in(text_of(description, "type"), text)
        self.error._raised = self  # type: ignore[attr-defined]
        self._unhandled = unhandled
        super().__init__(self.what)
        unhandled.add(self)

    def mark_handled(self) -> None:
        """A handler in the tests has caught it."""
        self._unhandled.discard(self)

    def mark_reraised(self) -> ProgramException:
        """The tests raise it again."""
        self._unhandled.add(self)
        return self


def text_of(data: Any, key: str) -> str:
    """A text in a message of the candidate, cut to 300 characters; "" where there is none."""
    value = data.get(key, "") if type(data) is dict else ""
    return value[:300] if type(value) is str else ""


def _built_in(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        for base in kind.__mro__:
            if issubclass(base, Exception):
                try:
                    return base(text)
                except TypeError:  # a few, such as UnicodeDecodeError, want more than a text; their base does not
                    continue
    return CandidateError(text)


def origin(error: BaseException | None) -> ProgramException | None:
    """The exception of the program that ``error`` is or represents; None if the tests raised it themselves."""
    return error if isinstance(error, ProgramException) else getattr(error, "_raised", None)


def _expects(kinds: Any = BaseException) -> Any:
    """What an ``except kinds`` of the tests has to catch: evaluated while the exception is on its way."""
    error = sys.exception()
    if isinstance(error, ProgramException):
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if any(kind in type(error.error).__mro__ for kind in wanted if isinstance(kind, type)):
            error.mark_handled()
            return ProgramException
    return kinds


def _real(error: BaseException) -> BaseException:
    """What an ``except ... as name`` binds."""
    return error.error if isinstance(error, ProgramException) else error


def _again(*given: Any) -> Any:
    """What a ``raise`` of the tests raises."""
    error = given[0] if given else sys.exception()
    if error is None:
        return RuntimeError("No active exception to reraise")
    raised = origin(error) if isinstance(error, BaseException) else None
    return error if raised is None else raised.mark_reraised()


class _Manager:
    """A context manager of the tests, which is shown the built-in exception."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __enter__(self) -> Any:
        return type(self.inner).__enter__(self.inner)

    def __exit__(self, kind: Any, error: BaseException | None, trace: types.TracebackType | None) -> Any:
        leave = type(self.inner).__exit__
        if not isinstance(error, ProgramException):
            return leave(self.inner, kind, error, trace)
        ended = leave(self.inner, type(error.error), error.error, trace)
        if ended:
            error.mark_handled()
        return ended


def _within(manager: Any, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> None:
    with _Manager(manager):
        function(*arguments, **named)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


class _Rewriter(ast.NodeTransformer):
    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.type = _call(_EXPECTS, *([node.type] if node.type else []))
        if node.name:
            real = _call(_REAL, ast.Name(node.name, ast.Load()))
            node.body.insert(0, ast.Assign([ast.Name(node.name, ast.Store())], real))
        return node

    def visit_TryStar(self, node: ast.TryStar) -> ast.AST:
        # A group is not what these handlers could be given; an exception of the program goes past them.
        for part in (*node.body, *node.orelse, *node.finalbody, *(line for h in node.handlers for line in h.body)):
            self.visit(part)
        return node

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _call(_MANAGER, item.context_expr)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        node.exc = _call(_AGAIN, *([node.exc] if node.exc else []))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        before = _EXPECTING.get(node.func.attr) if isinstance(node.func, ast.Attribute) else None
        if before is None or len(node.args) <= before or any(isinstance(a, ast.Starred) for a in node.args[:before]):
            return node
        manager = ast.Call(node.func, node.args[:before], [])
        return ast.Call(ast.Name(_WITHIN, ast.Load()), [manager, *node.args[before:]], node.keywords)


def compiled(source: str, filename: str) -> types.CodeType:
    """Source of tests as code for a namespace that holds ``NAMES``."""
    # Most tests have no handler, and parsing takes longer than all the rest of the judge's work.
    if not _HANDLES.search(source):
        return compile(source, filename, "exec", dont_inherit=True)
    return compile(ast.fix_missing_locations(_Rewriter().visit(ast.parse(source))), filename, "exec", dont_inherit=True)


NAMES: dict[str, Any] = {_EXPECTS: _expects, _REAL: _real, _AGAIN: _again, _MANAGER: _Manager, _WITHIN: _within}
"""What rewritten tests call."""
