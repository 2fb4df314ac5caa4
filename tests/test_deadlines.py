"""Nothing waits forever (docs/promises.md, 5): every wait in the source has a time limit, or says what limits it.

A wait without one needs a comment ``# deadline: REASON`` on its line or on the line above.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "bonrl", "cluster", "learner", "verifiers")
MARK = "# deadline:"

WHOLE = {"ray.get", "ray.wait", "asyncio.wait"}  # functions that take a timeout by keyword
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")}
# Functions that take none: inside `asyncio.timeout`, or with a reason. Those of Ray ask its control store.
NEVER_TIMED = {"asyncio.gather", "asyncio.to_thread"} | {
    f"ray.{name}" for name in ("init", "shutdown", "available_resources", "cluster_resources", "nodes")
}
# Methods that wait forever without arguments or with None; and those that do with any arguments.
BARE = {"join", "wait", "get", "acquire", "communicate", "accept"}
ALWAYS = {"recv", "recv_into", "recvfrom", "run_in_executor", "wait_for"}


def untimed(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every wait in `source` that has neither a time limit nor a reason."""
    lines = source.splitlines()
    tree = ast.parse(source)
    bounded = {id(node) for block in ast.walk(tree) if _is_timeout(block) for node in ast.walk(block)}
    futures = "concurrent.futures" in source
    for node in ast.walk(tree):
        if id(node) in bounded:
            continue
        for first, last in _waits(node, futures):
            if not any(MARK in line for line in lines[max(0, first - 2) : last]):
                yield first, lines[first - 1].strip()


def _waits(node: ast.AST, futures: bool) -> Iterator[tuple[int, int]]:
    """First and last line of each wait that this node of the syntax is."""
    if isinstance(node, ast.Call) and _call_waits(node, futures):
        yield node.lineno, node.end_lineno or node.lineno
    elif isinstance(node, ast.AsyncFor):
        yield node.lineno, node.lineno
    elif isinstance(node, ast.comprehension) and node.is_async:
        yield node.iter.lineno, node.iter.lineno
    elif isinstance(node, ast.AsyncWith):  # of a lock, a semaphore, a condition: they are named, not called
        for item in node.items:
            if not isinstance(item.context_expr, ast.Call):
                yield item.context_expr.lineno, item.context_expr.lineno


def _call_waits(call: ast.Call, futures: bool) -> bool:
    name = ast.unparse(call.func)
    if name in NEVER_TIMED:
        return True
    if name in WHOLE | SUBPROCESS:
        return not _limited(call)
    if name == "asyncio.wait_for" or not isinstance(call.func, ast.Attribute):
        return False
    method = call.func.attr
    if method in ALWAYS:
        return True
    if method == "acquire" and _says(call, True):
        return True
    return (method in BARE or (method == "result" and futures)) and not _limited(call) and not _given(call)


def _limited(call: ast.Call) -> bool:
    """Whether it has a time limit by keyword, or does not block."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    limits = [given[name] for name in ("timeout", "timeout_s") if name in given]
    blocking = given.get("blocking", given.get("block"))
    return any(not _is(limit, None) for limit in limits) or (blocking is not None and not _is(blocking, True))


def _given(call: ast.Call) -> bool:
    """Whether it has an argument by position that may be a limit: `thread.join(5)`, but also `mapping.get("key")`."""
    return any(not _is(argument, None) for argument in call.args)


def _says(call: ast.Call, value: object) -> bool:
    return len(call.args) == 1 and _is(call.args[0], value) and not _limited(call)


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


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
        "asyncio.wait(tasks)", "ray.get(x, timeout=None)", "thread.join(None)", "thread.join(timeout=None)",
        "lock.acquire(True)", "lock.acquire(blocking=True)", "connection.recv(4096)", "server.accept()",
        "asyncio.gather(a, b)", "asyncio.to_thread(f)", "loop.run_in_executor(None, f)", "condition.wait_for(f)",
        "ray.available_resources()",
    ],
)  # fmt: skip
def test_the_scan_sees_each_kind(wait):
    assert [line for line, _ in untimed(wait)] == [1]
    assert not list(untimed(f"{wait}  {MARK} the caller bounds it"))
    assert not list(untimed(f"{MARK} the caller bounds it\n{wait}"))


@pytest.mark.parametrize("wait", ["async with lock:", "async with self._slots as slot:", "async for x in stream:"])
def test_the_scan_sees_waits_that_are_statements(wait):
    source = f"async def f():\n    {wait}\n        pass"
    assert [line for line, _ in untimed(source)] == [2]
    assert not list(untimed(source.replace(wait, f"{wait}  {MARK} the caller bounds it")))


def test_the_scan_knows_limits():
    assert not list(
        untimed("lock.acquire(False)\nlock.acquire(blocking=False)\nlock.acquire(True, 5)\nq.get(block=False)")
    )
    assert not list(untimed("async def f():\n    async with asyncio.timeout(1):\n        await asyncio.gather(a, b)"))
    assert not list(
        untimed("async def f():\n    async with pool.borrow(1) as x:\n        await asyncio.wait_for(x, 1)")
    )
    assert not list(untimed("async def f():\n    async with asyncio.timeout(1):\n        await event.wait()"))
    assert not list(untimed("ray.get(x, timeout=3)\n'-'.join(parts)\nthread.join(timeout=2)\nd.get('a')\np.wait(5)"))
    assert list(untimed("from concurrent.futures import Future\nfuture.result()"))
