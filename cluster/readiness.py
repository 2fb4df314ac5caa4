"""What the verifier workers say when they become ready: told on the terminal, and kept for whoever looks later.

verifiers.json   per worker that runs programs: the level of isolation, its layers, and each probe's answer
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.verifier_worker import Ready
from cluster.run_directory import RunDirectory

FILE = "verifiers.json"


class Readiness:
    """Hears every verifier worker that becomes ready, those that join or return later too.

    Args:
        tell: shows a line to the user; workers that say the same are heard once.
        directory: keeps what they measured; None: nobody does.
    """

    def __init__(self, tell: Callable[[str], None], directory: RunDirectory | None = None) -> None:
        self._tell = tell
        self._directory = directory
        self._told: set[str] = set()
        self._sandboxes: dict[str, dict[str, Any]] = {}

    def __call__(self, worker: str, ready: Ready) -> None:
        """The verifier worker of that name serves now."""
        for line in ready.lines:
            if line not in self._told:
                self._told.add(line)
                self._tell(f"{worker}: {line}")
        if ready.sandbox is not None:
            self._sandboxes[worker] = ready.sandbox
            if self._directory is not None:
                self._directory.write_json(FILE, self._sandboxes)
