"""GSM8K: grade-school word problems with one exact number as answer (Cobbe et al. 2021, arXiv 2110.14168).

Read from ``gsm8k_train.jsonl`` and ``gsm8k_test.jsonl`` in ``task.path``: JSON Lines with the fields ``id``,
``problem`` and ``answer`` (a number). The validation split is carved out of the training file by a hash
of the id, so it does not depend on the seed.
"""

from __future__ import annotations

import re
import time
from fractions import Fraction

from verifiers.datasets import Directory, FileTask, Row, read_rows
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.verdict import Status, Verdict

FILES = {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}
MAX_NUMBER_CHARS = 40
"""Longer numerals are refused before they become integers; no answer of GSM8K has more than 12 characters."""

# Every response is cut to its last characters: the answer stands at the end, and time stays bounded.
_TAIL_CHARS = 20_000
# Thousands in groups of three, or plain digits; then decimals. No sign after a digit: "5-3" ends in 3.
_NUMBER = re.compile(r"(?<![0-9])-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+")
_BOXED = re.compile(r"\\boxed *\{([^{}]{0,200})\}")


def parse_number(text: str) -> Fraction | None:
    """The exact value of a numeral such as ``-1,234.50``; None if ``text`` is anything else.

    A dollar sign before and a percent sign or full stop after it are ignored.
    """
    text = text.strip().removeprefix("$").strip().rstrip(".%").strip()
    if text.startswith("-$"):
        text = "-" + text[2:]
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def extract_number(response: str) -> Fraction | None:
    """The final number of a response: after the last ``####``, else in the last ``\\boxed{}``, else the last.

    Where a ``####`` or box is present, it decides: if it holds no number, the answer is None.
    """
    tail = response[-_TAIL_CHARS:]
    if "####" in tail:
        lines = tail.rsplit("####", 1)[1].strip().splitlines()
        return _last_number(lines[0]) if lines else None
    boxed = _BOXED.findall(tail)
    if boxed:
        return _last_number(boxed[-1])
    return _last_number(tail)


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(text.replace("$", "").replace("\\,", "").replace("{,}", ","))
    return parse_number(found[-1]) if found else None


def _plain(value: Fraction) -> str:
    """One spelling per value, so that equal answers count as one vote."""
    return str(value)


class Gsm8k(FileTask):
    """The task. See the module's docstring for the source of the problems."""

    name = "gsm8k"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.directory = Directory(settings, tuple(FILES.values()))

    def read(self, split: str) -> list[Prompt]:
        """All problems of a file."""
        rows = read_rows(self.directory.file(FILES[split]), ("problem", "answer"), identity="id")
        return [self._prompt(row) for row in rows]

    def _prompt(self, row: Row) -> Prompt:
        fields = row.fields
        answer = parse_number(fields["answer"])
        if answer is None:
            raise ValueError(
                f"{row.place}: the answer {fields['answer']!r} is no number; put the final number there alone"
            )
        text = fields["problem"].strip() + self.settings.instruction
        level = fields.get("level") or fields.get("subject") or "all"
        return Prompt(fields["id"], text, {"answer": _plain(answer)}, str(level))

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judge one response by its final number, compared exactly."""
        start = time.perf_counter()
        value = extract_number(response)
        seconds = time.perf_counter() - start
        if value is None:
            return Verdict.binary(Status.UNPARSABLE, seconds=seconds, detail="no final number found")
        right = value == Fraction(prompt.reference["answer"])
        status = Status.CORRECT if right else Status.WRONG
        detail = "" if right else f"the answer is {prompt.reference['answer']}"
        return Verdict.binary(status, answer=_plain(value), seconds=seconds, detail=detail)
