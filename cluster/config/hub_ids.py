"""Tells the name of a model on the Hugging Face Hub from a directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ID = re.compile(r"(?:hf://)?(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_FOLDERS = ("checkpoints", "data", "models", "runs", "shared")  # first parts of relative paths that people use


@dataclass(frozen=True, slots=True)
class HubId:
    """A model of the hub, ``OWNER/NAME``, and the revision (branch, tag or commit) if one is named."""

    name: str
    revision: str | None

    @property
    def download(self) -> str:
        """The command that downloads it into a directory of the working directory."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.name}{revision} --local-dir {self.directory}"

    @property
    def directory(self) -> str:
        """The directory into which `download` writes."""
        return f"models/{self.name.partition('/')[2]}"


def hub_id(path: str) -> HubId | None:
    """The model that ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or ``hf://OWNER/NAME`` names; None for a path.

    A relative path with the same form is a path if it is there, if the directory of its first part is, or if that part
    is a usual name such as ``models``.
    """
    found = _ID.fullmatch(path)
    if found is None:
        return None
    explicit = path.startswith("hf://")
    owner = found["name"].partition("/")[0]
    if not explicit and (Path(path).exists() or Path(owner).is_dir() or owner in _FOLDERS):
        return None
    return HubId(found["name"], found["revision"])
