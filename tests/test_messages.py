"""Every configuration key that a message names exists: a remedy with a wrong key would mislead the reader."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from cluster.config import RunConfig, section_of
from cluster.config.reference import models_in

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "bonrl", "cluster", "learner", "verifiers")
SECTIONS = tuple(RunConfig.model_fields)
# A dot and a lower-case word after a section's name; not part of a path, a longer word or an address.
KEY = re.compile(rf"(?<![\w./@-])({'|'.join(SECTIONS)})((?:\.[a-z][a-z0-9_]*)+)(?![\w(/])")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if path.is_dir() or path.suffix == ".py"
}
FILES = re.compile(r"\.(py|yaml|json|jsonl|arrow|parquet|md|safetensors)$")


def keys_of(path: str, model: type[BaseModel]) -> Iterator[str]:
    """Every key below a section, dotted."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}"
        yield key
        inner = section_of(field)
        for shape in [inner] if inner is not None else models_in(field.annotation):
            yield from keys_of(key, shape)


KEYS = {
    key
    for name, field in RunConfig.model_fields.items()
    for section in [section_of(field)]
    if section is not None
    for key in keys_of(name, section)
}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The strings of a module with their lines, without docstrings; replacement fields of f-strings become a blank."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            skipped.update(map(id, node.values))
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def unknown_keys(text: str) -> list[str]:
    """What looks like a key in a text and is none."""
    found = ["".join(match.groups()) for match in KEY.finditer(text)]
    return [key for key in found if key not in KEYS and key not in MODULES and not FILES.search(key)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_key_that_a_message_names_exists(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {key}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in texts(path.read_text(encoding="utf-8"))
        for key in unknown_keys(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_key_would_be_found() -> None:
    source = (
        'def f(x):\n    """task.tempalte"""\n    raise ValueError(f"n = {x}: raise rollout.m, or lower objective.k")\n'
    )
    assert [unknown_keys(text) for _, text in texts(source)] == [["rollout.m"]]
    assert unknown_keys("loss.dual_clip, task.math.levels and task.sandbox.wall_seconds") == []
    assert unknown_keys("set task.math.level") == ["task.math.level"]
    assert unknown_keys("python -m cluster.records.metric_names; see cluster/run/run.py and run.yaml") == []
    assert {"objective.mixture.k", "schedule.k.end", "actors.samplers", "actors.samplers.min"} <= KEYS
