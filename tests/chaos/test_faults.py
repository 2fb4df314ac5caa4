"""The campaigns find processes by their titles: each title must be that of a class, method or module that exists."""

from __future__ import annotations

import ast
import importlib.util
import re

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.nodes import MOMENTS, VICTIMS
from tests.cluster.running import REPOSITORY

TITLES = [*KINDS.values(), *MOMENTS.values(), *VICTIMS.values()]
CLASSES = {
    node.name: node
    for path in (REPOSITORY / "actors").rglob("*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
}


def methods_of(name: str) -> set[str]:
    """Of a class and its base classes."""
    node = CLASSES[name]
    own = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in CLASSES]
    return own.union(*map(methods_of, bases))


@pytest.mark.parametrize("title", sorted({title for title in TITLES if title.startswith("^ray::")}))
def test_an_actor_title_names_a_class_and_its_method(title: str) -> None:
    name, _, method = title.removeprefix("^ray::").partition(r"\.")
    assert name in CLASSES
    assert not method or method in methods_of(name)


def test_the_title_of_wandbs_helper_names_its_module() -> None:
    module = re.sub(r"\\(.)", r"\1", KINDS["wandb"])
    assert importlib.util.find_spec(module) is not None
