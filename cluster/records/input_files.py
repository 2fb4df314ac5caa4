"""The record of a run's input files: where each relative path of its configuration led to, and a copy.

input_files.json   by configuration key: the path, its absolute place, and with a copy its name and SHA-256
input_files/       the copies

Only a job that `bonrl submit` packed makes copies, because its working directory is deleted with it. They are as small
as the package of a job has to be. The files of any other run stay where they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.config import RunConfig
from cluster.config.input_paths import INPUT_KEYS, OPTIONS, input_paths, value_at, with_values
from cluster.config.yaml_reader import read_yaml
from cluster.records.run_directory import RunDirectory, read_entries
from cluster.records.software import job_package

FILE, FOLDER = "input_files.json", "input_files"
# Ray leaves out of a job what an ignore file in any of its directories names, without a word.
_LEFT_OUT = (".git", ".gitignore", ".rayignore", "__pycache__")


def keep_input_files(directory: RunDirectory, config: RunConfig) -> None:
    """Write the record. Copies of another content, from before a resume, stay.

    Files that a pattern matches have no key of their own and are not recorded; the package of a job names them.
    """
    tree, run = config.to_mapping(), directory.path
    kept = {key: entry for key, entry in _recorded(run).items() if value_at(tree, key) == str(_place(run, entry))}
    named = {key: path for key, path in input_paths(config).items() if isinstance(value_at(tree, key), str)}
    new = {key: entry for key, path in named.items() if (entry := _entry(directory, path))}
    entries = new | kept
    if entries or (run / FILE).is_file():
        directory.write_json(FILE, entries)


def kept_overrides(run: Path) -> list[str]:
    """Overrides that put what the run recorded in place of paths that lead to nothing here, as in a later job."""
    recorded = _recorded(run)
    tree = read_yaml(run / "config.yaml") if recorded else {}
    missing = {key: entry for key, entry in recorded.items() if _is_missing(value_at(tree, key))}
    moved = {key: str(_place(run, entry)) for key, entry in missing.items() if _place(run, entry).exists()}
    overrides = [f"{key}={json.dumps(path)}" for key, path in moved.items() if key in INPUT_KEYS]
    for whole in (OPTIONS, *INPUT_KEYS):  # an override cannot name an element of a list
        if inside := {key: path for key, path in moved.items() if key.startswith(f"{whole}.")}:
            value = value_at(with_values(tree, inside), whole)
            overrides.append(f"{whole}={yaml.safe_dump(value, default_flow_style=True, width=float('inf')).strip()}")
    return overrides


def keys_with_copies(run: Path) -> list[str]:
    """The keys whose files a later job finds in the run directory."""
    return [key for key, entry in _recorded(run).items() if "copy" in entry]


def changed_input_files(run: Path, config: RunConfig) -> list[str]:
    """One line for each input that is not what the run was using, as far as the run has a copy."""
    recorded, now = _recorded(run), input_paths(config)
    copied = {key: entry for key, entry in recorded.items() if "copy" in entry and key in now}
    return [
        f"{key} = {now[key]} has changed since the run used it; the run's copy is {_place(run, entry)}"
        for key, entry in copied.items()
        if Path(now[key]).exists() and _sha256(files_below(Path(now[key]))) != entry["sha256"]
    ]


def _entry(directory: RunDirectory, path: str) -> dict[str, str] | None:
    """The record of one path; None for an absolute one, which stays as it is."""
    place, package = Path(path).resolve(), job_package()
    packed = package is not None and package in place.parents  # the package itself holds the job's variables
    if not place.exists() or (Path(path).is_absolute() and not packed):
        return None
    entry = {"path": path, "file": str(place)}
    return entry | _copied(directory, place) if packed else entry


def _copied(directory: RunDirectory, place: Path) -> dict[str, str]:
    """Copy a file or a directory, under a name that is different for every content."""
    files = files_below(place)
    digest = _sha256(files)
    copy = f"{FOLDER}/{digest[:12]}/{place.name}"
    for name, file in files.items():
        target = f"{copy}/{name}" if place.is_dir() else copy
        if not (directory.path / target).is_file():
            directory.write_bytes(target, file.read_bytes())
    return {"sha256": digest, "copy": copy}


def files_below(place: Path) -> dict[str, Path]:
    """The files of a directory that travel with a job, by their paths there. A file itself has the path `.`."""
    if place.is_file():
        return {".": place}
    found = {file.relative_to(place): file for file in sorted(place.rglob("*")) if file.is_file()}
    return {
        str(name): file
        for name, file in found.items()
        if name.suffix != ".pyc" and not set(_LEFT_OUT) & set(name.parts)
    }


def _sha256(files: Mapping[str, Path]) -> str:
    """The SHA-256 of the names and contents of files."""
    total = hashlib.sha256()
    for name, file in files.items():
        with file.open("rb") as stream:
            total.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _recorded(run: Path) -> dict[str, dict[str, str]]:
    return read_entries(run / FILE, "path", "file")


def _place(run: Path, entry: Mapping[str, str]) -> Path:
    """Where the files of an entry are now: the copy, or where they were."""
    return (run / entry["copy"]).resolve() if "copy" in entry else Path(entry["file"])


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and not Path(value).exists()
