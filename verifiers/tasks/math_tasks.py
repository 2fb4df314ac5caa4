"""Hendrycks MATH (arXiv 2103.03874) and MATH-500 (Lightman et al., arXiv 2305.20050).

``math`` reads ``math_train.jsonl`` and ``math_test.jsonl`` in ``task.path``: JSON Lines with the fields of the public
set (``problem``, ``solution``, ``level``, ``type``), whose answer is in the last box of the solution, or with ``id``,
``problem``, ``answer``, ``level`` (1 to 5), ``subject`` and ``solution`` (the demonstration for imitation). With
``task.math.split: prm800k`` it also reads ``math_prm800k_train12k_ids.txt``, the ids of the 12,000 training problems;
the other 500 are the test split. ``math500`` reads ``math500.jsonl`` for the test split, and the 12,000 for training.
The validation split is held out of the training problems by a hash of the id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verifiers.mathematics.answers.extraction import boxes
from verifiers.mathematics.grader import grade_math, prepare
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.datasets import Row, read_rows
from verifiers.tasks.file_task import Directory, FileTask
from verifiers.verdict import Status, Verdict

TRAIN_FILE = "math_train.jsonl"
TEST_FILE = "math_test.jsonl"
MATH500_FILE = "math500.jsonl"
IDS_FILE = "math_prm800k_train12k_ids.txt"


class MathTask(FileTask):
    """Base of the tasks with mathematical answers: the prompt's text and the grader."""

    def prompt(
        self, row: Row, identity: str, problem: str, answer: Any, level: str, demonstration: str | None = None
    ) -> Prompt:
        """One problem. ``reference`` has the answer or the list of acceptable answers, and, if the file has one, the
        subject."""
        reference = {} if answer is None else {"answer": answer}
        subject = row.fields.get("subject")
        if isinstance(subject, str) and subject:
            reference["subject"] = subject
        text = problem.strip() + self.settings.instruction
        return Prompt(identity, text, reference, level, demonstration, self.columns(row))

    def prepare(self) -> str:
        """Start the grader's processes before the first answer; returns one line for the log.

        Raises:
            RuntimeError: They do not start.
        """
        return prepare()

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response. It is right if it matches one of the acceptable answers."""
        answer = prompt.reference["answer"]
        if not isinstance(answer, list):
            return self.grade(prompt, response, answer)
        return any_of(self.grade(prompt, response, one) for one in answer)

    def grade(self, prompt: Prompt, response: str, answer: str) -> Verdict:
        """Grade one response against one answer with ``grade_math``, under ``task.math.policy``."""
        return grade_math(
            response,
            answer,
            timeout_s=self.settings.math.timeout_s,
            policy=self.settings.math.policy,
            question=prompt.text if self.settings.math.refuse_copies else None,
        )


def any_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The first correct verdict, else the first verifier failure, else the first verdict. Seconds are added up."""
    seconds, chosen = 0.0, None
    for verdict in verdicts:
        seconds += verdict.seconds
        if verdict.status is Status.CORRECT:
            chosen = verdict
            break
        if chosen is None or (verdict.status is Status.VERIFIER_ERROR and chosen.status is not Status.VERIFIER_ERROR):
            chosen = verdict
    if chosen is None:
        raise ValueError("there is no reference answer to grade against")
    return replace(chosen, seconds=seconds)


class Math(MathTask):
    """Hendrycks MATH. See the module's docstring."""

    name = "math"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        files = [TRAIN_FILE, TEST_FILE] + ([IDS_FILE] if settings.math.split == "prm800k" else [])
        self.directory = Directory(settings, files)

    def read(self, split: str) -> list[Prompt]:
        """Problems of a split with the selected levels and subjects, without the two whose answer is empty."""
        if self.settings.math.split == "hendrycks":
            return self._filtered(self._file(TEST_FILE if split == "test" else TRAIN_FILE))
        listed = self.directory.file(IDS_FILE)
        ids = read_ids(listed)
        both = self._file(TRAIN_FILE) + self._file(TEST_FILE)
        missing = ids - {prompt.id for prompt in both}
        # The two problems without an answer are not in ``both`` but may be listed.
        if len(missing) > 2:
            raise ValueError(
                f"{listed} names {len(missing)} problems that neither {TRAIN_FILE} nor {TEST_FILE} "
                f"contains (such as {min(missing)!r}); use files of the same version, with these ids"
            )
        return self._filtered([prompt for prompt in both if (prompt.id in ids) == (split == "train")])

    def _file(self, name: str) -> list[Prompt]:
        prompts = []
        rows = read_rows(
            self.directory.file(name),
            ("problem", "answer"),
            identity="id",
            numbers=True,
            may_be_empty=("answer",),
            may_lack_identity=True,
            notes={"answer": "or a field 'solution' with the answer in \\boxed{}"},
            convert=_converted,
        )
        for number, row in enumerate(rows, start=1):
            identity = row.fields.get("id") or f"{'train' if name == TRAIN_FILE else 'test'}/{number}"
            problem, answer = row.fields["problem"], row.fields["answer"]
            level = str(row.fields.get("level") or "?")  # three problems of MATH have no level
            if answer.strip():
                level = f"level {level.removeprefix('Level ')}"
                prompts.append(self.prompt(row, identity, problem, answer.strip(), level, _solution(row)))
        return prompts

    def notes(self, split: str) -> list[str]:
        """See ``FileTask``."""
        files = TEST_FILE if split == "test" else TRAIN_FILE
        if self.settings.math.split == "prm800k":
            files = f"{TRAIN_FILE} and {TEST_FILE}"
        return [f"from {files}", *super().notes(split)]

    def _filtered(self, prompts: list[Prompt]) -> list[Prompt]:
        levels, subjects = self.settings.math.levels, self.settings.math.subjects
        kept = [
            prompt
            for prompt in prompts
            if (levels is None or prompt.level in {f"level {level}" for level in levels})
            and (subjects is None or prompt.reference.get("subject") in subjects)
        ]
        if not kept:
            known = sorted({prompt.reference.get("subject", "") for prompt in prompts})
            raise ValueError(
                f"task.math.levels {levels} and task.math.subjects {subjects} select no problem; known subjects: "
                f"{known}"
            )
        return kept


class Math500(Math):
    """The 500 problems as the test split; training and validation from the 12,000 others."""

    name = "math500"

    def __init__(self, settings: TaskSettings) -> None:
        MathTask.__init__(self, settings)
        self.directory = Directory(settings, [MATH500_FILE])

    def read(self, split: str) -> list[Prompt]:
        """The 500 problems, or the 12,000 from the files of task math."""
        if split == "test":
            return self._filtered(self._file(MATH500_FILE))
        Directory(self.settings, [TRAIN_FILE, TEST_FILE, IDS_FILE])
        settings = self.settings.math.model_copy(update={"split": "prm800k"})
        return Math(self.settings.model_copy(update={"math": settings})).read(split)

    def notes(self, split: str) -> list[str]:
        """See ``FileTask``."""
        files = MATH500_FILE if split == "test" else f"{TRAIN_FILE} and {TEST_FILE}"
        return [f"from {files}", *FileTask.notes(self, split)]


def read_ids(path: Path) -> set[str]:
    """Ids, one per line.

    Raises:
        ValueError: The file has none, or a duplicate.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    ids = set(lines)
    if not ids or len(ids) != len(lines):
        raise ValueError(f"{path} contains no ids, or a duplicate; write one id per line")
    return ids


def _converted(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the names of the module's docstring, from one of the public sets MATH or MATH-500."""
    fields, solution = dict(row), row.get("solution")
    fields.setdefault("id", row.get("unique_id"))
    fields.setdefault("subject", row.get("type"))
    if "answer" not in row and isinstance(solution, str) and (found := boxes(solution)):
        fields["answer"] = found[-1]
    return fields


def _solution(row: Row) -> str | None:
    solution = row.fields.get("solution")
    return solution.strip() or None if isinstance(solution, str) else None
