"""Files of problems: JSON Lines in, prompts out, and errors that name the file, the lines and the remedy."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.tasks.fields import as_text, lookup

VALIDATION_SIZE = 500
VALIDATION_SHARE = 0.1
HUB = "hf://datasets/"
MOST_FAULTS = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file. ``place`` is its file and line, for messages; ``columns`` are the fields as they were read,
    which a user's reward gets."""

    place: str
    fields: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=dict)


def _sequence(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


class _Faults:
    """The bad lines of a file, refused together: the first of them, and how many more there are."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, fault: str) -> None:
        self.count += 1
        if len(self.first) < MOST_FAULTS:
            self.first.append(fault)

    def refuse(self) -> None:
        """Raises ValueError where there is a fault."""
        more = self.count - len(self.first)
        if self.first:
            raise ValueError("\n".join([*self.first, *([f"and {more} more bad lines"] if more else [])]))


@dataclass(slots=True)
class _Check:
    """What every row of a file must hold; see ``read_rows``. ``absent`` is the name of an id field that no row has."""

    fields: Sequence[str]
    identity: str | None
    numbers: bool
    may_be_empty: Sequence[str]
    may_lack_identity: bool
    notes: Mapping[str, str]
    absent: str | None = None
    seen: dict[str, str] = field(default_factory=dict)

    def __call__(self, row: Row) -> None:
        """Puts the texts of the fields into the row. Raises ValueError where one is missing or wrong."""
        if self.may_lack_identity and self.identity is not None:
            self.may_lack_identity = False  # the first row decides
            if lookup(row.fields, self.identity) is None:
                self.identity, self.absent = None, self.identity
        if self.absent is not None and lookup(row.fields, self.absent) is not None:
            raise ValueError(self._message(row, self.absent, "is set, but not in the first row; set it in all or none"))
        for name in self.fields if self.identity is None else (self.identity, *self.fields):
            try:
                value = lookup(row.fields, name)
                row.fields[name] = as_text(value, numbers=self.numbers, may_be_empty=name in self.may_be_empty)
            except ValueError as error:
                raise ValueError(self._message(row, name, str(error))) from error
        if self.identity is not None:
            self._unique(row, row.fields[self.identity])

    def _unique(self, row: Row, name: str) -> None:
        if name in self.seen:
            raise ValueError(f"{row.place}: the id {name!r} was seen before ({self.seen[name]}); make ids unique")
        self.seen[name] = row.place.rpartition(", ")[2]

    def _message(self, row: Row, name: str, fault: str) -> str:
        note = f" ({self.notes[name]})" if name in self.notes else ""
        return f"{row.place}: the field {name!r} {fault}{note}"


def read_rows(
    path: Path,
    fields: Sequence[str],
    *,
    identity: str | None,
    numbers: bool = False,
    may_be_empty: Sequence[str] = (),
    may_lack_identity: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Checked objects of a file of problems, in order.

    Args:
        path: The file; see ``read_objects``.
        fields: Fields that every object must have as text; see ``lookup`` and ``as_text``. The text is put into
            ``Row.fields`` under the same name.
        identity: One more such field, which must differ from object to object; None: there is none.
        numbers: Whether a number is accepted where text is expected; it becomes text.
        may_be_empty: Fields that may be empty text.
        may_lack_identity: Whether ``identity`` may be missing, from all objects or none.
        notes: By field, what a message about it adds: the configuration's key that names it.

    Raises:
        ValueError: The file is missing or empty, or lines are no JSON object, lack a field, or repeat an id. Raised
            after the good rows; the message names the file, every bad line and the remedy.
    """
    check = _Check(fields, identity, numbers, may_be_empty, may_lack_identity, notes or {})
    faults = _Faults()
    empty = True
    for found in _objects(path, faults):
        row = Row(found.place, found.fields, dict(found.fields))
        empty = False
        try:
            check(row)
        except ValueError as error:
            faults.add(str(error))
        else:
            yield row
    faults.refuse()
    if empty:
        raise ValueError(f"{path} holds no problems; give a file with one JSON object a line")


def read_checked(path: Path, check: Callable[[Row], T]) -> list[T]:
    """What `check` makes of every object of a file (see ``read_objects``).

    Raises:
        ValueError: The file cannot be read, or lines are no JSON objects or refused by `check`, which raises ValueError
            (the message has every bad line).
    """
    faults = _Faults()
    checked = []
    for row in _objects(path, faults):
        try:
            checked.append(check(row))
        except ValueError as error:
            faults.add(str(error))
    faults.refuse()
    return checked


def read_objects(path: Path) -> Iterator[Row]:
    """Objects of a JSON Lines file (``.gz`` too) or rows of a Parquet file, in order.

    Blank lines and a byte order mark are skipped; a line ends at a line feed and nowhere else.

    Raises:
        ValueError: The file cannot be read, or lines are no JSON objects (file, every bad line and the remedy).
    """
    faults = _Faults()
    yield from _objects(path, faults)
    faults.refuse()


def _objects(path: Path, faults: _Faults) -> Iterator[Row]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{path}, line {number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    row = _parse(text, place) if text.strip() else None
                except UnicodeDecodeError as error:
                    faults.add(f"{place}: not UTF-8 ({error}); save the file as UTF-8")
                except ValueError as error:
                    faults.add(str(error))
                else:
                    if row is not None:
                        yield Row(place, row)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        faults.add(f"{path}, after line {number}: cut off or damaged ({error}); fetch the file again")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give a file that exists") from error


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more digits than Python reads
        raise ValueError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; each line must be one")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); give a file that exists") from error
    for number, row in enumerate(rows, start=1):
        yield Row(f"{path}, row {number}", row)


def local_file(name: str, key: str) -> Path:
    """A file of problems on this machine; ``hf://datasets/OWNER/NAME/FILE`` is fetched into the Hugging Face cache.

    Args:
        name: A path, or such a name. ``@REVISION`` after NAME pins a version.
        key: The configuration's key, for messages.

    Raises:
        ValueError: The name is malformed, or the file is neither in the cache nor to be had.
    """
    if not name.startswith(HUB):
        return Path(name)
    owner, _, rest = name.removeprefix(HUB).partition("/")
    dataset, _, file = rest.partition("/")
    dataset, _, revision = dataset.partition("@")
    if not (owner and dataset and file):
        raise ValueError(f"{key} is {name}; write {HUB}OWNER/NAME/FILE, such as {HUB}openai/gsm8k/main/test.parquet")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(f"{owner}/{dataset}", file, repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{key} is {name}, which cannot be fetched ({reason}); download the file where there is a network, and "
            "give its path"
        ) from error


def hold_out(prompts: Sequence[Prompt], wanted: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Split a file's problems into training and validation by a hash of the id, so no seed moves a problem.

    Args:
        prompts: The problems of the training file.
        wanted: Size of the validation split, at most half of the file. None: a tenth of the file, from 1 to 500. 0: all
            problems are for training.

    Returns:
        The training problems and the validation problems, each in the order of the hash.
    """
    by_hash = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
    default = min(max(int(len(by_hash) * VALIDATION_SHARE), 1), VALIDATION_SIZE)
    count = min(default if wanted is None else wanted, len(by_hash) // 2)
    return by_hash[count:], by_hash[:count]


class FileTask:
    """What the tasks that read files share: splits made when asked, held in memory, cut to the sizes that are set.

    A subclass gives ``name`` and ``read``; it overrides ``validation`` where they have a file of
    their own.

    Attributes:
        held_out: Training problems that were kept for validation, known once the train split was made.
    """

    name: str
    held_out = 0

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

    def columns(self, row: Row) -> dict[str, Any] | None:
        """The columns of a row for ``Prompt.row``; None if no reward of the user reads them."""
        return None if self.settings.reward is None else row.columns

    def _make(self, split: str) -> list[Prompt]:
        size = getattr(self.settings, f"{split}_size")
        if split == "validation" and size == 0:
            raise ValueError(
                "task.validation_size is 0: every problem is trained on, and none is left for validation; evaluate "
                "with evaluation.split=test, or give a file of validation problems (task.name=jsonl: "
                "task.jsonl.validation) and set task.validation_size=null"
            )
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
                    self.held_out = len(held_out)
                    random.Random(f"{self.name}/train/{self.settings.seed}").shuffle(prompts)
        if size is not None and size > len(prompts):
            raise ValueError(f"task.{split}_size is {size}, but the {split} split has only {len(prompts)}; lower it")
        if not prompts:
            raise ValueError(f"the {split} split of task {self.name!r} is empty; give it problems or widen the filters")
        return prompts[:size]

    def _held_out(self) -> tuple[list[Prompt], list[Prompt]]:
        return hold_out(self.read("train"), self.settings.validation_size)


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
