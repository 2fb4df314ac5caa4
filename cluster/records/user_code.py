"""The record of a run's user code: a copy of each file, with its SHA-256.

user_code.json   by configuration key: the reference, the file, its SHA-256, and the copy's name
user_code/       the copies
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from cluster.config.input_paths import user_code
from cluster.config.yaml_reader import read_yaml
from cluster.records.run_directory import RunDirectory, read_entries
from verifiers.user_code import Reference, files_of, parse, sha256

FILE, FOLDER, PLUGINS = "user_code.json", "user_code", "plugins."
_MAX_NAMES = 5  # of changed files in a message


def describe(config: RunConfig) -> dict[str, dict[str, Any]]:
    """By key: the reference, its file and the SHA-256 (null for a module without a source file)."""
    return {key: _entry(reference) for key, reference in user_code(config).items()}


def _entry(reference: Reference) -> dict[str, Any]:
    found = sha256(reference)
    path, digest = found if found is not None else (None, None)
    return {"reference": _text(reference), "file": None if path is None else str(path), "sha256": digest}


def _text(reference: Reference) -> str:
    return f"{reference.source}:{reference.name}" if reference.name else reference.source


def keep_user_code(directory: RunDirectory, config: RunConfig) -> None:
    """Write the record in place of that from before a resume. Copies of another content stay."""
    entries = describe(config)
    for key, reference in user_code(config).items():
        found = files_of(reference)
        if found is not None and entries[key]["file"] is not None:
            file, sources = found
            contents = {target: source.read_bytes() for target, source in sources.items()}
            digest = hashlib.sha256(b"".join(contents[target] for target in sorted(contents))).hexdigest()
            folder = f"{FOLDER}/{digest[:12]}"
            for target, content in contents.items():
                directory.write_bytes(f"{folder}/{target}", content)
            entries[key]["copy"] = f"{folder}/{file}"
    if entries or (directory.path / FILE).is_file():  # also when a resume names no code any more
        directory.write_json(FILE, entries)


def _recorded(run: Path) -> dict[str, dict[str, Any]]:
    """The entries of the code that the run's config.yaml names. An entry of other code, which a resume replaced, must
    not decide what a key means.
    """
    entries = read_entries(run / FILE, "reference", "file", "sha256")
    named = user_code(read_yaml(run / "config.yaml")) if entries else {}
    return {key: entry for key, entry in entries.items() if key in named and _text(named[key]) == entry["reference"]}


def kept_overrides(run: Path) -> list[str]:
    """Overrides that put the run's copies in place of files that are not here, as on another machine."""
    recorded = _recorded(run)
    values = {key: _where_it_is(run, entry) for key, entry in recorded.items()}
    moved = {key: value for key, value in values.items() if value != recorded[key]["reference"]}
    overrides = [f"{key}={json.dumps(value)}" for key, value in moved.items() if not key.startswith(PLUGINS)]
    if any(key.startswith(PLUGINS) for key in moved):
        given = read_yaml(run / "config.yaml")["plugins"]
        plugins = [values.get(f"{PLUGINS}{i}", plugin) for i, plugin in enumerate(given)]
        overrides.append(f"plugins={json.dumps(plugins)}")
    return overrides


def _where_it_is(run: Path, entry: dict[str, Any]) -> str:
    reference = parse(entry["reference"], needs_name=":" in entry["reference"])
    if not reference.is_file or reference.path.is_file() or not entry.get("copy"):
        return str(entry["reference"])
    copy = (run / entry["copy"]).resolve()
    return f"{copy}:{reference.name}" if reference.name else str(copy)


def changed_user_code(run: Path, config: RunConfig) -> list[str]:
    """One line for each file of user code that is not what the run was using, and for the files next to each."""
    before = _recorded(run)
    neighbors = [
        f"{key} = {_text(reference)}: files that it may import have changed since the run used them: {names}; the run "
        f"has copies in {run / before[key]['copy'].rpartition('/')[0]}"
        for key, reference in user_code(config).items()
        if key in before and before[key]["reference"] == _text(reference) and before[key].get("copy")
        if (names := _changed_neighbors(run, reference, before[key]["copy"]))
    ]
    return neighbors + [
        f"{key} = {now['reference']} has changed since the run used it: SHA-256 {before[key]['sha256'][:12]} then, "
        f"{now['sha256'][:12]} now; the run's copy is {run / before[key].get('copy', FOLDER)}"
        for key, now in describe(config).items()
        if key in before
        and before[key]["reference"] == now["reference"]
        and before[key]["sha256"]
        and now["sha256"]
        and before[key]["sha256"] != now["sha256"]
    ]


def _changed_neighbors(run: Path, reference: Reference, copy: str) -> str:
    """The files next to the user's file, or in its package, that differ from the run's copies; empty if none does."""
    found = files_of(reference)
    if found is None:
        return ""
    file, sources = found
    copies = (run / copy.removesuffix(f"/{file}")).resolve()
    changed = [
        str(target)
        for target, source in sources.items()
        if target != file and (copies / target).is_file() and (copies / target).read_bytes() != source.read_bytes()
    ]
    more = f", and {len(changed) - _MAX_NAMES} more" if len(changed) > _MAX_NAMES else ""
    return ", ".join(changed[:_MAX_NAMES]) + more


def plugins_as_used(run: Path, plugins: Sequence[str]) -> list[str]:
    """The plugins of a run, with the run's copy in place of a file that is gone or has changed since."""
    recorded = _recorded(run) if plugins else {}
    return [_as_used(run, plugin, recorded.get(f"{PLUGINS}{i}", {})) for i, plugin in enumerate(plugins)]


def _as_used(run: Path, plugin: str, entry: dict[str, Any]) -> str:
    if not entry.get("copy"):
        return plugin
    source = Path(entry["file"])
    same = source.is_file() and hashlib.sha256(source.read_bytes()).hexdigest() == entry["sha256"]
    return plugin if same else str(run / entry["copy"])
