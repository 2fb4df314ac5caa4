"""The process that decides: it runs the tests, and asks the candidate for values over a bounded, typed channel.

The program is known here by a proxy. A call sends the arguments and receives a value of built-in types; every
comparison happens on this side. The judge is sealed like the candidate, because tests come from files too, and it
is killed with it when the time is up, because a test may loop for ever over what a program returns.

Reports go to the client as frames of JSON: ``started`` (the candidate is sealed and the program is on its way),
``engaged`` (the program has answered something), and the last one with ``status``.
"""

from __future__ import annotations

import ast
import builtins
import fcntl
import importlib
import os
import secrets
import select
import socket
import sys
import traceback
from typing import Any, NoReturn

from . import candidate, codec, frames

CLIENT, STDIN, STDOUT = 4, 5, 6
JOB_LIMIT = 256 << 20
DONE, CANDIDATE_ENDED, REPLACE_ME = b"d", b"c", b"r"
"""Words to the server after a job. The second: the candidate's end of the channel closed, so ask how it ended."""

_DETAIL = 500


class ChannelLost(BaseException):
    """The candidate is gone or sent no message. Not an Exception, so that no test swallows it."""


class Unsplittable(BaseException):
    """A test hands the program something that cannot be sent to another process."""


class CandidateError(Exception):
    """Stands for an exception of the program whose type is not built in."""


class Opaque:
    """An object of the candidate's process: it can be called, passed back and looked into, but never compared."""

    __slots__ = ("_channel", "_kind", "_number", "_truth")

    def __init__(self, channel: Channel, number: int, truth: Any, kind: str) -> None:
        for name, value in (("_channel", channel), ("_number", number), ("_truth", truth), ("_kind", kind)):
            object.__setattr__(self, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.request("call", self._number, values=[arguments, named])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.request("getattr", self._number, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.request("setattr", self._number, name=name, values=[(value,), {}])

    def __bool__(self) -> bool:
        if type(self._truth) is not bool:
            raise TypeError(f"a {self._kind} of the program has no truth value")
        return self._truth

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"the program returned a {self._kind}, which cannot be compared from outside")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Function:
    """A function of the program, by name."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.__name__ = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.request("call", self.__name__, values=[arguments, named])


class Channel:
    """Requests to the candidate, each bound to its reply by a number that is drawn at random."""

    def __init__(self, reply_limit: int) -> None:
        self.reply_limit = reply_limit
        self.lost = ""
        self.calls = 0
        self.engaged = False

    def receive(self) -> dict[str, Any]:
        """The candidate's next message. Raises ChannelLost, and again on each later use."""
        try:
            body = frames.read_frame(candidate.CHANNEL, self.reply_limit)
            message = None if body is None else codec.unpack(body)
        except (frames.FrameError, codec.CodecError, OSError) as error:
            self.lose(f"the program's reply could not be read: {error}")
        if message is None:
            self.lose("the program's process ended before it had answered")
        return message

    def lose(self, why: str) -> NoReturn:
        """Give the candidate up. Raises ChannelLost."""
        self.lost = self.lost or why
        raise ChannelLost(self.lost)

    def send(self, body: bytes) -> None:
        """Send one message. Raises ChannelLost."""
        if self.lost:
            raise ChannelLost(self.lost)
        try:
            frames.write_frame(candidate.CHANNEL, body)
        except OSError:
            self.lose("the program's process ended before it was asked")

    def request(self, action: str, target: str | int, **fields: Any) -> Any:
        """Ask the candidate to do something; returns the value, or raises what the program raised."""
        number = secrets.randbits(48)
        if "values" in fields:
            try:
                fields["values"] = codec.encode(fields["values"], _send_handle)
            except codec.CodecError as error:
                raise Unsplittable(str(error)) from error
        self.send(codec.pack({"do": action, "target": target, "n": number, **fields}))
        reply = self.receive()
        if reply.get("n") != number:
            self.lose("the program sent a reply to nothing that it was asked")
        if "raised" in reply:
            self._engage()
            raise _exception(reply["raised"])
        try:
            value = codec.decode(reply.get("value"), self._opaque)
        except codec.CodecError as error:
            self.lose(f"the program's reply could not be read: {error}")
        # Handing out a function is not yet an answer that a test could stumble over.
        if action != "get" or type(value) is not Opaque:
            self._engage()
        return value

    def _engage(self) -> None:
        if not self.engaged:
            self.engaged = True
            report(engaged=True)
        self.calls += 1

    def _opaque(self, value: Any) -> Opaque:
        if type(value) is not list or [type(part) for part in value[::2]] != [int, str] or len(value) != 3:
            raise codec.CodecError("a handle of the wrong form")
        return Opaque(self, value[0], value[1], value[2][:80])


def _send_handle(value: Any) -> dict[str, Any]:
    if type(value) is Opaque:
        return {"t": "handle", "v": value._number}
    raise codec.Unencodable(f"the tests pass a {type(value).__name__} to the program")


def _text(data: Any, key: str) -> str:
    value = data.get(key, "") if type(data) is dict else ""
    return value[:300] if type(value) is str else ""


def _exception(raised: Any) -> Exception:
    """The program's exception as one of the built-in type, so that tests which expect it can catch it."""
    name, text = _text(raised, "name"), _text(raised, "text")
    kind = getattr(builtins, _text(raised, "type"), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = CandidateError
    try:
        error: Exception = kind(text)
    except TypeError:  # a few, such as UnicodeDecodeError, want more than a text
        error = CandidateError(text)
    error._of_candidate = f"{name}: {text}" if text else name  # type: ignore[attr-defined]
    return error


def report(**message: Any) -> None:
    """Tell the client."""
    frames.write_frame(CLIENT, codec.pack(message))


def _where(error: BaseException, source: str) -> str:
    """The line of the tests at which ``error`` was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    text = source.splitlines()
    if not lines or not lines[-1] or lines[-1] > len(text):
        return ""
    return f"line {lines[-1]} of the tests: {text[lines[-1] - 1].strip()}"


def serve() -> None:
    """Judge one job after the other: each comes as a message with the descriptors that it needs."""
    # The feed moves to where no job's descriptors will stand.
    number = os.dup2(candidate.CHANNEL, STDOUT + 1)
    # With all three given, Python does not ask the kernel for them, which the seal would refuse.
    feed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=number)
    while True:
        limit, descriptors, _, _ = socket.recv_fds(feed, 64, 4)
        if not limit:
            return
        # Above all targets first, since one may stand where another belongs.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 32) for descriptor in descriptors]
        os.closerange(candidate.CHANNEL, STDOUT + 1)
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, candidate.CHANNEL + number)
        os.closerange(STDOUT + 2, 64)
        try:
            word = run(int(limit))
        except Exception as error:  # noqa: BLE001  (said to the client, who calls it a fault of the verifier)
            report(status="broken", detail=f"the judge failed: {type(error).__name__}: {error}"[:_DETAIL])
            word = REPLACE_ME
        # The client reads up to the end of this.
        os.closerange(candidate.CHANNEL, STDOUT + 1)
        os.write(feed.fileno(), word)


def run(reply_limit: int) -> bytes:
    """Take the job from the client, judge it, report; returns the word for the server."""
    body = frames.read_frame(CLIENT, JOB_LIMIT)
    if body is None:
        return DONE
    job = codec.unpack(body)
    channel = Channel(reply_limit)
    try:
        ready = channel.receive()
    except ChannelLost as error:
        report(status="infrastructure", detail=f"the program's process did not start: {error}")
        return REPLACE_ME
    if not ready.get("sealed"):
        report(status="infrastructure", detail=f"the program's process: {_text(ready, 'failed')}")
        return REPLACE_ME
    report(started=True)
    verdict = _stdio(job, channel) if job["kind"] == "stdio" else _tested(job, channel)
    report(calls=channel.calls, **verdict)
    if channel.lost:
        return CANDIDATE_ENDED
    return DONE if verdict["status"] in ("correct", "wrong", "crash", "syntax") else REPLACE_ME


def _verdict(status: str, detail: str = "") -> dict[str, Any]:
    return {"status": status, "detail": detail[:_DETAIL]}


def _load(job: dict[str, Any], channel: Channel) -> dict[str, Any] | None:
    """Send the program and wait until it is loaded; a verdict where that fails."""
    channel.send(job["program"].encode("utf-8", "surrogatepass"))
    loaded = channel.receive()
    state = loaded.get("loaded")
    if state == "yes":
        return None
    error = _exception(loaded.get("raised"))
    what = getattr(error, "_of_candidate", "")
    if state == "syntax":
        return _verdict("syntax", f"the program does not compile: {what}")
    return _verdict("crash", f"the program raised as it was loaded: {what}")


def _tested(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Run tests that call the program: a ``check`` function with an entry point, or plain asserts."""
    tests = job["tests"]
    try:
        failed = _load(job, channel)
        if failed is not None:
            return failed
        if job["kind"] == "weak":
            return _weak(job, channel)
        else:
            _run_tests(job, channel)
    except ChannelLost as error:
        return _verdict("crash", str(error))
    except Unsplittable as error:
        return _verdict("unsplittable", str(error))
    except BaseException as error:  # noqa: BLE001  (whatever a test raises is the outcome of the test)
        return _failure(error, tests, channel)
    if channel.lost:
        return _verdict("crash", channel.lost)
    if channel.calls == 0:
        return _verdict("broken", "the tests passed without calling the program once")
    return _verdict("correct")


def _weak(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Let the candidate's process run the tests itself: what it then says is only its word."""
    try:
        channel.request("weak", "", tests=job["tests"], entry_point=job["entry_point"])
    except AssertionError as error:
        return _verdict("wrong", str(error))
    return _verdict("correct")


def _failure(error: BaseException, tests: str, channel: Channel) -> dict[str, Any]:
    of_candidate = getattr(error, "_of_candidate", None)
    if of_candidate is not None:
        return _verdict("crash", f"the program raised {of_candidate}; {_where(error, tests)}")
    if isinstance(error, AssertionError):
        return _verdict("wrong", _where(error, tests) or str(error))
    what = f"{type(error).__name__}: {error}"
    if not channel.engaged:
        return _verdict("broken", f"the tests failed before they called the program: {what}")
    # The tests met a value that they cannot digest: None where a list was due, an object that refuses comparison.
    return _verdict("wrong", f"{what[:200]}; {_where(error, tests)}")


def _run_tests(job: dict[str, Any], channel: Channel) -> None:
    tests, entry = job["tests"], job["entry_point"]
    space: dict[str, Any] = {"__name__": "tests"}
    if entry:
        exec(compile(job["prompt"], "<prompt>", "exec"), space)
        exec(compile(tests, "<tests>", "exec"), space)
        # Also under its own name, which some tests use instead of their parameter.
        space[entry] = Function(channel, entry)
        space["check"](space[entry])
        return
    tree = ast.parse(tests)
    for name in job["names"]:
        space[name] = channel.request("get", name)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    for name in free_names(tree, space):
        # A module must be the real one: a program's own `math` could find everything close to everything. What is
        # called is no module, whatever its name.
        module = name in sys.stdlib_module_names and name not in called
        space[name] = importlib.import_module(name) if module else channel.request("get", name)
    exec(compile(tree, "<tests>", "exec"), space)


def free_names(tree: ast.AST, space: dict[str, Any]) -> list[str]:
    """Names that the tests use and nobody on this side defines: those must come from the program.

    Built-in names are never among them, or a program could bring its own ``len`` or ``set`` to be tested with.
    """
    used, bound = [], set(space) | set(vars(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.append(node.id) if isinstance(node.ctx, ast.Load) else bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return [name for name in dict.fromkeys(used) if name not in bound]


def _stdio(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Feed the program its input, collect what it prints up to the limit, and compare here."""
    try:
        channel.send(job["program"].encode("utf-8", "surrogatepass"))
        printed = _talk(job["input"].encode("utf-8"), channel.reply_limit)
        if printed is None:
            return _verdict("wrong", f"the program printed more than {channel.reply_limit} bytes")
        channel.engaged = True
        try:
            loaded = channel.receive()
        except ChannelLost:
            # It ended itself; what it printed counts if its exit status, which the server asks for, is 0.
            loaded = {"loaded": "yes"}
    except ChannelLost as error:
        return _verdict("crash", str(error))
    channel.calls = 1
    if loaded.get("loaded") != "yes":
        what = getattr(_exception(loaded.get("raised")), "_of_candidate", "")
        return _verdict("syntax" if loaded.get("loaded") == "syntax" else "crash", f"the program raised {what}")
    if _lines(printed.decode("utf-8", "replace")) != _lines(job["output"]):
        return _verdict("wrong", f"the program printed {printed[:200]!r}")
    return _verdict("correct")


def _lines(text: str) -> list[str]:
    """Printed text as it is compared: without white space at the ends of lines and without empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _talk(data: bytes, limit: int) -> bytes | None:
    """Write ``data`` to the program and read its output until both are done; None where it is too much."""
    # By fcntl, because os.set_blocking would use ioctl, which the seal does not let through.
    fcntl.fcntl(STDIN, fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK)
    pending, total = memoryview(data), 0
    parts: list[bytes] = []
    if not pending:
        os.close(STDIN)
    while True:
        readable, writable, _ = select.select([STDOUT], [STDIN] if pending else [], [])
        if writable:
            try:
                pending = pending[os.write(STDIN, pending) :]
            except BrokenPipeError:
                pending = pending[:0]
            if not pending:
                os.close(STDIN)
        if readable:
            part = os.read(STDOUT, 1 << 16)
            if not part:
                return b"".join(parts)
            total += len(part)
            if total > limit:
                return None
            parts.append(part)
