"""Several configuration files as one: a later file wins, and every key remembers the file that set it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_KEY = re.compile(r"\b[a-z_]+(?:\.[a-z0-9_]+)*")


class Layers:
    """Merges nested mappings, of which a later one wins.

    Args:
        sections: dotted keys whose mappings are merged; any other mapping is one value.

    Attributes:
        tree: the merged mapping.
    """

    def __init__(self, sections: Iterable[str]) -> None:
        self.tree: dict[str, Any] = {}
        self._sections = frozenset(sections)
        self._source: dict[str, str] = {}  # by dotted key

    def add(self, source: str, tree: Mapping[str, Any]) -> None:
        """Put the mapping of the file `source` over the earlier ones."""
        self._merge(source, self.tree, tree, "")

    def set_by(self, source: str, key: str) -> None:
        """`source` has set a dotted key of :attr:`tree`, perhaps a whole section."""
        self._source = {name: file for name, file in self._source.items() if not name.startswith(f"{key}.")}
        self._source[key] = source

    def with_sources(self, line: str) -> str:
        """A line about a problem, with the sources of the keys that its first clause names."""
        found: dict[str, list[str]] = {}
        for key in dict.fromkeys(_KEY.findall(line.partition(";")[0])):
            if source := self._source_of(key):
                found.setdefault(source, []).append(key)
        named = "; ".join(f"{', '.join(keys)}: {source}" for source, keys in found.items())
        return f"{line} [{named}]" if named else line

    def _merge(self, source: str, below: dict[str, Any], above: Mapping[str, Any], prefix: str) -> None:
        for name, value in above.items():
            key = f"{prefix}{name}"
            if key in self._sections and value is None:  # `run:` with nothing below it
                continue
            if key in self._sections and isinstance(value, Mapping):
                inner = below.get(name)
                below[name] = inner if isinstance(inner, dict) else {}
                self._merge(source, below[name], value, f"{key}.")
            else:
                below[name], self._source[key] = value, source

    def _source_of(self, key: str) -> str | None:
        """What set a key, or the value or section that it is a part of; None for a word that is no key."""
        while key and key not in self._source:
            key = key.rpartition(".")[0]
        return self._source.get(key)
