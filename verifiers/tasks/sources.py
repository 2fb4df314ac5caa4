"""The files that ``task.jsonl.train``, ``validation`` and ``test`` name: a file, a directory, a pattern, or a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from verifiers.tasks.datasets import HUB

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")  # of the files of a directory that are read


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of files; a file that exists is none, whatever its name."""
    return not name.startswith(HUB) and has_magic(name) and not Path(name).exists()


def matches(pattern: str) -> list[str]:
    """The files that a pattern names, sorted. ``**`` stands for any number of directories."""
    return sorted(name for name in glob(pattern, recursive=True) if Path(name).is_file())


def named_files(value: str | Sequence[str], key: str) -> list[str]:
    """The files, in the order of the list; those of a directory or a pattern are sorted by name. Names on the Hugging
    Face Hub stay as they are.

    Args:
        value: What the key names.
        key: The configuration's key, for messages.

    Raises:
        ValueError: There is no such file, or one is named twice.
    """
    names = [value] if isinstance(value, str) else value
    files = [file for name in names for file in _files(name, key)]
    repeated = next((file for file, count in Counter(files).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"{key} names the file {repeated} twice; name it once")
    return files


def _files(name: str, key: str) -> list[str]:
    if name.startswith(HUB):
        if has_magic(name):
            raise ValueError(f"{key} is {name}: a pattern cannot name files of the Hub; name each of them, in a list")
        return [name]
    if is_pattern(name):
        if not (found := matches(name)):
            raise ValueError(f"{key}: no file matches {name}{_from(name)}; set it to JSON Lines or Parquet files")
        return found
    if Path(name).is_dir():
        return _of_directory(Path(name), key)
    if not Path(name).is_file():
        raise ValueError(f"{key}: no file {name}{_from(name)}; set it to a JSON Lines or Parquet file")
    return [name]


def _from(name: str) -> str:
    """Where a relative path starts, which is not the directory of the configuration."""
    return "" if Path(name).is_absolute() else f" (relative paths start at the working directory, {Path.cwd()})"


def _of_directory(directory: Path, key: str) -> list[str]:
    found = sorted(file for file in directory.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
    if not found:
        raise ValueError(
            f"{key}: no file in the directory {directory} ends with {', '.join(SUFFIXES)}; name another one"
        )
    if len({file.suffix == ".parquet" for file in found}) > 1:
        raise ValueError(
            f"{key}: the directory {directory} has both JSON Lines and Parquet, which may be the same problems; name "
            f"one kind by a pattern, such as {directory}/*.parquet"
        )
    return [str(file) for file in found]


def described(value: str | Sequence[str], count: int) -> str:
    """What a key names, in a few words; `count` is the number of files."""
    first = value if isinstance(value, str) else value[0]
    if isinstance(value, str) or len(value) == 1:
        return first if count == 1 else f"{first} ({count} files)"
    return f"{first} and {len(value) - 1} more"
