"""Reads rows from files of problems, and refuses or skips bad lines with messages that name the file and the line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from verifiers.tasks.fields import as_text, json_value, lookup

HUB = "hf://datasets/"
MAX_FAULTS = 20
SHOWN_FAULTS = 5  # where all lines are bad, or bad lines are skipped
SHOWN_FIELDS = 12
PARQUET_ROWS = 4096  # read at a time

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file.

    Attributes:
        place: Its file and line, for messages.
        number: Of its line, from 1; in Parquet of its row.
        fields: The checked texts by field, and the other fields as they are.
        columns: All fields as they were read.
        values: What the readers of ``read_rows`` made, by their keys.
    """

    place: str
    number: int
    fields: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads fields of a row as one value.

    Attributes:
        names: The fields.
        read: Makes the value of those of the fields. Raises ValueError with a message that continues a sentence which
            begins with the first field's name.
        note: The configuration's key that names the fields, for messages.
    """

    names: tuple[str, ...]
    read: Callable[..., Any]
    note: str


class Faults:
    """The bad lines of a file: the first of them, and how many more there are.

    Args:
        skip: Whether bad lines are left out instead of refused together. A damaged file is always refused.
        key: The configuration's key that skips them, for messages; empty: there is none.
    """

    def __init__(self, *, skip: bool = False, key: str = "") -> None:
        self.skip = skip
        self.key = key
        self.first: list[str] = []
        self.count = 0

    def add(self, fault: str) -> None:
        """Record a bad line."""
        self.count += 1
        if len(self.first) < MAX_FAULTS:
            self.first.append(fault)

    def refuse(self) -> None:
        """Raises ValueError if there is a bad line, unless bad lines are skipped."""
        if self.first and not self.skip:
            remedy = f"\n{self.key}=true leaves out the lines that cannot be read, and counts them" if self.key else ""
            raise ValueError(self.listed() + remedy)

    def listed(self, most: int = MAX_FAULTS) -> str:
        """The first bad lines, one per line, and the number of the others."""
        shown = self.first[:most]
        more = self.count - len(shown)
        return "\n".join([*shown, *([f"and {more} more bad lines"] if more else [])])


@dataclass(slots=True)
class _Check:
    """What every row of a file must hold; see ``read_rows``. ``absent`` is the name of an id field that no row has."""

    fields: Sequence[str]
    identity: str | None
    numbers: bool
    may_be_empty: Sequence[str]
    may_lack_identity: bool
    notes: Mapping[str, str]
    readers: Mapping[str, Reader]
    absent: str | None = None
    seen: dict[str, str] = field(default_factory=dict)

    def __call__(self, row: Row) -> None:
        """Puts the texts of the fields into the row. Raises ValueError where one is missing or wrong."""
        if self.may_lack_identity and self.identity is not None:
            self.may_lack_identity = False  # the first row decides
            if lookup(row.fields, self.identity) is None:
                self.identity, self.absent = None, self.identity
        if self.absent is not None and lookup(row.fields, self.absent) is not None:
            raise ValueError(
                self._message(row, self.absent, "is set here but not in the first row; set it in all rows or in none")
            )
        for name in self.fields if self.identity is None else (self.identity, *self.fields):
            try:
                value = lookup(row.fields, name)
                row.fields[name] = as_text(value, numbers=self.numbers, may_be_empty=name in self.may_be_empty)
            except ValueError as error:
                raise ValueError(self._message(row, name, f"{error}{_fields_of(row, name)}")) from error
        for key, reader in self.readers.items():
            try:
                row.values[key] = reader.read(*(lookup(row.columns, name) for name in reader.names))
            except ValueError as error:
                name = reader.names[0]
                fault = f"{error}{_fields_of(row, name)} ({reader.note})"
                raise ValueError(f"{row.place}: the field {name!r} {fault}") from error
        if self.identity is not None:
            self._unique(row, row.fields[self.identity])

    def _unique(self, row: Row, name: str) -> None:
        if (earlier := self.seen.get(name)) is not None:
            (file, _, line), here = earlier.rpartition(", "), row.place.rpartition(", ")[0]
            seen = line if file == here else earlier
            note = self.notes.get(self.identity or "")
            remedy = "make ids unique" + (f" ({note})" if note else "")
            raise ValueError(f"{row.place}: the id {name!r} was seen before ({seen}); {remedy}")
        self.seen[name] = row.place

    def _message(self, row: Row, name: str, fault: str) -> str:
        note = f" ({self.notes[name]})" if name in self.notes else ""
        return f"{row.place}: the field {name!r} {fault}{note}"


def _fields_of(row: Row, name: str) -> str:
    """For a message: the fields that a row without the field `name` has."""
    if lookup(row.columns, name) is not None or not row.columns:
        return ""
    return f"; the line has {', '.join(list(row.columns)[:SHOWN_FIELDS])}"


def read_rows(
    path: Path | Sequence[Path],
    fields: Sequence[str],
    *,
    identity: str | None,
    numbers: bool = False,
    may_be_empty: Sequence[str] = (),
    may_lack_identity: bool = False,
    notes: Mapping[str, str] | None = None,
    readers: Mapping[str, Reader] | None = None,
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    faults: Faults | None = None,
) -> Iterator[Row]:
    """Checked objects of files of problems, in order.

    Args:
        path: The file, or several that are read as one; see ``read_objects``.
        fields: Fields that every object must have as text; see ``lookup`` and ``as_text``. The text is put into
            ``Row.fields`` under the same name.
        identity: One more such field, which must differ from object to object; None: there is none.
        numbers: Whether a number is accepted where text is expected; it becomes text.
        may_be_empty: Fields that may be empty text.
        may_lack_identity: Whether ``identity`` may be missing, from all objects or none.
        notes: By field, what a message about it adds: the configuration's key that names it.
        readers: Further values of a row, by their keys in ``Row.values``.
        convert: Gives the columns of an object the names in ``fields`` and ``identity``, where a public set has others.
        faults: Collects the bad lines, and says whether they are skipped; None: they are refused.

    Raises:
        ValueError: The file is missing or empty, or lines are no JSON object, lack a field, or repeat an id. Raised
            after the good rows; the message names the file, every bad line and the remedy.
    """
    check = _Check(fields, identity, numbers, may_be_empty, may_lack_identity, notes or {}, readers or {})
    faults = Faults() if faults is None else faults
    good = 0
    files = [path] if isinstance(path, Path) else list(path)
    source = f"{files[0]}" if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files"
    for found in (found for file in files for found in _objects(file, faults)):
        row = Row(found.place, found.number, convert(found.fields), found.fields)
        try:
            check(row)
        except ValueError as error:
            faults.add(str(error))
        else:
            good += 1
            yield row
    if not good and faults.count > (0 if faults.skip else SHOWN_FAULTS):
        raise ValueError(f"{source}: every line is bad, so no problem is left\n{faults.listed(SHOWN_FAULTS)}")
    faults.refuse()
    if not good:
        raise ValueError(f"{source} holds no problems; give a file with one JSON object a line")


def read_checked(path: Path, check: Callable[[Row], T]) -> list[T]:
    """What `check` makes of every object of a file (see ``read_objects``).

    Raises:
        ValueError: The file cannot be read, or lines are no JSON objects or refused by `check`, which raises ValueError
            (the message has every bad line).
    """
    faults = Faults()
    checked = []
    for row in _objects(path, faults):
        try:
            checked.append(check(row))
        except ValueError as error:
            faults.add(str(error))
    faults.refuse()
    return checked


def read_objects(path: Path) -> Iterator[Row]:
    """Objects of a JSON Lines file (compressed with gzip or not) or rows of a Parquet file, in order.

    Blank lines and a byte order mark are skipped; a line ends at a line feed and nowhere else.

    Raises:
        ValueError: The file cannot be read, or lines are no JSON objects (file, every bad line and the remedy).
    """
    faults = Faults()
    yield from _objects(path, faults)
    faults.refuse()


_GZIP = b"\x1f\x8b"
# What files that are named .jsonl by mistake begin with.
_NOT_LINES = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zX": "compressed with xz",
    b"ARRO": "an Arrow file",
}


def _first_bytes(path: Path) -> bytes:
    """The four bytes that tell the format of a file, whatever its name says; empty if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""  # the reader below names the reason


def _objects(path: Path, faults: Faults) -> Iterator[Row]:
    start = _first_bytes(path)
    if path.suffix == ".parquet" or start == b"PAR1":
        yield from _parquet_rows(path)
        return
    if (found := next((name for magic, name in _NOT_LINES.items() if start.startswith(magic)), None)) is not None:
        raise ValueError(f"{path} is {found}; save it as JSON Lines in UTF-8, which may be compressed with gzip")
    if start and (problem := _table(path)):
        raise ValueError(problem)
    number, empty = 0, True
    try:
        with gzip.open(path) if start[:2] == _GZIP else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{path}, line {number}"
                if empty and (first := line.removeprefix(codecs.BOM_UTF8).strip()):
                    _check_lines(first, path)
                    empty = False
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    row = _parse(text, place) if text.strip() else None
                except UnicodeDecodeError as error:
                    faults.add(f"{place}: not UTF-8 ({error}); save the file as UTF-8")
                except ValueError as error:
                    faults.add(str(error))
                else:
                    if row is not None:
                        yield Row(place, number, row)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        faults.skip, faults.key = False, ""  # unknown rows are missing
        faults.add(f"{path}, after line {number}: cut off or damaged ({error}); fetch the file again")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give a file that exists") from error


def _table(path: Path) -> str:
    """What to do with a file of comma- or tab-separated values; empty for another one."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in (".csv", ".tsv"):
        return ""
    delimiter, target = "," if kind == ".csv" else r"\t", f"{path.name.partition('.')[0]}.parquet"
    read = f"csv.read_csv('{path}', parse_options=csv.ParseOptions(delimiter='{delimiter}', newlines_in_values=True))"
    command = f"from pyarrow import csv, parquet; parquet.write_table({read}, '{target}')"
    return f'{path} is {kind[1:].upper()}; write it as Parquet, for example with python -c "{command}"'


def _check_lines(first: bytes, path: Path) -> None:
    """Raises ValueError if the first line begins a JSON array, or an object over several lines."""
    if first.startswith(b"["):
        raise ValueError(f"{path} is a JSON array; write one object per line, as `jq -c '.[]' {path.name}` does")
    if first == b"{":
        raise ValueError(f"{path} has objects over several lines; write one per line, as `jq -c . {path.name}` does")


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more digits than Python reads
        raise ValueError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; each line must be one")
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of a name that it has twice, the reader would keep the last value in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the field {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if repeated := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"{path} has several columns {repeated!r}; rename all but one of them")
            rows = (row for batch in file.iter_batches(PARQUET_ROWS) for row in _rows_of(batch))
            for number, row in enumerate(rows, start=1):
                yield Row(f"{path}, row {number}", number, row)
    except FileNotFoundError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a file that exists") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); write the file again") from error


def _rows_of(batch: Any) -> list[dict[str, Any]]:
    """Rows as JSON types; a value that Python's types cannot hold, such as a nanosecond, becomes text."""
    import pyarrow as pa

    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = [json_value(value) for value in _shortest(column).to_pylist()]
        except (ValueError, OverflowError, pa.ArrowException):
            columns[name] = column.cast(pa.string()).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _shortest(column: Any) -> Any:
    """Floats of 32 bits as those of 64 bits with the same shortest decimal: 0.1 and not 0.10000000149."""
    import pyarrow as pa

    return column.cast(pa.string()).cast(pa.float64()) if pa.types.is_float32(column.type) else column


def local_file(name: str, key: str) -> Path:
    """A file of problems on this machine; ``hf://datasets/OWNER/NAME/FILE`` is fetched into the Hugging Face cache.

    Args:
        name: A path, or such a name. ``@REVISION`` after NAME pins a version.
        key: The configuration's key, for messages.

    Raises:
        ValueError: The name is malformed, or the file is neither in the cache nor can be fetched.
    """
    if not name.startswith(HUB):
        return Path(name)
    owner, _, rest = name.removeprefix(HUB).partition("/")
    dataset, _, file = rest.partition("/")
    dataset, _, revision = dataset.partition("@")
    if not (owner and dataset and file):
        example = f"{HUB}openai/gsm8k/main/test-00000-of-00001.parquet"
        raise ValueError(f"{key} is {name}; write {HUB}OWNER/NAME/FILE, such as {example}")
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
