"""Base of the tasks that read files: their splits, and what is printed about them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.tasks.datasets import HUB, Faults, Row, local_file

VALIDATION_SIZE = 500
VALIDATION_SHARE = 0.1


def by_hash(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The problems in the order of a hash of their ids."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())


def hold_out(prompts: Sequence[Prompt], wanted: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Split a file's problems into training and validation by a hash of the id, so no seed moves a problem.

    Args:
        prompts: The problems of the training file.
        wanted: Size of the validation split, at most half of the file. None: a tenth of the file, from 1 to 500. 0: all
            problems are for training.

    Returns:
        The training problems and the validation problems, each in the order of the hash.
    """
    ordered = by_hash(prompts)
    default = min(max(int(len(ordered) * VALIDATION_SHARE), 1), VALIDATION_SIZE)
    count = min(default if wanted is None else wanted, len(ordered) // 2)
    return ordered[count:], ordered[:count]


class FileTask:
    """What the tasks that read files share: splits made when asked, held in memory, cut to the sizes that are set.

    A subclass gives ``name`` and ``read``; it overrides ``validation`` where they have a file of
    their own.

    Attributes:
        held_out: Training problems that were kept for validation, known once the train split was made.
        faults: The bad lines that were skipped, by the split of the file.
    """

    name: str
    held_out = 0

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.faults: dict[str, Faults] = {}
        self._cache: dict[str, list[Prompt]] = {}

    def read(self, split: str) -> list[Prompt]:
        """All problems of ``train`` or ``test``, in the order of the file."""
        raise NotImplementedError

    def validation(self) -> list[Prompt] | None:
        """Validation problems from a file of their own; None: they are held out of the training problems."""
        return None

    def training(self) -> list[Prompt]:
        """All problems to train on and to hold out for validation."""
        return self.read("train")

    def testing(self) -> list[Prompt]:
        """All test problems."""
        return self.read("test")

    def prompts(self, split: str) -> Sequence[Prompt]:
        """Problems of a split, in a fixed order. See ``Task.prompts``."""
        check_split(split)
        if split not in self._cache:
            self._cache[split] = self._make(split)
        return self._cache[split]

    def columns(self, row: Row) -> dict[str, Any] | None:
        """The columns of a row for ``Prompt.row``; None if no reward of the user reads them."""
        return None if self.settings.reward is None else row.columns

    def notes(self, split: str) -> list[str]:
        """Where the problems of a split come from and which were left out, once it was made."""
        found = []
        if split == "train":
            found += [f"{self.held_out:,} held out for validation"] if self.held_out else []
            found.append(f"order by task.seed = {self.settings.seed}")
        return found

    def warnings(self, split: str) -> list[str]:
        """What is doubtful about a split, once it was made."""
        return []

    def _make(self, split: str) -> list[Prompt]:
        size = getattr(self.settings, f"{split}_size")
        if split == "validation" and size == 0:
            raise ValueError(
                "task.validation_size is 0: every problem is trained on, and none is left for validation; evaluate "
                "with evaluation.split=test, or give a file of validation problems (task.name=jsonl: "
                "task.jsonl.validation) and set task.validation_size=null"
            )
        if split == "test":
            prompts = self.testing()
        else:
            own = self.validation()
            if split == "validation" and own is not None:
                prompts = own
            else:
                train, held_out = (self.training(), []) if own is not None else self._held_out()
                prompts = train if split == "train" else held_out
                size = size or (len(held_out) if split == "validation" else None)
                if split == "train":
                    self.held_out = len(held_out)
                    random.Random(f"{self.name}/train/{self.settings.seed}").shuffle(prompts)
        if size is not None and size > len(prompts):
            raise ValueError(f"task.{split}_size is {size}, but the {split} split has only {len(prompts)}; lower it")
        if not prompts:
            raise ValueError(f"the {split} split of task {self.name!r} is empty; {self._remedy(split)}")
        if split != "train":
            prompts = [
                prompt if prompt.demonstration is None else replace(prompt, demonstration=None) for prompt in prompts
            ]
        return prompts[:size]

    def _remedy(self, split: str) -> str:
        """How an empty split gets problems."""
        if split == "validation" and self.validation() is None and (count := len(self.training())):
            return (
                f"of {count} training problem{'s' * (count > 1)} none can be held out: add problems, or name a file of "
                "validation problems (task.name=jsonl: task.jsonl.validation)"
            )
        return "give it problems or widen the filters"

    def _held_out(self) -> tuple[list[Prompt], list[Prompt]]:
        return hold_out(self.training(), self.settings.validation_size)


def _sequence(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


class Directory:
    """``task.path`` with the files that it must hold: a directory, or ``hf://datasets/OWNER/NAME`` with files of the
    same names, which are fetched when they are first read.

    Raises:
        ValueError: It is not set, or lacks a file.
    """

    def __init__(self, settings: TaskSettings, files: Sequence[str]) -> None:
        if settings.path is None:
            raise ValueError(f"task.path is not set; give the directory that holds {_sequence(files)}")
        self.path = settings.path.rstrip("/")
        for name in files:
            if not self.path.startswith(HUB) and not (Path(self.path) / name).is_file():
                raise ValueError(f"task.path: no file {name} in {self.path}; give the directory that holds it")

    def file(self, name: str) -> Path:
        """One of its files, on this machine. Raises ValueError where it cannot be fetched."""
        return local_file(f"{self.path}/{name}", "task.path")
