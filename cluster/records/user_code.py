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
from cluster.records.run_directory import RunDirectory
from verifiers.user_code import Reference, sha256

FILE, FOLDER = "user_code.json", "user_code"


def describe(config: RunConfig) -> dict[str, dict[str, Any]]:
    """By key: the reference, its file and the SHA-256 (null for a module without a source file)."""
    return {key: _entry(reference) for key, reference in user_code(config).items()}


def _entry(reference: Reference) -> dict[str, Any]:
    found = sha256(reference)
    path, digest = found if found is not None else (None, None)
    text = f"{reference.source}:{reference.name}" if reference.name else reference.source
    return {"reference": text, "file": None if path is None else str(path), "sha256": digest}


def keep_user_code(directory: RunDirectory, config: RunConfig) -> None:
    """Write the record. Copies of another content, from before a resume, stay."""
    entries = describe(config)
    for entry in entries.values():
        if entry["file"] is not None:
            source = Path(entry["file"])
            entry["copy"] = f"{FOLDER}/{source.stem}-{entry['sha256'][:12]}{source.suffix}"
            directory.write_bytes(entry["copy"], source.read_bytes())
    if entries:
        directory.write_json(FILE, entries)


def changed_user_code(run: Path, config: RunConfig) -> list[str]:
    """One line for each file of user code that is not what the run was using."""
    file = run / FILE
    if not file.is_file():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))
    return [
        f"{key} = {now['reference']} has changed since the run used it: SHA-256 {before[key]['sha256'][:12]} then, "
        f"{now['sha256'][:12]} now; the run's copy is {run / before[key]['copy']}"
        for key, now in describe(config).items()
        if key in before and before[key]["sha256"] and now["sha256"] and before[key]["sha256"] != now["sha256"]
    ]


def plugins_as_used(run: Path, plugins: Sequence[str]) -> list[str]:
    """The plugins of a run, with the run's copy in place of a file that is gone or has changed since."""
    file = run / FILE
    recorded = json.loads(file.read_text(encoding="utf-8")) if plugins and file.is_file() else {}
    return [_as_used(run, plugin, recorded.get(f"plugins.{i}", {})) for i, plugin in enumerate(plugins)]


def _as_used(run: Path, plugin: str, entry: dict[str, Any]) -> str:
    if not entry.get("copy"):
        return plugin
    source = Path(entry["file"])
    same = source.is_file() and hashlib.sha256(source.read_bytes()).hexdigest() == entry["sha256"]
    return plugin if same else str(run / entry["copy"])
