"""The resolved configuration as a table: key, value, default, and what the key means."""

from __future__ import annotations

import json
from typing import Any

from cluster.config import RunConfig, dotted_keys, key_paths
from cluster.report.source import Source
from verifiers.credentials import masked


def settings(source: Source) -> list[dict[str, Any]]:
    """Every key that is no section, in the order of the run's file; `changed` where it differs from the default."""
    defaults = dict(dotted_keys(RunConfig().model_dump(mode="json")))
    described = {key: info.description or "" for key, info in key_paths().items()}
    rows = []
    for key, value in dotted_keys(source.run.config):
        changed = key not in defaults or _text(defaults[key]) != _text(value)
        rows.append(
            {
                "key": key,
                "value": _text(value),
                "default": _text(defaults[key]) if key in defaults else "no such key in this release",
                "changed": changed,
                "about": described.get(key, ""),
            }
        )
    return rows


def _text(value: Any) -> str:
    """A value on one line, as the command line takes it; text without quotes, addresses without passwords."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return masked(text)
