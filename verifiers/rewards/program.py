"""What the process of a user's code does: load it once, and grade answers until the connection closes.

The parent sends pickles, which come from bonrl itself; the replies are JSON. The parent copies prints into its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import json
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from verifiers.rewards.response import Response
from verifiers.rewards.results import Grading, ResultError, listed, to_json
from verifiers.rewards.signature import LENGTHS, Signature, lengths_of
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.user_code import UserCodeError, load, load_module, parse, traceback_of
from verifiers.verdict import Verdict

HEADER = struct.Struct("!Q")
_TEXTS = "prompts and completions are texts here, not lists of messages (docs/migrate.md)"


@dataclass(frozen=True, slots=True)
class Job:
    """What the process serves.

    Attributes:
        kind: ``reward`` (``task.reward``), ``scorer`` (``task.scorer.kind``) or ``task`` (``task.name``).
        settings: The section ``task``.
        plugins: Loaded first; they may register the task.
        timeout_s: Deadline of one call.
    """

    kind: str
    settings: TaskSettings
    plugins: tuple[str, ...]
    timeout_s: float


class LateError(UserCodeError):
    """An asynchronous call exceeded its deadline."""


class Grader:
    """The user's code, loaded. Calls it and turns what it returns or raises into JSON."""

    def __init__(self, job: Job) -> None:
        for plugin in job.plugins:
            load_module(parse(plugin, needs_name=False))
        settings = job.settings
        self._timeout_s = job.timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        weights = settings.reward_weights if job.kind != "scorer" else {}
        self._grading = Grading(weights, settings.reward_correct_at, takes_parts=job.kind != "scorer")
        self._signature: Signature | None = None
        if job.kind == "task":
            from verifiers.tasks.user_task import make_user_object

            self._function: Callable[..., Any] = make_user_object(settings).verify
            parameters = inspect.signature(self._function).parameters
            self._lengths = [name for name in LENGTHS if name in parameters]
            self._by_name = all(
                name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
                for name in ("prompt", "response")
            )
            self.where = f"verify of task.name = {settings.name}"
            self.batch = False
        else:
            reference = settings.reward if job.kind == "reward" else settings.scorer.kind
            assert reference is not None
            self._function = _function(reference)
            name = getattr(self._function, "__name__", type(self._function).__name__)
            self._signature = Signature(self._function, name, settings.options if job.kind == "reward" else {})
            self.where, self.batch = self._signature.where, self._signature.batch

    def grade(self, prompt: Prompt, responses: Sequence[Response]) -> Iterator[dict[str, Any]]:
        """One result for each response, in order: a verdict, or ``error`` with the reason."""
        if self.batch:
            yield from self._batch(prompt, responses)
        elif inspect.iscoroutinefunction(self._function) or inspect.iscoroutinefunction(
            getattr(self._function, "__call__", None)  # noqa: B004  # an object with an asynchronous __call__
        ):
            yield from self._concurrently(prompt, responses)
        else:
            for response in responses:
                started = time.perf_counter()
                yield self._result(partial(self._call, prompt, [response]), started)

    def _call(self, prompt: Prompt, responses: Sequence[Response]) -> Any:
        positional, named = self._arguments(prompt, responses)
        result = self._function(*positional, **named)
        return self._run(_limited(result, self._timeout_s)) if inspect.isawaitable(result) else result

    def _arguments(self, prompt: Prompt, responses: Sequence[Response]) -> tuple[list[Any], dict[str, Any]]:
        if self._signature is not None:
            return self._signature.arguments(prompt, responses)
        known = lengths_of(responses[0])
        named: dict[str, Any] = {name: known[name] for name in self._lengths}
        if self._by_name:  # in any order
            return [], named | {"prompt": prompt, "response": responses[0].text}
        return [prompt, responses[0].text], named

    def _batch(self, prompt: Prompt, responses: Sequence[Response]) -> Iterator[dict[str, Any]]:
        started = time.perf_counter()
        results: list[Any] = []

        def call() -> Any:
            results.extend(listed(self._call(prompt, responses), len(responses)))

        failure = self._failure(call)
        if failure is not None:
            yield from [failure] * len(responses)
        else:
            seconds = (time.perf_counter() - started) / len(responses)
            for result in results:
                yield self._result(partial(_same, result), None, seconds)

    def _concurrently(self, prompt: Prompt, responses: Sequence[Response]) -> Iterator[dict[str, Any]]:
        """Grade all answers of the group concurrently, each with the deadline."""

        async def one(response: Response) -> dict[str, Any]:
            started, results = time.perf_counter(), []
            try:
                positional, named = self._arguments(prompt, [response])
                results.append(await _limited(self._function(*positional, **named), self._timeout_s))
            except BaseException as error:  # noqa: BLE001  # also sys.exit
                return self._error(error)
            return self._result(lambda: results[0], started)

        async def every() -> list[dict[str, Any]]:
            # deadline: each has its own
            return await asyncio.gather(*map(one, responses))

        results: list[dict[str, Any]] = []
        failure = self._failure(lambda: results.extend(self._run(every())))  # sys.exit in a task of the user's own
        yield from results if failure is None else [failure] * len(responses)

    def _result(self, call: Callable[[], Any], started: float | None, seconds: float | None = None) -> dict[str, Any]:
        """The verdict of what `call` returns, as JSON types."""
        verdicts: list[Verdict] = []
        failure = self._failure(lambda: verdicts.append(self._grading.verdict(call())))
        if failure is not None:
            return failure
        result = to_json(verdicts[0])
        result["seconds"] = seconds if started is None else time.perf_counter() - started
        return result

    def _failure(self, work: Callable[[], Any]) -> dict[str, Any] | None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # also sys.exit
            return self._error(error)
        return None

    def _error(self, error: BaseException) -> dict[str, Any]:
        found = _error(error, self.where)
        if isinstance(error, TypeError) and self._signature is not None and self._signature.as_in_trl:
            found["error"] += f"\n{_TEXTS}"
        return found

    def _run(self, work: Awaitable[Any]) -> Any:
        """Await on an event loop that lives as long as the process, so that sessions can be reused."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(work)


def _same(value: Any) -> Any:
    return value


async def _limited(work: Awaitable[Any], timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            result = await work
    except TimeoutError as error:
        if not limit.expired():
            raise  # of the user's own code
        raise LateError(f"no result within {timeout_s:g} s (task.reward_timeout_s)") from error.__cause__
    if limit.expired():  # `except BaseException: return 0` in the user's code would make the deadline a wrong answer
        raise LateError(
            f"no result within {timeout_s:g} s (task.reward_timeout_s), and it went on after it was cancelled; raise "
            "asyncio.CancelledError again where it is caught"
        )
    return result


def _function(reference: str) -> Callable[..., Any]:
    """The function; an instance of a class, made once, whose ``__call__`` is the function."""
    from verifiers.scorers import USER_SCORERS

    found = USER_SCORERS.get(reference) or load(reference)
    if inspect.isclass(found):
        try:
            found = found()
        except BaseException as error:  # also sys.exit
            raise UserCodeError(
                f"{reference}: the class cannot be instantiated, which is done without arguments: {traceback_of(error)}"
            ) from error
        if not callable(found):
            raise UserCodeError(f"{reference} is a class without __call__(self, response, ...); add it: it grades")
    if not callable(found):
        raise UserCodeError(f"{reference} has the type {type(found).__name__}; name a function")
    return found


def _error(error: BaseException, where: str) -> dict[str, Any]:
    if isinstance(error, ResultError):
        return {"error": f"{where} {error}"}
    if isinstance(error, LateError):
        place = f"; it was here: {traceback_of(error.__cause__)}" if error.__cause__ is not None else ""
        return {"error": f"{where}: {error}{place}", "late": True}
    if isinstance(error, UserCodeError):
        return {"error": str(error)}
    return {"error": f"{where} raised: {traceback_of(error)}"}


def send(connection: socket.socket, payload: bytes) -> None:
    """One frame: its length, then its bytes."""
    connection.sendall(HEADER.pack(len(payload)) + payload)


def receive(connection: socket.socket) -> bytes:
    """The next frame. Raises EOFError if the connection is closed."""
    (length,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = connection.recv(min(count - len(data), 1 << 20))  # deadline: the parent's; it kills this process
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def main(descriptor: int, stacks: int) -> None:
    """Serve the connection `descriptor`. The stack of a call that hangs or crashes is written to `stacks`."""
    with contextlib.suppress(OSError):  # the kernel should kill this process first when memory runs out
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    connection = socket.socket(fileno=descriptor)
    # A process that the user's code starts must not hold the connection: the parent would not see this one end.
    for inherited in (descriptor, stacks):
        os.set_inheritable(inherited, False)
    os.register_at_fork(after_in_child=connection.close)
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(connection, requests), daemon=True).start()
    faulthandler.enable(stacks)
    job: Job = requests.get()  # deadline: the parent's; it kills this process
    try:
        grader = Grader(job)
    except BaseException as error:  # noqa: BLE001  # also sys.exit
        known = isinstance(error, UserCodeError)
        _reply(connection, {"error": str(error) if known else traceback_of(error)})
        return
    _reply(connection, {"ready": grader.where, "batch": grader.batch})
    while True:
        prompt, responses = requests.get()  # deadline: the parent's; it kills this process
        os.ftruncate(stacks, 0)
        os.lseek(stacks, 0, os.SEEK_SET)
        results = grader.grade(prompt, responses)
        for _ in responses:
            faulthandler.dump_traceback_later(job.timeout_s, file=stacks)
            result = next(results)
            faulthandler.cancel_dump_traceback_later()
            _flush()
            _reply(connection, result)


def _reply(connection: socket.socket, message: dict[str, Any]) -> None:
    send(connection, json.dumps(message, allow_nan=False).encode())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the user may have closed or replaced it
            stream.flush()


def _read(connection: socket.socket, requests: queue.Queue[Any]) -> None:
    """The thread that reads requests; when the parent is gone, it ends this process with all its children."""
    try:
        while True:
            requests.put(pickle.loads(receive(connection)))
    finally:
        os.killpg(os.getpid(), signal.SIGKILL)
