"""A user's own problems: JSON Lines or Parquet files with the fields that ``task.jsonl`` names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from verifiers.mathematics.answers.extraction import extract
from verifiers.settings import TaskSettings
from verifiers.task import SPLITS, Prompt
from verifiers.tasks.datasets import SHOWN_FAULTS, Faults, Reader, Row, local_file, read_rows
from verifiers.tasks.duplicates import duplicates_message, without_duplicates
from verifiers.tasks.fields import any_answer, as_text, dialogue, one_answer, solution
from verifiers.tasks.file_task import by_hash, hold_out
from verifiers.tasks.math_tasks import MathTask
from verifiers.tasks.settings import JsonlSettings
from verifiers.tasks.sources import described, named_files
from verifiers.verdict import Status, Verdict


class Jsonl(MathTask):
    """The task. See ``JsonlSettings``."""

    name = "jsonl"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.files: dict[str, str | list[str] | None] = {split: getattr(settings.jsonl, split) for split in SPLITS}
        self._rows: dict[str, list[Prompt]] = {}
        self._dropped: dict[str, int] = {}
        if not any(self.files.values()):
            raise ValueError("task.jsonl names no file; set task.jsonl.train, task.jsonl.validation or task.jsonl.test")
        for split in self.files:
            self._names(split)

    def _names(self, split: str) -> list[str]:
        """The files of a split; none if the key is not set."""
        value = self.files[split]
        return [] if value is None else named_files(value, f"task.jsonl.{split}")

    def read(self, split: str) -> list[Prompt]:
        """All problems of a split's files."""
        if split not in self._rows:
            self._rows[split] = self._read(split)
        return list(self._rows[split])

    def _read(self, split: str) -> list[Prompt]:
        files = self._names(split)
        if not files:
            raise ValueError(
                f"task.jsonl.{split} is not set; set it to the file of the {split} split"
                + (f", or set task.jsonl.{split}_share" if split != "train" else "")
            )
        names = self.settings.jsonl
        faults = self.faults[split] = Faults(skip=names.skip_bad, key="task.jsonl.skip_bad")
        rows = read_rows(
            [local_file(name, f"task.jsonl.{split}") for name in files],
            (),
            identity=names.id,
            numbers=True,
            may_lack_identity=names.id == JsonlSettings.model_fields["id"].default,
            notes={names.id or "": "task.jsonl.id names the field; task.jsonl.id=null numbers the rows"},
            readers=self._readers(),
            faults=faults,
        )
        prompts = [self._prompt(row, f"{split}/{number}") for number, row in enumerate(rows, start=1)]
        kept = without_duplicates(prompts) if names.drop_duplicates else prompts
        self._dropped[split] = len(prompts) - len(kept)
        return kept

    def _readers(self) -> dict[str, Reader]:
        names = self.settings.jsonl
        read_answer: Callable[[Any], Any] = any_answer if names.answers == "any" else one_answer
        if self.settings.reward is not None:  # a reward of the user reads the rows, with or without an answer
            read_answer = plain_answer
        readers: dict[str, tuple[Any, Callable[..., Any]]] = {
            "problem": (names.problem, problem_of_conversation if self.settings.template == "chat" else _one_text),
            "answer": (names.answer, read_answer),
            "level": (names.level, _text),
            "solution": (names.solution, solution),
        }
        return {
            key: Reader((named,) if isinstance(named, str) else tuple(named), read, f"task.jsonl.{key} names the field")
            for key, (named, read) in readers.items()
            if named is not None
        }

    def _prompt(self, row: Row, number: str) -> Prompt:
        names, values = self.settings.jsonl, row.values
        given = None if names.id is None else row.fields.get(names.id)
        answer = values.get("answer")
        if isinstance(answer, list) and len(answer) == 1 and self.settings.reward is None:
            answer = answer[0]
        identity = number if given is None else given
        level = values.get("level", "all")
        history, problem = values["problem"]
        prompt = self.prompt(row, identity, problem, answer, level, values.get("solution"))
        return replace(prompt, history=history) if history else prompt

    def validation(self) -> list[Prompt] | None:
        """The problems of the validation file, if there is one."""
        return self.read("validation") if self.files["validation"] is not None else None

    def training(self) -> list[Prompt]:
        """The problems of the training file without the share that is held out for the test split."""
        prompts = self.read("train")
        count = self._count(self.settings.jsonl.test_share, prompts)
        return by_hash(prompts)[: len(prompts) - count] if count else prompts

    def testing(self) -> list[Prompt]:
        """The problems of the test file, or those held out of the training file."""
        if self.settings.jsonl.test_share is None:
            return self.read("test")
        prompts = self.read("train")
        return by_hash(prompts)[len(prompts) - self._count(self.settings.jsonl.test_share, prompts) :]

    def _held_out(self) -> tuple[list[Prompt], list[Prompt]]:
        share = self.settings.jsonl.validation_share
        wanted = self.settings.validation_size if share is None else self._count(share, self.read("train"))
        return hold_out(self.training(), wanted)

    @staticmethod
    def _count(share: float | None, prompts: list[Prompt]) -> int:
        return 0 if share is None else max(1, round(share * len(prompts)))

    def notes(self, split: str) -> list[str]:
        """See ``FileTask``."""
        shares = self.settings.jsonl
        held = self.files[split] is None
        source = "train" if held else split
        named = described(self.files[source] or "", len(self._names(source)))
        notes = [f"held out of {named} by a hash of the id" if held else f"from {named}"]
        notes += super().notes(split)[:-1] if split == "train" else []
        if split == "train" and shares.test_share is not None:
            notes.append(f"{self._count(shares.test_share, self.read('train')):,} held out for the test split")
        if skipped := self.faults[source].count:
            notes.append(f"{skipped:,} bad lines skipped")
        if dropped := self._dropped[source]:
            notes.append(f"{dropped:,} duplicates dropped")
        return notes + super().notes(split)[-1:]

    def warnings(self, split: str) -> list[str]:
        """See ``FileTask``."""
        source = "train" if self.files[split] is None else split
        found, faults = [], self.faults[source]
        if faults.count:
            found.append(f"task.jsonl.{source}: {faults.count:,} bad lines skipped:\n{faults.listed(SHOWN_FAULTS)}")
        if repeated := duplicates_message(self.prompts(split)):
            found.append(f"task.jsonl.{source}: {repeated}; task.jsonl.drop_duplicates=true keeps the first of each")
        return found

    def grade(self, prompt: Prompt, response: str, answer: str) -> Verdict:
        """Grade one response against one answer with the verifier ``task.jsonl.verifier``."""
        if self.settings.jsonl.verifier == "math":
            return super().grade(prompt, response, answer)
        return exact(response, answer, prose=self.settings.math.policy.prose)


def plain_answer(value: Any) -> Any:
    """An answer for a reward of the user: as text if it is a number or a list with one element, else unchanged."""
    try:
        return as_text(value, numbers=True, may_be_empty=True).strip()
    except ValueError:
        return value


def _text(value: Any) -> str:
    return as_text(value, numbers=True, may_be_empty=False)


_Problem = tuple[tuple[tuple[str, str], ...], str]  # the messages before the problem, and its text


def _problem(first: Any, *more: Any) -> _Problem:
    """The texts of the fields, separated by blank lines; all but the first may be missing."""
    texts = [as_text(value, numbers=True, may_be_empty=True) for value in more if value is not None]
    return (), "\n\n".join(text.strip() for text in [_text(first), *texts] if text.strip())


def _one_text(first: Any, *more: Any) -> _Problem:
    """The problem for ``task.template: plain``, which has no turns: a system message becomes part of the text."""
    history, _ = dialogue(first) or ((), "")
    if any(role != "system" for role, _ in history):
        raise ValueError(
            f"is a conversation of {len(history) + 1} messages before the solution, and task.template=plain renders "
            "one text; set task.template=chat, or leave the row out"
        )
    return _problem(first, *more)


def problem_of_conversation(first: Any, *more: Any) -> _Problem:
    """The messages of a conversation, for a chat template. The texts of further fields follow the last one."""
    found = dialogue(first)
    if found is None:
        return _problem(first, *more)
    history, text = found
    return history, _problem(text, *more)[1]


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
