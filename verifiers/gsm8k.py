"""GSM8K: grade-school word problems with one exact number as answer (Cobbe et al. 2021, arXiv 2110.14168).

Read from ``gsm8k_train.jsonl`` and ``gsm8k_test.jsonl`` in ``task.path``: JSON Lines with the fields ``id``,
``problem`` and ``answer`` (a number). The validation split is carved out of the training file by a hash
of the id, so it does not depend on the seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.verdict import Status, Verdict

FILES = {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}
VALIDATION_SIZE = 500
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


class Gsm8k:
    """The task. See the module's docstring for the source of the problems."""

    name = "gsm8k"

    def __init__(self, settings: TaskSettings) -> None:
        if settings.path is None:
            raise ValueError(f"task.path is not set; give the directory that holds {' and '.join(FILES.values())}")
        self.settings = settings
        self.directory = Path(settings.path)
        for name in FILES.values():
            if not (self.directory / name).is_file():
                raise ValueError(f"task.path: no file {name} in {self.directory}; give the directory that holds it")
        self._cache: dict[str, list[Prompt]] = {}

    def prompts(self, split: str) -> Sequence[Prompt]:
        """Problems of a split, in a fixed order. See ``Task.prompts``."""
        check_split(split)
        if split not in self._cache:
            self._cache[split] = self._make(split)
        return self._cache[split]

    def _make(self, split: str) -> list[Prompt]:
        prompts = self._read(FILES["test" if split == "test" else "train"])
        size = getattr(self.settings, f"{split}_size")
        if split != "test":
            by_hash = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
            # At most half of the file, so that small files of a user's own keep something to train on.
            held_out = min(self.settings.validation_size or VALIDATION_SIZE, len(by_hash) // 2)
            if split == "validation":
                size = size or held_out
                prompts = by_hash[:held_out]
            else:
                prompts = by_hash[held_out:]
                random.Random(f"gsm8k/train/{self.settings.seed}").shuffle(prompts)
        if size is not None and size > len(prompts):
            raise ValueError(f"task.{split}_size is {size}, but the {split} split has only {len(prompts)}; lower it")
        return prompts[:size]

    def _read(self, name: str) -> list[Prompt]:
        path = self.directory / name
        prompts: dict[str, Prompt] = {}
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                prompt = self._parse(line, f"{path}, line {number}")
                if prompt.id in prompts:
                    raise ValueError(f"{path}, line {number}: the id {prompt.id!r} was seen before; make ids unique")
                prompts[prompt.id] = prompt
        if not prompts:
            raise ValueError(f"{path} holds no problems; give a file with one JSON object a line")
        return list(prompts.values())

    def _parse(self, line: str, place: str) -> Prompt:
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: not a JSON object; each line must be one, with id, problem and answer")
        for field in ("id", "problem", "answer"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise ValueError(f"{place}: the field {field!r} is missing or no text; add it to the line")
        answer = parse_number(row["answer"])
        if answer is None:
            raise ValueError(f"{place}: the answer {row['answer']!r} is no number; put the final number there alone")
        text = row["problem"].strip() + self.settings.instruction
        level = row.get("level") or row.get("subject") or "all"
        return Prompt(row["id"], text, {"answer": _plain(answer)}, str(level))

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
