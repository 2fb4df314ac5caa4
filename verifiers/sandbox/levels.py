"""Isolation levels: the layers of each, and the probes that must be denied before it counts as reached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """Isolation levels, weakest first. ``CLAIMS`` lists what each one must deny."""

    LIMITS = "L1"
    SECCOMP = "L2"
    SECCOMP_CLOSED = "L2b"
    LANDLOCK = "L3"
    NAMESPACES = "L4"

    @property
    def rank(self) -> int:
        """Position in the order of strength, from 0."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of one fork server. Resource limits are always on.

    Attributes:
        seccomp: ``closed`` (system calls filtered, no file is opened), ``reading`` (files are opened for reading
            only), or None for no filter.
        landlock: Only the standard library and the preloaded packages can be read; no TCP, no signals out.
        namespaces: Separate user, process, network, mount and IPC namespaces with an empty root for each child.
        drop_user: If the server runs as root, children run as the user ``uid`` of the settings.
    """

    seccomp: str | None = None
    landlock: bool = False
    namespaces: bool = False
    drop_user: bool = True

    def describe(self) -> str:
        """The layers in words."""
        parts = ["resource limits"]
        if self.seccomp:
            parts.append("seccomp (no file opened)" if self.seccomp == "closed" else "seccomp")
        if self.landlock:
            parts.append("Landlock")
        if self.namespaces:
            parts.append("namespaces")
        return ", ".join(parts)


LAYERS: dict[Level, Layers] = {
    Level.LIMITS: Layers(),
    Level.SECCOMP: Layers(seccomp="reading"),
    Level.SECCOMP_CLOSED: Layers(seccomp="closed"),
    Level.LANDLOCK: Layers(seccomp="reading", landlock=True),
    Level.NAMESPACES: Layers(seccomp="reading", landlock=True, namespaces=True),
}

_LIMITS = frozenset({"allocate beyond the memory limit"})
_SECCOMP = _LIMITS | {
    "raise a limit",
    "fork",
    "start a thread",
    "open a TCP socket",
    "open a UDP socket",
    "open a Unix socket",
    "signal the parent",
    "trace the parent",
    "read the parent's memory",
    "make a namespace",
    "write a file",
    "execute a program",
}
_NO_FILES = _SECCOMP | {"read /etc/passwd", "read the environment", "list /", "read installed packages"}

CLAIMS: dict[Level, frozenset[str]] = {
    Level.LIMITS: _LIMITS,
    Level.SECCOMP: _SECCOMP,
    Level.SECCOMP_CLOSED: _NO_FILES | {"see a file's status", "read the standard library"},
    Level.LANDLOCK: _NO_FILES,
    Level.NAMESPACES: _NO_FILES | {"see a file's status", "see other processes"},
}
"""The probes (see ``inside/probes.py``) that must be denied before a level counts as reached."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation measured when a fork server started.

    Attributes:
        level: The strongest level, up to the requested one, whose claims all hold.
        layers: The layers in force.
        uid: The user that programs run as.
        probes: What each probe answered: ``denied: errno`` or ``allowed``.
        absent: Modules to preload that are not installed.
        skipped: The reasons why stronger levels, up to the requested one, were not reached.
    """

    level: Level
    layers: Layers
    uid: int
    probes: dict[str, str]
    absent: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for the log."""
        denied = sum(answer.startswith("denied") for answer in self.probes.values())
        text = (
            f"code sandbox: level {self.level} ({self.layers.describe()}; programs run as uid {self.uid}; "
            f"{denied} of {len(self.probes)} probes denied)"
        )
        if self.absent:
            text += f"; not installed, so not preloaded: {', '.join(self.absent)}"
        return "; ".join([text, *self.skipped])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a run's manifest."""
        return {
            "level": self.level.value,
            "layers": self.layers.describe(),
            "uid": self.uid,
            "probes": dict(self.probes),
            "absent": list(self.absent),
            "skipped": list(self.skipped),
        }


def unmet(level: Level, probes: dict[str, str]) -> list[str]:
    """The claims of ``level`` that the probes do not confirm."""
    return sorted(name for name in CLAIMS[level] if not probes.get(name, "").startswith("denied"))
