"""A group of processes in which rank 0 sends tensors to all others: NCCL between GPUs, gloo between CPUs.

Rank 0 (:class:`Sender`, in learner rank 0) hosts a TCPStore; the workers of the engines (:class:`Receiver`) connect to
it. The group is neither torch's default group nor one of DeepSpeed's or vLLM's. Each update is a round:

    receiver r    sets ready/ROUND/r and waits for go/ROUND
    rank 0        waits until all are ready and sets go/ROUND
    all           form the group in its first round; then one broadcast per bucket

A broadcast has no timeout, and with a dead member it never ends. Every wait here therefore also ends

- when a member gives up, which it reports in the key `stop`;
- when the connection to the store ends;
- at a deadline.

A group that was stopped is not used again.

NCCL has not run here yet: the tests use gloo.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch.distributed import PrefixStore, TCPStore

from actors.threads import begin
from actors.weights.base import TransferError

logger = logging.getLogger(__name__)

STOP = "stop"
CONNECT_SECONDS = 30.0  # to connect to the store
SILENT_SECONDS = 30.0  # without an answer of the store: its node is lost, or its process hangs
_POLL_SECONDS = 0.05  # between two checks of the store
_EXPLANATION_SECONDS = 0.3  # in which the death of another member shows in the store
_SHORTEST_NAP, _LONGEST_NAP = 0.0002, 0.01  # between two checks of work in this process


class Place(NamedTuple):
    """Where a group meets: the store's address, the group's name, its number of members, and "cpu" or "cuda"."""

    host: str
    port: int
    name: str
    size: int
    device: str


class Deadline:
    """A deadline that began when it was made; `key`: the setting it comes from."""

    def __init__(self, seconds: float, key: str) -> None:
        self.seconds, self._key = seconds, key
        self._end = time.monotonic() + seconds

    @property
    def expired(self) -> bool:
        return time.monotonic() > self._end

    def __str__(self) -> str:
        return f"{self.seconds:g} s ({self._key})"


class _Member:
    """What sender and receivers share: the group and waiting for its work."""

    def __init__(self, place: Place, rank: int, device: torch.device) -> None:
        self.place, self.rank, self.device = place, rank, device
        self._group: Any = None
        self._pending: Any = None  # the broadcast that runs

    def _why_stopped(self) -> str | None:
        """Why the group was stopped, or None."""
        raise NotImplementedError

    def _until(self, done: Callable[[], bool], deadline: Deadline, overdue: str) -> None:
        """Wait until `done`.

        Raises:
            TransferError: the group was stopped, or `deadline` is over, of which `overdue` says who did not do what.
        """
        nap = _SHORTEST_NAP
        while not done():
            if reason := self._why_stopped():
                raise TransferError(reason)
            if deadline.expired:
                raise TransferError(f"{overdue} within {deadline}")
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)

    def _form_group(self, deadline: Deadline) -> None:
        """Make the group, in a thread, because a member that dies now would block this one."""
        if self._group is not None:
            return
        forming = begin(lambda: _backend(self.place, self.rank, self.device, deadline.seconds), "form the group")
        self._until(forming.done, deadline, f"{self.place.size} processes did not form a group")
        try:
            self._group = forming.result(timeout=0)
        except Exception as error:
            raise TransferError(
                f"a group of {self.place.size} processes cannot be formed: {_one_line(error)}"
            ) from error

    def _broadcast(self, flat: torch.Tensor, deadline: Deadline) -> None:
        """Send, or fill, `flat` (uint8 [nbytes] on the group's device)."""
        if flat.numel() == 0:
            return
        try:
            self._pending = self._group.broadcast(flat, 0)
            self._until(self._pending.is_completed, deadline, "the broadcast of the weights did not end")
            self._pending.wait(timedelta(seconds=CONNECT_SECONDS))  # it is complete; this raises its error
        except RuntimeError as error:
            if isinstance(error, TransferError):
                raise
            raise TransferError(self._failure_reason(error)) from error
        self._pending = None

    def _failure_reason(self, error: RuntimeError) -> str:
        """What the store reports about a failed broadcast, if it reports it soon."""
        end = time.monotonic() + _EXPLANATION_SECONDS
        while (reason := self._why_stopped()) is None and time.monotonic() < end:
            time.sleep(_LONGEST_NAP)
        return reason or f"the broadcast of the weights failed: {_one_line(error)}"

    def leave(self) -> None:
        """Abort what runs and free the group."""
        group, pending, self._group, self._pending = self._group, self._pending, None, None
        if group is None:
            return
        if self.place.device == "cuda":
            begin(lambda: _abort(group), "abort the group")
        elif pending is not None and not pending.is_completed():
            # gloo cannot abort. Its destructor would wait, with Python's lock, until the operation times out.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


class Sender(_Member):
    """Rank 0 of a new group.

    Args:
        host: address of this node that the receivers reach.
        receivers: names of the ranks 1, 2, ... for messages.
        device: where the buckets are.

    Raises:
        TransferError: `host` cannot be bound or reached.
    """

    def __init__(self, host: str, receivers: Sequence[str], device: torch.device) -> None:
        timeout = timedelta(seconds=CONNECT_SECONDS)
        try:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        except RuntimeError as error:
            raise TransferError(
                f"learner rank 0 cannot listen at {host}, the address of its node in Ray, for the samplers of "
                f"broadcast.backend = nccl: {_one_line(error)}; check the network of the node, or use host"
            ) from error
        super().__init__(Place(host, self._store.port, uuid4().hex, 1 + len(receivers), device.type), 0, device)
        self._receivers = receivers
        self._stop_reason: str | None = None
        self._lock = threading.Lock()
        self._checked_at = 0.0  # when the key `stop` was last read
        self.sent_all = False  # the last broadcast of the round was begun

    @property
    def stopped(self) -> bool:
        """Whether the group must not be used again."""
        return self._why_stopped(at_once=True) is not None

    def send(self, round_: int, buckets: Sequence[torch.Tensor], ready: Deadline, transfer_s: float, key: str) -> None:
        """Send `buckets` (uint8 [nbytes] each) to all receivers; blocks.

        Args:
            round_: the number of the update, one more than that of the last one.
            ready: for the receivers to pause and join.
            transfer_s, key: seconds for the broadcasts, and the setting they come from.

        Raises:
            TransferError: the group was stopped, a member is dead, or a deadline is over; call :meth:`stop` then.
        """
        self.sent_all = False
        self._forget(round_ - 1)
        self._await_receivers(round_, ready)
        self._store.set(f"go/{round_}", "")
        deadline = Deadline(transfer_s, key)
        self._form_group(deadline)
        for index, flat in enumerate(buckets):
            self.sent_all = index == len(buckets) - 1
            self._broadcast(flat, deadline)

    def stop(self, reason: str) -> None:
        """End the group for all members, which get `reason`; any thread may call it, also again."""
        with self._lock:
            if self._stop_reason is not None:
                return
            self._stop_reason = f"learner rank 0 gave the update up: {reason}"
        self._store.set(STOP, self._stop_reason)

    def _forget(self, round_: int) -> None:
        """Remove the keys of a round that is over for all members, so that the store does not grow."""
        for name in (f"go/{round_}", *(_ready(round_, rank) for rank in range(1, self.place.size))):
            self._store.delete_key(name)

    def _await_receivers(self, round_: int, deadline: Deadline) -> None:
        missing = list(range(1, self.place.size))

        def all_ready() -> bool:
            while missing and self._store.check([_ready(round_, missing[0])]):
                missing.pop(0)
            return not missing

        try:
            self._until(all_ready, deadline, "not every sampler was ready for the weights")
        except TransferError as error:
            if self.stopped:
                raise
            late = self._receivers[missing[0] - 1]
            raise TransferError(f"{late} was not ready for the weights within {deadline}") from error

    def _why_stopped(self, *, at_once: bool = False) -> str | None:
        if self._stop_reason is None and (at_once or time.monotonic() - self._checked_at > _POLL_SECONDS):
            self._checked_at = time.monotonic()
            if self._store.check([STOP]):
                self._stop_reason = self._store.get(STOP).decode()
        return self._stop_reason


class Receiver(_Member):
    """Rank `rank` of a group that a :class:`Sender` made. After an error it cannot be used again; :meth:`close` it.

    Raises:
        TransferError: on every call: the sender gave up, has ended or does not answer, or a deadline is over.
    """

    def __init__(self, place: Place, rank: int, device: torch.device) -> None:
        super().__init__(place, rank, device)
        self._stop_reason: str | None = None
        self._round = 0
        self._key_to_set: str | None = None  # a key for the store
        self._abort_reason: str | None = None  # why this member gives up
        self._awaited_key: str | None = None  # the key that this member waits for
        self._answered_at = time.monotonic()
        self._watching, self._closed = threading.Event(), threading.Event()
        threading.Thread(target=self._poll_store, name="weight store", daemon=True).start()

    def receive(self, round_: int, nbytes: int, deadline: Deadline) -> torch.Tensor:
        """The next bucket of the update `round_`: uint8 [nbytes]."""
        if round_ != self._round:
            self._key_to_set, self._awaited_key = _ready(round_, self.rank), f"go/{round_}"
        with self._watching_store():
            if round_ != self._round:
                self._until(
                    lambda: self._awaited_key is None, deadline, "learner rank 0 did not begin to send the weights"
                )
                self._form_group(deadline)
                self._round = round_
            flat = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
            self._broadcast(flat, deadline)
            return flat

    def close(self, reason: str | None = None) -> None:
        """Leave the group; with a `reason`, end it for all members."""
        if reason is not None and self._stop_reason is None:
            self._abort_reason = f"rank {self.rank} of the samplers gave the update up: {reason}"
        self._closed.set()
        self._watching.set()
        self.leave()

    @contextlib.contextmanager
    def _watching_store(self) -> Iterator[None]:
        """While the block runs, watch the store for a reason to stop."""
        self._answered_at = time.monotonic()
        self._watching.set()
        try:
            yield
        finally:
            self._watching.clear()

    def _poll_store(self) -> None:
        """Communicate with the store on a separate thread, because a call to a lost node never returns."""
        try:
            store = _connect(self.place)
            while True:
                if self._abort_reason is not None:
                    store.set(STOP, self._abort_reason)
                if self._closed.is_set():
                    return
                if self._key_to_set is not None:
                    store.set(self._key_to_set, "")
                    self._key_to_set = None
                if store.check([STOP]):
                    self._stop_reason = store.get(STOP).decode()
                    return
                if self._awaited_key is not None and store.check([self._awaited_key]):
                    self._awaited_key = None
                self._answered_at = time.monotonic()
                time.sleep(_POLL_SECONDS)
                self._watching.wait()  # deadline: close() ends it; the thread ends with its process
        except (OSError, RuntimeError) as error:
            self._stop_reason = (
                f"learner rank 0 has ended or cannot be reached at {self.place.host}: {_one_line(error)}"
            )

    def _why_stopped(self) -> str | None:
        if self._stop_reason is None and time.monotonic() - self._answered_at > SILENT_SECONDS:
            return f"learner rank 0 at {self.place.host} has not answered for {SILENT_SECONDS:g} s"
        return self._stop_reason


def _ready(round_: int, rank: int) -> str:
    return f"ready/{round_}/{rank}"


def _connect(place: Place) -> TCPStore:
    """A connection to the sender's store.

    Raises:
        OSError, RuntimeError: it does not answer.
    """
    # First a plain connection: torch retries a refused one until its timeout.
    socket.create_connection((place.host, place.port), timeout=CONNECT_SECONDS).close()
    timeout = timedelta(seconds=CONNECT_SECONDS)
    return TCPStore(place.host, place.port, is_master=False, wait_for_workers=False, timeout=timeout)


def _backend(place: Place, rank: int, device: torch.device, seconds: float) -> Any:
    """A torch process group that is known only here; blocks until all members make theirs."""
    store, timeout = PrefixStore(place.name, _connect(place)), timedelta(seconds=seconds)
    if place.device == "cpu":
        from torch.distributed import ProcessGroupGloo

        return ProcessGroupGloo(store, rank, place.size, timeout)
    from torch.distributed import ProcessGroupNCCL

    torch.cuda.set_device(device)  # of this thread
    options = ProcessGroupNCCL.Options()
    options._timeout = timeout
    # By default torch ends the process when a member of a group dies; here the update ends.
    with _environment({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}):
        group: Any = ProcessGroupNCCL(store, rank, place.size, options)
    first = torch.zeros(1, dtype=torch.uint8, device=device)
    group.broadcast(first, 0).wait()  # deadline: the caller's; NCCL connects the members here
    torch.cuda.synchronize()
    return group


def _abort(group: Any) -> None:
    try:
        group.abort()
    except RuntimeError as error:
        logger.warning("cannot abort a group that ended: %s", _one_line(error))


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _one_line(error: BaseException) -> str:
    """The first line of an error; torch adds a C++ stack."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
