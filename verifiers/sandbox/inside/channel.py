"""The judge's two channels: requests to the candidate, each bound to its reply, and reports to the client."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Generator, Iterator
from typing import Any, NoReturn

from . import candidate, codec, frames
from .candidate_exceptions import ProgramException

CLIENT = 4
_STREAM_ITEMS = 1024
"""Most items of an iterator in one reply."""
_SINGLE_ITEMS = 4
"""So many first items are made one at a time."""


def report(**message: Any) -> None:
    """Send a report to the client."""
    frames.write_frame(CLIENT, codec.pack(message))


class ChannelLost(BaseException):
    """The candidate is gone or sent no message. Not an Exception, so that no test swallows it."""


class Undeliverable(BaseException):
    """A test hands the program something that cannot be sent to another process."""


class ObjectHandle:
    """An object of the candidate's process: it can be called, passed back and inspected, but never compared."""

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

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = None  # type: ignore[assignment]


class Function:
    """A function of the program, by name."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.__name__ = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.request("call", self.__name__, values=[arguments, named])


class Channel:
    """Requests to the candidate, each bound to its reply by a number that is drawn at random.

    Attributes:
        lost: Why the candidate can no longer be used; empty while it can.
        calls: Number of requests that it has answered with a value or an exception.
        program_used: The tests have used the program, so their failure may be its fault (sent as ``engaged``).
        objects: Objects that this side has sent, mainly functions.
        unhandled: Exceptions of the program that no handler in the tests has caught.
        undelivered: Status and detail of the first request that could not be sent.
    """

    def __init__(self, reply_limit: int) -> None:
        self.reply_limit = reply_limit
        self.lost = ""
        self.calls = 0
        self.program_used = False
        self.objects = False
        self.unhandled: set[ProgramException] = set()
        self.undelivered: tuple[str, str] | None = None

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
        """Mark the candidate as lost. Raises ChannelLost."""
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
        """Ask the candidate to do something and return the value. Raises ``ProgramException`` if the program raised."""
        number = secrets.randbits(48)
        given = fields.get("values")
        if given is not None:
            try:
                fields["values"] = codec.encode(fields["values"], _send_handle, candidate.REQUEST_DEPTH)
            except codec.CodecError as error:
                self._not_sent(error)
        self.send(codec.pack({"do": action, "target": target, "n": number, **fields}))
        if action != "get":
            # Before its answer is read, which may be the judge's end.
            self._mark_program_used()
        reply = self.receive()
        if reply.get("n") != number:
            self.lose("the program sent a reply that does not belong to a request")
        if "raised" in reply:
            self._raise(action, ProgramException(reply["raised"], self.unhandled))
        try:
            value = codec.decode(reply.get("value"), self._make_handle)
            if value is None and given is not None and "given" in reply:
                self._take_back(given, reply["given"])
        except codec.CodecError as error:
            self.lose(f"the program's reply could not be read: {error}")
        # Returning a function cannot make a test fail yet.
        if action != "get" or type(value) is not ObjectHandle:
            self._mark_program_used()
            self.calls += 1
        return value

    def _take_back(self, given: Any, data: Any) -> None:
        """Change arguments as the program has changed its copies of them. Raises CodecError."""
        copies = codec.decode(data, self._make_handle)
        if type(copies) is not tuple or [type(part) for part in copies] != [list, dict]:
            raise codec.CodecError("no arguments")
        for old, new in zip(given[0], copies[0], strict=False):
            codec.replace_contents(old, new)
        for name, old in given[1].items():
            codec.replace_contents(old, copies[1].get(name))

    def _mark_program_used(self) -> None:
        """From now on, an error in the tests may be caused by the program."""
        if not self.program_used:
            self.program_used = True
            report(engaged=True)

    def _raise(self, action: str, raised: ProgramException) -> NoReturn:
        self._mark_program_used()
        self.calls += 1
        if action == "getattr" and type(raised.error) is AttributeError:
            # That an object has no such attribute is an answer, which ``hasattr`` asks for.
            raised.mark_handled()
            raise raised.error
        raise raised

    def _not_sent(self, error: codec.CodecError) -> NoReturn:
        """Who is to blame if arguments cannot be sent; a program must not be able to shift the blame to the tests."""
        if isinstance(error, codec.Unencodable):
            status = "unsplittable"
        else:  # too deep or too long, which values of the program's may have made it
            status = "wrong" if self.program_used else "broken"
        self.undelivered = self.undelivered or (
            status,
            f"the tests pass an argument that cannot be sent to the program: {error}",
        )
        raise Undeliverable(self.undelivered[1]) from error

    def _stream(self, number: int) -> Generator[Any, Any, None]:
        """The items of an iterator of the program, which are made when they are needed: there may be no end of them.

        What the tests send is passed on to a generator of the program, as long as no item was made in advance.
        """
        asked, more, sent = 0, True, None
        while more:
            if sent is None:
                # One at a time at first, and after the tests have sent something.
                count = 1 if asked < _SINGLE_ITEMS else min(asked, _STREAM_ITEMS)
                items, more = self.request("next", number, count=count)
            else:
                items, more = self.request("send", number, values=[(sent,), {}])
                asked = -sys.maxsize
            asked += len(items)
            for item in items:
                sent = yield item
                if sent is not None and asked > _SINGLE_ITEMS:
                    raise TypeError(f"send() after {_SINGLE_ITEMS} items of an iterator of the program")

    def _make_handle(self, value: Any) -> ObjectHandle | Iterator[Any]:
        if type(value) is int:
            return self._stream(value)
        if type(value) is not list or [type(part) for part in value[::2]] != [int, str] or len(value) != 3:
            raise codec.CodecError("a handle of the wrong form")
        self.objects = True
        return ObjectHandle(self, value[0], value[1], value[2][:80])


def _send_handle(value: Any) -> dict[str, Any]:
    if type(value) is ObjectHandle:
        return {"t": "handle", "v": value._number}
    if hasattr(type(value), "__next__"):
        return codec.drained(value, _send_handle, candidate.REQUEST_DEPTH)
    what = f"a {type(value).__name__}"
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        # An array of objects: numpy makes one of any value of the program that is not a table of numbers.
        raise codec.CodecError(f"{what} of objects")
    raise codec.Unencodable(what)
