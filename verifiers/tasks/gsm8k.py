"""GSM8K: grade-school word problems with one exact number as answer (Cobbe et al. 2021, arXiv 2110.14168).

Read from ``gsm8k_train.jsonl`` and ``gsm8k_test.jsonl`` in ``task.path``: JSON Lines with the fields of the public set
(``question``, and ``answer`` with the number after ``####``), or with ``id``, ``problem``, ``answer`` (a number) and
``solution``. The worked solution, if it is there, is the demonstration for imitation, without the calculator's
annotations (``<<48/2=24>>``). The validation split is held out of the training file by a hash of the id, so it does not
depend on the seed.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

from verifiers.mathematics.answers.denials import is_negated
from verifiers.mathematics.answers.extraction import extract, final_part, without_emphasis, without_headings
from verifiers.mathematics.grader import canonical
from verifiers.mathematics.parsing.answer import parse_answer
from verifiers.mathematics.parsing.compound import compound
from verifiers.mathematics.parsing.normalization import normalize
from verifiers.mathematics.parsing.units import without_currency
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.datasets import Row, read_rows
from verifiers.tasks.file_task import Directory, FileTask
from verifiers.verdict import Status, Verdict

FILES = {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}
MAX_NUMBER_CHARS = 40
"""Longer numerals are rejected before they become integers; no answer of GSM8K has more than 12 characters."""

MAX_LINE_CHARS = 400
"""A longer final line is not an answer."""

# Thousands in groups of three, or plain digits; then decimals. No sign after a digit: "5-3" ends in 3.
_NUMBER = re.compile(r"(?<![0-9])-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+")
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")
_RATIO = re.compile(r"\d\s*:\s*\d")


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


def reference_number(text: str) -> Fraction | None:
    """The number of a reference: a numeral, the number after ``####`` as in the data set, or an announced or boxed one;
    None otherwise, even if other numbers are in the text."""
    plain = parse_number(text)
    if plain is not None:
        return plain
    found = extract(text, prose=False)
    return extract_number(text) if "####" in text or found.source in ("box", "phrase") else None


def extract_number(response: str) -> Fraction | None:
    r"""The final number of a response: one answer, or None, by the policy of the math grader.

    The first of these that is present decides: the rest of the line after the last ``####``; all ``\boxed{}``, which
    must agree; the text after "the answer is"; the last number. Reasoning between think tags is ignored. None if the
    deciding place has several numbers, or a negated one ("not 5").
    """
    text = without_headings(_ANNOTATION.sub("", final_part(response)))
    if "####" in text:
        lines = text.rsplit("####", 1)[1].strip().splitlines()
        return _value(lines[0]) if lines else None
    found = extract(text)
    values = {_value(candidate) for candidate in found.candidates}
    return values.pop() if len(values) == 1 else None


def _value(text: str) -> Fraction | None:
    r"""The number in a line: a numeral, a formula such as ``10/2`` or ``\frac12``, or one number among words."""
    text = normalize(without_currency(without_emphasis(text))[0]) if len(text) <= MAX_LINE_CHARS else ""
    text = _RATE.sub("", text.rstrip("!"))  # "12!" is no factorial here
    plain = parse_number(text)
    if plain is not None or not text:
        return plain
    parsed = parse_answer(text.rstrip("%"))
    # The number of "20 dollars and 50 cents" depends on the unit, which references leave out.
    if parsed.node is not None and not _RATIO.search(text) and compound(text) is None:
        if parsed.node.kind == "percent":  # as "12%", the sign counts as a unit
            parsed = replace(parsed, node=parsed.node.args[0])
        answer = canonical(parsed, text)
        return Fraction(answer) if _FRACTION.fullmatch(answer) else None
    return _only_number(text)


_BOUND = re.compile(r"(?:[<>~]|\\(?:[lg]e|ne)) *$")  # at least 5
_OPEN_END = re.compile(r" *\+|-(?![A-Za-z])")  # 5+ and 5-, but a 5-year plan
_RATE = re.compile(r"(?<=\d) ?(?:/ ?|per )[A-Za-z]{2,20}$")  # $12/hour
_POWER = re.compile(r" *(?:squared|cubed|halves|thirds|tenths|hundredths|thousandths)\b", re.IGNORECASE)
_FRACTION = re.compile(r"-?\d{1,40}(?:/0*[1-9]\d{0,39})?")


def _only_number(text: str) -> Fraction | None:
    found = list(_NUMBER.finditer(text))
    if len({match.group() for match in found}) != 1 or is_negated(text, *found[-1].span()):
        return None
    before, after = text[: found[-1].start()], text[found[-1].end() :]
    other = any((_BOUND.search(before), _OPEN_END.match(after), _POWER.match(after)))
    adjacent = set(before[-1:] + after[:1])
    return None if other or adjacent & set("/*^:_\\=") else parse_number(found[-1].group())


class Gsm8k(FileTask):
    """The task. See the module's docstring for the source of the problems."""

    name = "gsm8k"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.directory = Directory(settings, tuple(FILES.values()))

    def read(self, split: str) -> list[Prompt]:
        """All problems of a file."""
        rows = read_rows(
            self.directory.file(FILES[split]),
            ("problem", "answer"),
            identity="id",
            numbers=True,
            may_lack_identity=True,
            convert=_converted,
        )
        return [self._prompt(row, f"{split}/{number}") for number, row in enumerate(rows, start=1)]

    def _prompt(self, row: Row, number: str) -> Prompt:
        fields = row.fields
        answer = reference_number(fields["answer"])
        if answer is None:
            raise ValueError(
                f"{row.place}: the answer {fields['answer']!r} is not a number; put only the final number there"
            )
        text = fields["problem"].strip() + self.settings.instruction
        level = fields.get("level") or fields.get("subject") or "all"
        solution = fields.get("solution")
        shown = _ANNOTATION.sub("", solution).strip() if isinstance(solution, str) else None
        return Prompt(
            fields.get("id") or number, text, {"answer": str(answer)}, str(level), shown or None, self.columns(row)
        )

    def notes(self, split: str) -> list[str]:
        """See ``FileTask``."""
        return [f"from {FILES['test' if split == 'test' else 'train']}", *super().notes(split)]

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response by its final number, compared exactly."""
        return grade(response, Fraction(prompt.reference["answer"]))


def _converted(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the names of the module's docstring; one of the public set has its worked solution as the answer."""
    fields, answer = dict(row), row.get("answer")
    fields.setdefault("problem", row.get("question"))
    if isinstance(answer, str) and answer.strip().find("####") > 0:
        fields.setdefault("solution", answer)
    return fields


def grade(response: str, reference: Fraction) -> Verdict:
    """Grade a response by its final number, which must equal the reference exactly."""
    start = time.perf_counter()
    value = extract_number(response)
    seconds = time.perf_counter() - start
    if value is None:
        return Verdict.binary(Status.UNPARSABLE, seconds=seconds, detail="no final number found, or several")
    right = value == reference
    status = Status.CORRECT if right else Status.WRONG
    return Verdict.binary(
        status, answer=str(value), seconds=seconds, detail="" if right else f"the answer is {reference}"
    )
