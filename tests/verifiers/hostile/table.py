"""Which layer stops which attack: measured, and written into docs/sandbox.md between its markers.

    python -m tests.verifiers.hostile.table DATA_DIRECTORY

Every attack runs as an ordinary user behind each layer alone (resource limits and the separate judge are always there),
behind the strongest level with one layer switched off, and behind the levels that combine them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.verifiers.hostile.attacks import GIVEN, OWN, given

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "sandbox.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
ORDINARY_USER = 65533

ALONE: dict[str, dict[str, Any]] = {
    "limits": {},
    "seccomp": {"seccomp": "reading"},
    "Landlock": {"landlock": True},
    "namespaces": {"namespaces": True},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "L4 without seccomp": {"landlock": True, "namespaces": True},
    "L4 without Landlock": {"seccomp": "reading", "namespaces": True},
}
"""The strongest level with one layer switched off. Without namespaces it is L3."""

LEVELS = ("L2b", "L3", "L4")


def measure(data: Path, *, uid: int | None, layers: Any = None, level: str = "L3", names: Any = None) -> dict[str, Any]:
    """Run the attacks in a process of their own; see ``runner``."""
    order = {"uid": uid, "layers": layers, "level": level, "names": names, "data": str(data)}
    command = [sys.executable, "-m", "tests.verifiers.hostile.runner", json.dumps(order)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def user() -> int | None:
    """An ordinary user to become, or None where this process already is one."""
    return ORDINARY_USER if os.getuid() == 0 else None


def contained(found: dict[str, Any]) -> dict[str, bool]:
    """Per attack, whether it was contained."""
    return {name: attack["contained"] for name, attack in found["attacks"].items()}


def stated() -> dict[str, dict[str, bool]]:
    """The table of the page: per attack and column, whether it is said to be contained."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    header = rows[0][2:]
    return {row[0]: dict(zip(header, (cell == "yes" for cell in row[2:]), strict=True)) for row in rows[2:]}


def with_attacks(text: str) -> Path:
    """The data directory of that name; without its attacks the page would lose their rows."""
    directory = Path(text)
    if not given(directory):
        raise argparse.ArgumentTypeError(f"{text}: no attacks in {directory / GIVEN}; give the directory that has them")
    return directory


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and rewrite the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.verifiers.hostile.table",
        description="Measure which layer stops which attack, and rewrite the table of docs/sandbox.md.",
    )
    parser.add_argument("data", metavar="DATA_DIRECTORY", type=with_attacks, help=f"Directory that holds {GIVEN}.")
    data = parser.parse_args(arguments).data
    partly = {**ALONE, **WITHOUT}
    columns = {name: contained(measure(data, uid=user(), layers=layers)) for name, layers in partly.items()}
    columns |= {level: contained(measure(data, uid=user(), level=level)) for level in LEVELS}
    lines = ["| attack | kind | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for attack in [*given(data), *OWN]:
        marks = " | ".join("yes" if column[attack.name] else "no" for column in columns.values())
        lines.append(f"| {attack.name} | {attack.kind} | {marks} |")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
    print({name: f"{sum(column.values())} of {len(column)}" for name, column in columns.items()})


if __name__ == "__main__":
    main()
