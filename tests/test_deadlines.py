"""Nothing waits for ever (DESIGN.md, promise 5): every wait in the source has a time limit, or says who bounds it.

A wait without one needs a comment ``# deadline: REASON`` on its line or on the line above.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "cluster", "learner", "verifiers")
MARK = "# deadline:"

WHOLE = {"ray.get", "ray.wait", "asyncio.wait"}  # functions that take a timeout by keyword
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")}
BARE = {"join", "wait", "get", "acquire", "communicate", "recv"}  # methods that wait for ever without arguments


def untimed(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every wait in `source` that has neither a time limit nor a reason."""
    lines = source.splitlines()
    tree = ast.parse(source)
    bounded = {id(node) for block in ast.walk(tree) if _is_timeout(block) for node in ast.walk(block)}
    futures = "concurrent.futures" in source
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in bounded or not _waits(node, futures):
            continue
        near = lines[max(0, node.lineno - 2) : node.end_lineno]
        if not any(MARK in line for line in near):
            yield node.lineno, lines[node.lineno - 1].strip()


def _waits(call: ast.Call, futures: bool) -> bool:
    name = ast.unparse(call.func)
    timed = any(keyword.arg in ("timeout", "timeout_s", "blocking") for keyword in call.keywords)
    if name in WHOLE | SUBPROCESS:
        return not timed
    if not isinstance(call.func, ast.Attribute) or call.args or timed:
        return False
    method = call.func.attr
    return method in BARE or (method == "result" and futures)


def _is_timeout(node: ast.AST) -> bool:
    return isinstance(node, ast.AsyncWith) and any(
        ast.unparse(item.context_expr).startswith("asyncio.timeout(") for item in node.items
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_every_wait_has_a_limit_or_names_who_bounds_it(package):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in untimed(path.read_text())
    ]
    assert not found, "waits without a deadline:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "wait",
    [
        "ray.get(x)", "ray.wait([x])", "queue.get()", "thread.join()", "process.wait()", "lock.acquire()",
        "subprocess.run(['ls'])", "subprocess.check_output(['ls'])", "child.communicate()", "connection.recv()",
        "asyncio.wait(tasks)",
    ],
)  # fmt: skip
def test_the_scan_sees_each_kind(wait):
    assert [line for line, _ in untimed(wait)] == [1]
    assert not list(untimed(f"{wait}  {MARK} the caller bounds it"))
    assert not list(untimed(f"{MARK} the caller bounds it\n{wait}"))


def test_the_scan_knows_limits():
    assert not list(untimed("async def f():\n    async with asyncio.timeout(1):\n        await event.wait()"))
    assert not list(untimed("ray.get(x, timeout=3)\n'-'.join(parts)\nthread.join(timeout=2)\nd.get('a')\np.wait(5)"))
    assert list(untimed("from concurrent.futures import Future\nfuture.result()"))
