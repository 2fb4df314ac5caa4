"""MBPP: write a Python function from one sentence and an example (Austin et al. 2021, arXiv 2108.07732).

Read from ``mbpp.jsonl`` (train and validation splits) and ``mbpp_sanitized.jsonl`` (test split: the problems whose
wording and tests its authors revised) in ``task.path``. Fields: ``id``, ``problem``, ``solution``, ``tests`` (a list of
asserts), ``test_setup``, ``split``. The solutions of the train split are the demonstrations for imitation.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verifiers.sandbox.grading import CodeTests, TestsError
from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.tasks.code_task import (
    CHAT_INSTRUCTION,
    CodeVerifier,
    first_of,
    optional_text,
    read_problems,
    reference_of,
    text_field,
)

FILES = {"train": "mbpp.jsonl", "validation": "mbpp.jsonl", "test": "mbpp_sanitized.jsonl"}


class Mbpp(CodeVerifier):
    """The task. See the module's docstring for the source of the problems."""

    name = "mbpp"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        if settings.path is None:
            raise ValueError(
                f"task.path is not set; set it to the directory that contains {' and '.join(set(FILES.values()))}"
            )
        self.directory = Path(settings.path)
        for name in FILES.values():
            if not (self.directory / name).is_file():
                raise ValueError(
                    f"task.path: no file {name} in {self.directory}; set it to the directory that contains it"
                )
        self._cache: dict[str, list[Prompt]] = {}

    def prompts(self, split: str) -> Sequence[Prompt]:
        """Problems of a split, in a fixed order. See ``Task.prompts``."""
        check_split(split)
        if split not in self._cache:
            path = self.directory / FILES[split]
            prompts = read_problems(path, lambda row, place: self._parse(row, place, split))
            if split == "train":
                random.Random(f"mbpp/train/{self.settings.seed}").shuffle(prompts)
            self._cache[split] = first_of(prompts, getattr(self.settings, f"{split}_size"), split)
        return self._cache[split]

    def _parse(self, row: dict[str, Any], place: str, split: str) -> Prompt | None:
        if text_field(row, ("split",), place) != split:
            return None
        name, problem = text_field(row, ("id",), place), text_field(row, ("problem",), place)
        asserts = row.get("tests")
        if not isinstance(asserts, list) or not asserts or not all(isinstance(line, str) for line in asserts):
            raise ValueError(f"{place}: the field 'tests' is not a list of asserts; add at least one")
        source = "\n".join([optional_text(row, "test_setup", place), *asserts]).replace("\r\n", "\n")
        solution = optional_text(row, "solution", place)
        try:
            tests = _tests(source, solution)
        except TestsError as error:
            raise ValueError(f"{place}: {error}; fix the line") from error
        reference = reference_of(tests, tests.names[-1])
        return Prompt(
            name,
            self._text(problem, asserts),
            reference,
            level=str(row.get("subject") or "python"),
            demonstration=self._demonstration(solution) if split == "train" else None,
            row=None if self.settings.reward is None else dict(row),
        )

    def _text(self, problem: str, asserts: list[str]) -> str:
        shown = "\n".join(line.strip() for line in asserts[: self.settings.shown_tests])
        if self.settings.template == "chat":
            return f"{problem.strip()} {CHAT_INSTRUCTION} It must pass:\n\n```python\n{shown}\n```"
        return f'"""\n{problem.strip()}\n{shown}\n"""\n'

    def _demonstration(self, solution: str) -> str | None:
        """The solution as the prompt asks for it: in a block for a chat model, else as the rest of the file."""
        code = solution.replace("\r\n", "\n").strip()
        if not code:
            return None
        return f"```python\n{code}\n```" if self.settings.template == "chat" else f"{code}\n"


def _tests(source: str, solution: str) -> CodeTests:
    """The tests, with the imports and defined names of the reference solution that they use.

    The names are listed because some of them hide a built-in (``sum``) or a module that the tests would otherwise use.
    The imports are those of the solution, because the program could substitute its own modules. Without a solution the
    tests use the names and imports of the program.
    """
    tree, body = _parsed(source, "the tests do"), _parsed(solution, "the solution does").body
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise TestsError("the tests contain no assert; add at least one")
    mentioned = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in mentioned} - {node.id for node in mentioned if isinstance(node.ctx, ast.Store)}
    imports, names = [], []
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports += _imports(node, used)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    names = [name for name in dict.fromkeys(names) if name in used]
    return CodeTests.of("\n".join([*imports, source]), names=names if body else None)


def _parsed(source: str, what: str) -> ast.Module:
    try:
        return ast.parse(source.replace("\r\n", "\n"))
    except (SyntaxError, ValueError) as error:
        raise TestsError(f"{what} not compile: {error}") from error


def _imports(node: ast.Import | ast.ImportFrom, used: set[str]) -> list[str]:
    """The statement, if it binds a name of ``used``."""
    bound = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return [ast.unparse(node)] if bound & used else []
