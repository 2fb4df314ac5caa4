"""The process that runs the untrusted program. It answers calls; it never sees a test or an expected value.

The judge decodes all that it sends into built-in types. So nothing here needs protection from the program: by
overwriting this code it can only choose its answers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

from . import codec, frames, script

CHANNEL = 3
REQUEST_LIMIT = 256 << 20
"""Requests come from the judge and are as long as the tests' arguments; replies are bounded by the judge."""

MOST_GIVEN = 1 << 20
"""Bytes of a reply with changed arguments: task.sandbox.output_mib, the limit of the judge, is 1 or more."""

REQUEST_DEPTH = codec.MAX_DEPTH + 40
"""More than the depth that the judge accepts, so that the judge can send back any value that it got."""

NAME = "candidate"


class Program:
    """A loaded program, and the objects of it that the judge holds handles to."""

    def __init__(self, name: str) -> None:
        self.module = script.module(name)
        self.held: list[Any] = []
        self.given: tuple[Any, ...] = ()

    def handle(self, value: Any) -> dict[str, Any]:
        """The handle of ``value``: its number, its truth value if it has one, and the name of its type."""
        self.held.append(value)
        if hasattr(type(value), "__next__"):
            return {"t": "stream", "v": len(self.held) - 1}
        return {"t": "handle", "v": [len(self.held) - 1, _truth(value), type(value).__name__[:80]]}

    def object(self, reference: Any) -> Any:
        """The object behind a handle, which the judge sends as its number."""
        return self.held[reference]

    def answer(self, request: dict[str, Any]) -> Any:
        """Carry out one request and return the value."""
        action, self.given = request["do"], ()
        if action == "weak":
            return self.weak(request)
        target = request["target"]
        if isinstance(target, str):
            try:
                found = vars(self.module)[target]
            except KeyError:
                raise NameError(f"the program does not define {target!r}") from None
        else:
            found = self.held[target]
        if action == "get":
            return found
        if action == "next":
            return self.items(target, request["count"])
        if action == "getattr":
            return getattr(found, request["name"])
        arguments, named = codec.decode(request["values"], self.object, REQUEST_DEPTH)
        if action == "setattr":
            return setattr(found, request["name"], arguments[0])
        if action == "send":
            return self.sent(target, arguments[0])
        self.given = (list(arguments), named)
        return found(*arguments, **named)

    def items(self, number: int, count: int) -> list[Any]:
        """Up to ``count`` items of an iterator, and whether there may be more. An error comes after items before it."""
        items: list[Any] = []
        try:
            for item in itertools.islice(self.held[number], count):
                items.append(item)
        except BaseException as error:
            if not items:
                raise
            self.held[number] = _raising(error)
            return [items, True]
        return [items, len(items) == count]

    def sent(self, number: int, value: Any) -> list[Any]:
        """The item that a generator makes of a value that is sent to it, and whether there may be more."""
        try:
            return [[self.held[number].send(value)], True]
        except StopIteration:
            return [[], False]

    def weak(self, request: dict[str, Any]) -> bool:
        """Run the tests in the program's process because they cannot be separated; the verdict can be forged."""
        space = vars(self.module)
        exec(compile(request["tests"], "<tests>", "exec"), space)
        if request["entry_point"]:
            space["check"](space[request["entry_point"]])
        return True


def _raising(error: BaseException) -> Iterator[Any]:
    """An iterator that raises ``error``."""
    yield from ()
    raise error


def _truth(value: Any) -> bool | None:
    try:
        return bool(value)
    except Exception:  # noqa: BLE001  (numpy arrays and hostile objects refuse; the judge then raises too)
        return None


def describe(error: BaseException) -> dict[str, str]:
    """An exception as plain data: the nearest built-in type, its name and its text."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:300]
    except BaseException:  # noqa: BLE001  (a hostile __str__ may raise anything; the type says enough)
        text = ""
    return {"type": kinds[0] if kinds else "Exception", "name": type(error).__name__[:80], "text": text}


def _send(program: Program, number: Any, value: Any) -> None:
    try:
        message = {"n": number, "value": codec.encode(value, program.handle)}
        reply = codec.pack(message)
        if value is None and program.given:
            # As `list.sort` does, it may have changed what it was given. If that cannot go back, the value still does.
            with contextlib.suppress(codec.CodecError):
                longer = codec.pack(message | {"given": codec.encode(program.given, program.handle)})
                reply = longer if len(longer) <= MOST_GIVEN else reply
    except Exception as error:  # noqa: BLE001  (the value's own code runs here; its failure is the answer)
        reply = codec.pack({"n": number, "raised": describe(error)})
    frames.write_frame(CHANNEL, reply)


def load(text: str, stdio: bool) -> tuple[Program | None, dict[str, Any]]:
    """Compile and run the program's text; returns it, unless it has ended, with the report for the judge."""
    try:
        code = script.compiled(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return None, {"loaded": "syntax", "raised": describe(error)}
    script.count_recursion_from_here()
    try:
        if stdio:
            status = script.run(code, text)
            return None, {"loaded": "yes"} if status == 0 else {"loaded": "ended", "status": status}
        program = Program(NAME)
        exec(code, vars(program.module))
    except SystemExit as leaving:
        ended = {"loaded": "ended", "status": script.exit_status(leaving), "raised": describe(leaving)}
        return None, ended if stdio else {"loaded": "raised", "raised": describe(leaving)}
    except BaseException as error:  # noqa: BLE001  (an exception of any kind is the program's)
        return None, {"loaded": "raised", "raised": describe(error)}
    return program, {"loaded": "yes"}


def run(stdio: bool) -> None:
    """Report that the isolation is in force, load what the judge sends, and answer until the judge is gone."""
    frames.write_frame(CHANNEL, b'{"sealed":true}')
    text = frames.read_frame(CHANNEL, REQUEST_LIMIT)
    if text is None:
        return
    program, report = load(text.decode("utf-8", "surrogatepass"), stdio)
    if stdio:
        with contextlib.suppress(OSError):
            os.close(1)
    frames.write_frame(CHANNEL, codec.pack(report))
    while program is not None:
        body = frames.read_frame(CHANNEL, REQUEST_LIMIT)
        if body is None:
            return
        request = codec.unpack(body)
        try:
            value = program.answer(request)
        except BaseException as error:  # noqa: BLE001  (an exception is an answer; SystemExit must not end the loop)
            frames.write_frame(CHANNEL, codec.pack({"n": request["n"], "raised": describe(error)}))
        else:
            _send(program, request["n"], value)
