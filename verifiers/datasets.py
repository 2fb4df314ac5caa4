"""Files of problems: JSON Lines in, prompts out, and errors that name the file, the line and the mend."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split

VALIDATION_SIZE = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file. ``place`` is its file and line, for messages."""

    place: str
    fields: dict[str, Any]


def _sequence(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def read_rows(
    path: Path,
    fields: Sequence[str],
    *,
    numbers: bool = False,
    may_be_empty: Sequence[str] = (),
) -> Iterator[Row]:
    """Objects of a JSON Lines file, in order; blank lines are skipped.

    Args:
        path: The file, UTF-8.
        fields: Fields that every object must have as text; the first one is its id and must be unique.
        numbers: Whether a number may stand where text is asked; it becomes text.
        may_be_empty: Fields that may be empty text.

    Raises:
        ValueError: The file is missing or empty, a line is no JSON object, lacks a field, or repeats an id. The
            message names the file, the line and the mend.
    """
    seen: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                row = _parse(line, place, fields, numbers, may_be_empty)
                identity = row[fields[0]]
                if identity in seen:
                    raise ValueError(
                        f"{place}: the id {identity!r} was seen before (line {seen[identity]}); make ids unique"
                    )
                seen[identity] = number
                yield Row(place, row)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, after line {max(seen.values(), default=0)}: not UTF-8 ({error}); encode it so"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a file that exists") from error
    if not seen:
        raise ValueError(f"{path} holds no problems; give a file with one JSON object a line")


def _parse(line: str, place: str, fields: Sequence[str], numbers: bool, may_be_empty: Sequence[str]) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; each line must be one, with {_sequence(fields)}")
    for field in fields:
        value = row.get(field)
        if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
            row[field] = value = str(value)
        if not isinstance(value, str) or not (value.strip() or field in may_be_empty):
            raise ValueError(f"{place}: the field {field!r} is missing or no text; add it to the line")
    return row


def hold_out(prompts: Sequence[Prompt], wanted: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Split a file's problems into training and validation by a hash of the id, so no seed moves a problem.

    Args:
        prompts: The problems of the training file.
        wanted: Size of the validation split, None for 500. At most half of the file is held out, so that small
            files keep something to train on.

    Returns:
        The training problems and the validation problems, each in the order of the hash.
    """
    by_hash = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
    count = min(wanted or VALIDATION_SIZE, len(by_hash) // 2)
    return by_hash[count:], by_hash[:count]


class FileTask:
    """What the tasks that read files share: splits made when asked, held in memory, cut to the sizes that are set.

    A subclass gives ``name`` and ``read``; it overrides ``validation`` where they have a file of
    their own.
    """

    name: str

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self._cache: dict[str, list[Prompt]] = {}

    def read(self, split: str) -> list[Prompt]:
        """All problems of ``train`` or ``test``, in the order of the file."""
        raise NotImplementedError

    def validation(self) -> list[Prompt] | None:
        """Validation problems from a file of their own; None: they are held out of the training problems."""
        return None

    def prompts(self, split: str) -> Sequence[Prompt]:
        """Problems of a split, in a fixed order. See ``Task.prompts``."""
        check_split(split)
        if split not in self._cache:
            self._cache[split] = self._make(split)
        return self._cache[split]

    def _make(self, split: str) -> list[Prompt]:
        size = getattr(self.settings, f"{split}_size")
        if split == "test":
            prompts = self.read("test")
        else:
            own = self.validation()
            if split == "validation" and own is not None:
                prompts = own
            else:
                train, held_out = (self.read("train"), []) if own is not None else self._held_out()
                prompts = train if split == "train" else held_out
                size = size or (len(held_out) if split == "validation" else None)
                if split == "train":
                    random.Random(f"{self.name}/train/{self.settings.seed}").shuffle(prompts)
        if size is not None and size > len(prompts):
            raise ValueError(f"task.{split}_size is {size}, but the {split} split has only {len(prompts)}; lower it")
        if not prompts:
            raise ValueError(f"the {split} split of task {self.name!r} is empty; give it problems or widen the filters")
        return prompts[:size]

    def _held_out(self) -> tuple[list[Prompt], list[Prompt]]:
        return hold_out(self.read("train"), self.settings.validation_size)


def directory_of(settings: TaskSettings, files: Sequence[str]) -> Path:
    """``task.path`` with the files that it must hold.

    Raises:
        ValueError: It is not set, or lacks a file.
    """
    if settings.path is None:
        raise ValueError(f"task.path is not set; give the directory that holds {_sequence(files)}")
    directory = Path(settings.path)
    for name in files:
        if not (directory / name).is_file():
            raise ValueError(f"task.path: no file {name} in {directory}; give the directory that holds it")
    return directory
