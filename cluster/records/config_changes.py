"""Changes of settings when a run is resumed.

config.yaml           the settings that the run was last started with
config_changes.jsonl  one line per resume that changed some: time, optimizer steps done before, old and new values
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.config import RunConfig, load_config
from cluster.records.kept_files import keep_files, kept_overrides
from cluster.records.run_directory import RunDirectory

FILE = "config_changes.jsonl"
# Sections that decide how recorded groups are trained on.
_TRAINING = ("model.", "task.", "rollout.", "objective.", "schedule.", "loss.", "learner.")


@dataclass(frozen=True)
class Change:
    """A key whose value is not what the run had. The values are plain JSON types."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = (json.dumps(value, ensure_ascii=False) for value in (self.before, self.after))
        return f"{self.key} = {after} (was {before})"

    def override(self) -> str:
        """The override that makes it, quoted for a shell."""
        return shlex.quote(f"{self.key}={json.dumps(self.after, ensure_ascii=False)}")


def recorded_config(run: Path) -> RunConfig:
    """The settings that a run was last started with.

    Raises:
        ConfigError: config.yaml cannot be read, or this version of bonrl refuses it.
    """
    return load_config(run / "config.yaml", kept_overrides(run))


def changes(before: RunConfig, after: RunConfig) -> tuple[Change, ...]:
    """The keys whose values differ, in the order of the configuration."""
    return tuple(_changes("", before, after))


def _changes(prefix: str, before: BaseModel, after: BaseModel) -> Iterator[Change]:
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    for name in type(after).model_fields:
        if old[name] == new[name]:
            continue
        section, changed = getattr(before, name), getattr(after, name)
        if isinstance(changed, BaseModel) and type(section) is type(changed):
            yield from _changes(f"{prefix}{name}.", section, changed)
        else:
            yield Change(f"{prefix}{name}", old[name], new[name])


def training_changes(run: Path) -> list[str]:
    """One line per change that affects training: the settings that not all steps of the run had."""
    file = run / FILE
    found = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            changed = [Change(key, *values) for key, values in entry["changes"].items() if key.startswith(_TRAINING)]
            found += [f"after step {entry['after_step']}: {change}" for change in changed]
        except (ValueError, KeyError, TypeError, AttributeError):  # half written by a run that was killed
            found.append(f"{FILE}, line {number}, cannot be read")
    return found


def record_changes(directory: RunDirectory, config: RunConfig, changed: tuple[Change, ...], step: int) -> None:
    """Record the settings with which the run continues; a later resume starts from them.

    Args:
        config: the settings, with the changes.
        changed: what differs from config.yaml.
        step: optimizer steps that were done before.
    """
    keep_files(directory, config)
    if not changed:
        return
    values = {change.key: [change.before, change.after] for change in changed}
    directory.append_json(FILE, {"time": time.time(), "after_step": step, "changes": values})
    directory.write_config(config.to_mapping())
