"""The keys of the configuration that name files or directories to read. The one list of them."""

from __future__ import annotations

from operator import attrgetter

from cluster.config import RunConfig

INPUT_KEYS = (
    "model.path",
    "task.path",
    "task.scorer.path",
    "task.jsonl.train",
    "task.jsonl.validation",
    "task.jsonl.test",
)
HUB = "hf://"  # fetched where it is read, so that it need not travel


def input_paths(config: RunConfig) -> dict[str, str]:
    """Key -> path of everything that the configuration reads from a file system."""
    values = {key: attrgetter(key)(config) for key in INPUT_KEYS}
    return {key: value for key, value in values.items() if isinstance(value, str) and not value.startswith(HUB)}
