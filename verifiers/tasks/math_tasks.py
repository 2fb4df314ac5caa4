"""Hendrycks MATH (arXiv 2103.03874), MATH-500 (Lightman et al., arXiv 2305.20050) and a user's own problems.

``math`` reads ``math_train.jsonl`` and ``math_test.jsonl`` in ``task.path``: JSON Lines with ``id``, ``problem``,
``answer``, ``level`` (1 to 5) and ``subject``. With ``task.math.split: prm800k`` it also reads
``math_prm800k_train12k_ids.txt``, the ids of the 12,000 training problems; the other 500 are the test split.
``math500`` reads ``math500.jsonl`` for the test split, and the 12,000 for training. ``jsonl`` reads the files that
``task.jsonl`` names. The validation split is held out of the training problems by a hash of the
id, unless ``task.jsonl`` names a file for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from verifiers.mathematics.answers.extraction import extract
from verifiers.mathematics.grader import grade_math, prepare
from verifiers.settings import JsonlSettings, TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.datasets import HUB, Directory, FileTask, Row, local_file, read_rows
from verifiers.tasks.fields import as_text, lookup
from verifiers.verdict import Status, Verdict

TRAIN_FILE = "math_train.jsonl"
TEST_FILE = "math_test.jsonl"
MATH500_FILE = "math500.jsonl"
IDS_FILE = "math_prm800k_train12k_ids.txt"


class MathTask(FileTask):
    """Base of the tasks with mathematical answers: the prompt's text and the grader."""

    def prompt(self, row: Row, identity: str, problem: str, answer: Any, level: str) -> Prompt:
        """One problem. ``reference`` has the answer and, if the file has one, the subject."""
        reference = {"answer": answer.strip() if isinstance(answer, str) else answer}
        subject = row.fields.get("subject")
        if isinstance(subject, str) and subject:
            reference["subject"] = subject
        text = problem.strip() + self.settings.instruction
        return Prompt(identity, text, reference, level, row=self.columns(row))

    def prepare(self) -> str:
        """Start the grader's processes before the first answer; returns one line for the log.

        Raises:
            RuntimeError: They do not start.
        """
        return prepare()

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response with ``grade_math``, under ``task.math.policy``."""
        return grade_math(
            response,
            prompt.reference["answer"],
            timeout_s=self.settings.math.timeout_s,
            policy=self.settings.math.policy,
            question=prompt.text if self.settings.math.refuse_copies else None,
        )


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
                f"contains (such as {min(missing)!r}); use files of the same version"
            )
        return self._filtered([prompt for prompt in both if (prompt.id in ids) == (split == "train")])

    def _file(self, name: str) -> list[Prompt]:
        prompts = []
        fields = ("problem", "answer")
        for row in read_rows(self.directory.file(name), fields, identity="id", numbers=True, may_be_empty=("answer",)):
            identity, problem, answer = (row.fields[field] for field in ("id", *fields))
            level = str(row.fields.get("level") or "?")  # three problems of MATH have no level
            if answer.strip():
                prompts.append(self.prompt(row, identity, problem, answer, f"level {level.removeprefix('Level ')}"))
        return prompts

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


class Jsonl(MathTask):
    """A user's own files. See ``JsonlSettings``."""

    name = "jsonl"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.files = {split: getattr(settings.jsonl, split) for split in ("train", "validation", "test")}
        if not any(self.files.values()):
            raise ValueError("task.jsonl names no file; set task.jsonl.train, task.jsonl.validation or task.jsonl.test")
        for split, name in self.files.items():
            if name is not None and not name.startswith(HUB) and not Path(name).is_file():
                raise ValueError(f"task.jsonl.{split}: no file {name}; set it to a JSON Lines or Parquet file")

    def read(self, split: str) -> list[Prompt]:
        """All problems of a split's file."""
        name = self.files[split]
        if name is None:
            raise ValueError(f"task.jsonl.{split} is not set; set it to the file of the {split} split")
        names = self.settings.jsonl
        graded = self.settings.reward is None  # else a reward of the user reads the rows, with or without an answer
        fields = [names.problem, *([names.answer] if graded else []), *([names.level] if names.level else [])]
        notes = {getattr(names, key): f"task.jsonl.{key} names the field" for key in ("level", "answer", "problem")}
        rows = read_rows(
            local_file(name, f"task.jsonl.{split}"),
            fields,
            identity=names.id,
            numbers=True,
            may_lack_identity=names.id == JsonlSettings.model_fields["id"].default,
            notes=notes | {names.id: "task.jsonl.id names the field; task.jsonl.id=null numbers the rows"},
        )
        prompts = []
        for number, row in enumerate(rows, start=1):
            given = None if names.id is None else row.fields.get(names.id)
            identity = f"{split}/{number}" if given is None else given
            level = row.fields[names.level] if names.level is not None else "all"
            answer = row.fields[names.answer] if graded else plain_value(lookup(row.columns, names.answer))
            prompts.append(self.prompt(row, identity, row.fields[names.problem], answer, level))
        return prompts

    def validation(self) -> list[Prompt] | None:
        """The problems of the validation file, if there is one."""
        return self.read("validation") if self.files["validation"] is not None else None

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response with the verifier ``task.jsonl.verifier``."""
        if self.settings.jsonl.verifier == "math":
            return super().verify(prompt, response)
        return exact(response, prompt.reference["answer"], prose=self.settings.math.policy.prose)


def exact(response: str, reference: str, *, prose: bool = True) -> Verdict:
    """Grade a response by its final answer, which must equal the reference up to whitespace."""
    started = time.perf_counter()
    found = extract(response, prose=prose)
    answers = {" ".join(candidate.split()) for candidate in found.candidates}
    if not answers:
        return Verdict.binary(Status.UNPARSABLE, seconds=time.perf_counter() - started, detail=found.detail)
    right = answers == {" ".join(reference.split())}
    status = Status.CORRECT if right else Status.WRONG
    return Verdict.binary(status, answer=" ".join(found.candidates[-1].split()), seconds=time.perf_counter() - started)


def plain_value(value: Any) -> Any:
    """A row's answer for a reward of the user: as text if it is a number or a list with one element, else unchanged."""
    try:
        return as_text(value, numbers=True, may_be_empty=True)
    except ValueError:
        return value


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
