"""Hostile programs: those of own_attacks.txt, and those of the data directory. See the head of that file."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

GIVEN = "attacks_main.json"  # in the data directory

TESTS = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert candidate(40, 2) == 42
    assert candidate(-1, 1) == 0
"""

_TRY = """
import os, sys
OK = False
def attack():
{body}
try:
    OK = bool(attack())
except BaseException:
    OK = False
def add(a, b):
    return a + b if OK else None
"""


@dataclass(frozen=True)
class Attack:
    """``kind`` groups the table of the docs; ``benign``: the verdict may be anything, only side effects count."""

    name: str
    kind: str
    code: str
    benign: bool = False
    tests: str = TESTS


def _own() -> list[Attack]:
    text = (Path(__file__).parent / "own_attacks.txt").read_text(encoding="utf-8")
    attacks = []
    for section in text.split("### ")[1:]:
        head, code = section.split("\n", 1)
        name, kind = head.split()
        if kind != "forgery":
            code = _TRY.replace("{body}", textwrap.indent(code.strip(), "    "))
        code, _, tests = code.partition("--- tests\n")
        attacks.append(Attack(name, kind, code, tests=tests or TESTS))
    return attacks


OWN = _own()


def given(directory: Path) -> list[Attack]:
    """The attacks of the data directory; empty where it has none."""
    file = directory / GIVEN
    if not file.is_file():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Attack(row["name"], row["kind"], row["code"], row["expect"] == "any") for row in rows]
