"""The files here that the command of a job names, which travel with it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from cluster.checks.preflight import OUR_PACKAGES, ROOT
from cluster.errors import UsageError
from cluster.jobs.packaging import CONFIG_NAME
from verifiers.user_code import files_of, parse

_FILE = re.compile(r"[\w./-]+\.(py|sh|ya?ml|jsonl?|toml|txt|parquet)")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def split_words(command: str, *, shell: bool = False) -> list[str]:
    """The words of a command. With `shell`, operators such as `;` and `>` are words of their own.

    Raises:
        UsageError: a quote is not closed.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=shell)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(f"the command {command!r} cannot be split into words: {error}; close its quotes") from error


def named_files(option: str, words: Sequence[str]) -> dict[str, str]:
    """The words that are existing relative paths, to be packed, by names for messages. What looks like a file must
    exist, which the packaging checks."""
    files = {}
    for word in words:
        path = Path(word)
        if os.path.isabs(word) or not path.parts or not word.strip():
            continue
        if exists(path) or (_FILE.fullmatch(word) and not exists(ROOT / path) and word != CONFIG_NAME):
            files[f"{option}: {word}"] = word
    return files


def files_of_entrypoint(command: str) -> dict[str, str]:
    """The files of a shell command: its words, values of `NAME=VALUE` and modules of `python -m`, and what Python
    files among them can import from here."""
    words = split_words(command, shell=True)
    read = [word for before, word in pairwise(["", *words]) if not before.startswith(">")]  # `> FILE` is written
    values = [value for word in read if (value := word.partition("=")[2]) and exists(Path(value))]
    modules = [file for before, word in pairwise(words) if before == "-m" for file in _module_files(word)]
    return _with_neighbors("--entrypoint", named_files("--entrypoint", [*read, *values, *modules]))


def _module_files(name: str) -> Iterator[str]:
    """The file of a module in this directory; none of an installed one, or of bonrl, which travels anyway."""
    if _MODULE.fullmatch(name) and name.split(".")[0] not in OUR_PACKAGES:
        place = Path(*name.split("."))
        yield from (str(file) for file in (place.with_suffix(".py"), place / "__main__.py") if file.is_file())


def _with_neighbors(option: str, files: Mapping[str, str]) -> dict[str, str]:
    """The same, and the Python files and packages that the scripts among them can import from here."""
    found, here = dict(files), Path.cwd().resolve()
    for path in files.values():
        if path.endswith(".py") and (code := files_of(parse(path, needs_name=False), packages=True)):
            sources = (source for source in code[1].values() if source.is_relative_to(here))
            found |= {f"{option}: {path}: {source}": str(source.relative_to(here)) for source in sources}
    return found


def exists(path: Path) -> bool:
    """Whether a path exists; also for a text that can be no path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a piece of program text, too long for a name
        return False
