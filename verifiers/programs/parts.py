"""Chooses among the blocks of a response, puts a program together from them, and reads interactive sessions."""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verifiers.programs.blocks import is_python
from verifiers.sandbox.inside.unbound_names import exported, outside

MAX_BLOCKS = 30
"""Only so many blocks before and after the chosen one are read."""

_NAME = "<response>"
warnings.filterwarnings("ignore", module=re.escape(_NAME))  # what Python says about a model's escape sequences

_SESSION = re.compile(r"(?:>>>|\.\.\.)(?: (.*)|$)")
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# A part of a program that only defines something, so that putting it before another part runs nothing.
_DEFINES = (*FUNCTIONS, ast.Import, ast.ImportFrom)
_ALWAYS_BOUND = {"__file__", "__class__"}


def without_prompts(code: str) -> str:
    """The inputs of a session of Python's interactive interpreter (``>>> x = 1``); other code as it is."""
    if not code.lstrip("\n").startswith(">>>"):
        return code
    inputs = [found for line in code.splitlines() if (found := _SESSION.match(line)) is not None]
    return "".join(f"{found[1] or ''}\n" for found in inputs)


def defines(code: str, name: str) -> bool:
    """Whether a line at the left margin defines ``name``."""
    word = re.escape(name)
    found = re.search(
        rf"^(?:(?:async +def|def|class) +{word}\b|{word} *(?::[^=\n]+)?=(?!=))",
        code,
        re.MULTILINE,
    )
    return found is not None


def program_in(blocks: Sequence[tuple[str, str]], entry_point: str | None) -> str | None:
    """The program in blocks with a label each: the last one that defines the entry point, with the ones it needs.

    Without an entry point, or where no block defines it, the last one that could run, if possible one that reads the
    input: not the output of a program, and not an example of its use. Python blocks come before those without a label,
    and these before all others.

    Returns:
        The program; None if there are no blocks.
    """
    kinds = [
        [text for label, text in blocks if is_python(label)],
        [text for label, text in blocks if not label],
        [text for _, text in blocks],
    ]
    parts = _Parts()
    for texts in kinds if entry_point else ():
        for number in reversed(range(len(texts))):
            if defines(texts[number], str(entry_point)):
                return parts.program(texts, number)
    for texts in kinds if len(blocks) > 1 else ():
        able = [number for number in range(len(texts))[-MAX_BLOCKS:] if parts.could_run(texts, number)]
        # Where one reads the input, those that do not are examples of its use.
        reading = [number for number in able if parts.reads(texts, number)]
        if able:
            return parts.program(texts, (reading or able)[-1])
    return next((parts.program(texts, len(texts) - 1) for texts in kinds if texts), None)


def with_definitions(code: str, rest: Sequence[str]) -> str:
    """``code`` with those of the later parts that only define what it uses."""
    return _Parts().program([code, *rest], 0)


@dataclass(frozen=True)
class _Part:
    """What a block does.

    Attributes:
        missing: Names that it uses and does not define, as far as they are known.
        bound: Names that it imports and defines; empty if it does more than that.
        imports_only: It does nothing but import.
        runs: It calls or defines something.
        reads: It reads the standard input.
    """

    missing: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()
    imports_only: bool = False
    runs: bool = False
    reads: bool = False


class _Parts:
    """The blocks of a response, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, _Part] = {}

    def __getitem__(self, text: str) -> _Part:
        if text not in self._read:
            self._read[text] = _part(text)
        return self._read[text]

    def program(self, texts: Sequence[str], number: int) -> str:
        """A block after the others that it needs."""
        if len(texts) == 1:
            return texts[0]
        before, after, _ = self._needed(texts, number)
        code = texts[number]
        # A block that runs something needs all definitions first; one that defines may have imports for later ones.
        return joined(*before, code, *after) if self[code].bound else joined(*before, *after, code)

    def could_run(self, texts: Sequence[str], number: int) -> bool:
        """Whether a block calls or defines something, with names that it or the blocks that it needs define."""
        return self[texts[number]].runs and not self._needed(texts, number)[2]

    def reads(self, texts: Sequence[str], number: int) -> bool:
        """Whether a block, or one that it needs, reads the standard input."""
        before, after, _ = self._needed(texts, number)
        return any(self[text].reads for text in (texts[number], *before, *after))

    def _needed(self, texts: Sequence[str], number: int) -> tuple[list[str], list[str], frozenset[str]]:
        """The earlier and the later blocks that a block needs, and the names that it still lacks.

        They are the earlier ones that only import, and those that only define what it uses.

        A block that defines a name again is a later version of the earlier ones, which are then left out.
        """
        first = max(0, number - MAX_BLOCKS)
        others = [*texts[first:number], *texts[number + 1 : number + 1 + MAX_BLOCKS]]
        parts = [self[text] for text in others]
        taken = {place for place in range(number - first) if parts[place].imports_only}
        missing = self[texts[number]].missing.difference(*(parts[place].bound for place in taken))
        left = set(range(len(others))) - taken
        while found := [place for place in left if missing & parts[place].bound]:
            last = max(found)
            missing = (missing | parts[last].missing) - parts[last].bound
            left.remove(last)
            taken.add(last)
        earlier = number - first
        before = [others[place] for place in sorted(taken) if place < earlier]
        return before, [others[place] for place in sorted(taken) if place >= earlier], missing


def joined(*parts: str) -> str:
    """Parts of a program as one. Only at its beginning may it import from ``__future__``."""
    features = [found.strip() for part in parts[1:] for found in _FUTURE.findall(part)]
    if not features:
        return "".join(parts)
    return "".join([*(f"{line}\n" for line in features), parts[0], *(_FUTURE.sub("", part) for part in parts[1:])])


def parsed(code: str) -> ast.Module | None:
    """The syntax tree of a program; None if it is not one."""
    try:
        return ast.parse(code, _NAME)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _part(code: str) -> _Part:
    tree = parsed(code)
    if tree is None:
        return _Part()
    try:
        missing = frozenset(outside(tree, _ALWAYS_BOUND).program)
    except ValueError:  # a star import of a module whose names are not known
        missing = frozenset()
    runs = any(isinstance(node, (*FUNCTIONS, ast.Call)) for node in ast.walk(tree))
    reads = any(map(_reads_input, ast.walk(tree)))
    if not all(isinstance(node, _DEFINES) or _is_docstring(node) for node in tree.body):
        return _Part(missing, runs=runs, reads=reads)
    bound = frozenset(name for node in tree.body for name in _bound(node))
    return _Part(missing, bound, not runs, runs, reads)


def _reads_input(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("stdin", "__stdin__")
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return any(alias.name in ("stdin", "fileinput") for alias in node.names)
    if not isinstance(node, ast.Call):
        return False
    function = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if function == "input" and isinstance(node.func, ast.Name):
        return True
    opened = node.args[0] if node.args and function in ("open", "read", "fdopen") else None
    return isinstance(opened, ast.Constant) and opened.value in (0, "/dev/stdin", "/dev/fd/0")


def _bound(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, FUNCTIONS):
        yield node.name
    elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        with contextlib.suppress(ValueError):  # see above
            yield from exported(node.module or "")
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield (alias.asname or alias.name).split(".")[0]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
