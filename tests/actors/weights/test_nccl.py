"""Broadcasts of `broadcast.backend: nccl` over real gloo groups of threads, and of processes that are killed."""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from actors.settings import BroadcastSettings, DeadlineSettings
from actors.weights import Destination, Published, TransferError, collective, make_transfer, nccl
from actors.weights.buckets import Manifest
from actors.weights.nccl import Inbox, NcclTransfer

CPU = torch.device("cpu")
A, B, WIDE = Destination("node", "sampler-0"), Destination("far", "sampler-1"), Destination("far", "sampler-1", 0, 2)
Weights = list[list[tuple[str, torch.Tensor]]]


def weights(seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    return [
        [("a", torch.randn(3, 5)), ("b", torch.randn(7).bfloat16())],
        [("transposed", torch.randn(4, 6).T), ("scalar", torch.tensor(2.5)), ("empty", torch.empty(0, 3))],
    ]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NcclTransfer]]:
    monkeypatch.setattr(nccl, "node_address", lambda: "127.0.0.1")
    made: list[NcclTransfer] = []

    def transfer(**deadlines: float) -> NcclTransfer:
        one = make_transfer(BroadcastSettings(backend="nccl"), "run", DeadlineSettings(**deadlines))
        assert isinstance(one, NcclTransfer)
        made.append(one)
        return one

    yield transfer
    for one in made:
        one._end_thread("the test ends")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def publish(transfer: NcclTransfer, *receivers: Destination, version: int = 1) -> Published:
    payload = transfer.publish(weights(version), rank=0, here="node", receivers=receivers, partial=True)
    return Published("node", version, payload)


def manifests(transfer: NcclTransfer, published: Published, receiver: Destination) -> list[Manifest]:
    """Manifests as they arrive through Ray and vLLM."""

    async def received() -> list[Manifest]:
        async with transfer.receive(*pickle.loads(pickle.dumps(transfer.address(published, receiver)))) as updates:
            assert [update.nbytes for update in updates] == [128 + 192]
            return [manifest for update in updates for manifest in update.info["manifests"]]

    return asyncio.run(received())


def load(inbox: Inbox, found: list[Manifest]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for manifest in found for name, tensor in inbox.open_bucket(manifest)}


def assert_equal(found: dict[str, torch.Tensor], version: int) -> None:
    expected = {name: tensor for bucket in weights(version) for name, tensor in bucket}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in found)


def test_every_worker_gets_the_weights_and_the_group_is_kept(make: Any, pool: ThreadPoolExecutor) -> None:
    transfer, inboxes = make(), {(A, 0): Inbox(0, CPU), (WIDE, 0): Inbox(0, CPU), (WIDE, 1): Inbox(1, CPU)}
    places = set()
    for version in (1, 2, 3):
        published = publish(transfer, A, WIDE, version=version)
        places.add(published.payload.place)
        loads = [pool.submit(load, i, manifests(transfer, published, r)) for (r, _), i in inboxes.items()]
        for one in loads:
            assert_equal(one.result(timeout=60), version)
        transfer.release(published.payload)
        assert transfer._thread is None
    assert len(places) == 1 and places.pop().size == 4
    assert not transfer._sender._store.check(["ready/1/1"]), "keys of earlier rounds are removed"


def test_other_samplers_make_another_group(make: Any, pool: ThreadPoolExecutor) -> None:
    """A sampler that joins, and a replacement with the same name."""
    transfer, first, second = make(), Inbox(0, CPU), Inbox(0, CPU)
    replaced = B._replace(incarnation=1)
    places = []
    for version, receivers in enumerate(((A,), (A, B), (A, replaced)), start=1):
        published = publish(transfer, *receivers, version=version)
        places.append(published.payload.place.name)
        both = zip((first, second), receivers, strict=False)
        loads = [pool.submit(load, inbox, manifests(transfer, published, r)) for inbox, r in both]
        for one in loads:
            assert_equal(one.result(timeout=60), version)
    assert len(set(places)) == 3
    with pytest.raises(TransferError, match="is not among the samplers for which the weights were published"):
        transfer.address(published, B)


def test_only_rank_0_publishes(make: Any) -> None:
    transfer, exhausted = make(), iter([[], []])
    assert transfer.publish(exhausted, rank=1, here="node", receivers=[A]) is None
    assert next(exhausted, None) is None, "ZeRO-3 gathers on every rank"
    assert transfer._sender is None


def test_a_failed_sampler_ends_the_update_for_the_others_at_once(make: Any, pool: ThreadPoolExecutor) -> None:
    """As the broadcaster does: the failure of one releases the weights. They are then sent again."""
    transfer, inbox = make(), Inbox(0, CPU)
    published = publish(transfer, A, B)
    waiting = pool.submit(load, inbox, manifests(transfer, published, A))
    time.sleep(0.3)
    assert not waiting.done(), "the other sampler is missing"
    begin = time.monotonic()
    transfer.release(published.payload)
    with pytest.raises(TransferError, match="learner rank 0 gave the update up: .* a sampler failed or did not answer"):
        waiting.result(timeout=10)
    assert time.monotonic() - begin < 5
    again = publish(transfer, A)
    transfer.release(published.payload)  # late; it must not end the new update
    assert_equal(load(inbox, manifests(transfer, again, A)), 1)


def test_a_sampler_that_is_not_ready_in_time_is_named(make: Any, pool: ThreadPoolExecutor) -> None:
    transfer, inbox = make(sample_s=1.0), Inbox(0, CPU)
    published = publish(transfer, A, WIDE)
    message = (
        r"rank 0 gave .* up: sampler-1 \(worker 0\) was not ready for the weights within 1 s \(deadlines.sample_s\)"
    )
    with pytest.raises(TransferError, match=message):
        load(inbox, manifests(transfer, published, A))
    assert publish(transfer, A, WIDE).payload.place != published.payload.place, "a stopped group is not used again"


@pytest.mark.slow  # seconds
def test_a_broadcast_that_does_not_end_names_the_deadline(
    make: Any, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member is ready, joins the group, and never asks for the first bucket."""
    transfer, inbox = make(broadcast_s=1.0), Inbox(0, CPU)
    large = [[(name, torch.zeros(8 << 20))] for name in ("first", "second")]  # more than the sockets take
    payload = transfer.publish(large, rank=0, here="node", receivers=[A, B])
    stuck = collective.Receiver(payload.place, 2, CPU)
    monkeypatch.setattr(stuck, "_broadcast", lambda flat, limit: time.sleep(2.5))
    held = pool.submit(stuck.receive, 1, 32 << 20, collective.Deadline(60, "test"))
    (found,) = transfer.address(Published("node", 1, payload), A)
    message = r"gave the update up: the broadcast of the weights did not end within 1 s \(deadlines.broadcast_s\)"
    with pytest.raises(TransferError, match=message):
        load(inbox, found)
    held.result(timeout=30)
    stuck.close()
    assert transfer._sender is not None and transfer._sender.stopped


def test_other_bytes_than_were_sent_are_noticed(make: Any, pool: ThreadPoolExecutor) -> None:
    transfer, inboxes = make(), (Inbox(0, CPU), Inbox(0, CPU))
    published = publish(transfer, A, B)
    bad = manifests(transfer, published, B)
    bad[0]["checksum"] += 1
    other = pool.submit(load, inboxes[0], manifests(transfer, published, A))
    with pytest.raises(TransferError, match="a bucket of weights was damaged on the way"):
        load(inboxes[1], bad)
    assert other.exception(timeout=30) is None or isinstance(other.exception(), TransferError)
    transfer.release(published.payload)
    assert publish(transfer, A, B).payload.place != published.payload.place


def test_weights_on_another_kind_of_device_are_refused(make: Any) -> None:
    transfer = make()
    found = manifests(transfer, publish(transfer, A), A)
    with pytest.raises(ValueError, match=r"weights are on cpu, this engine is on cuda; set broadcast.backend = host"):
        Inbox(0, torch.device("cuda", 0)).open_bucket(found[0])


def test_a_learner_that_is_gone_is_noticed_at_once(make: Any) -> None:
    transfer = make()
    (manifest, _) = manifests(transfer, publish(transfer, A), A)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        manifest["group"]["port"] = unused.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(TransferError, match=r"learner rank 0 has ended or cannot be reached at 127.0.0.1: .* refused"):
        load(Inbox(0, CPU), [manifest])
    assert time.monotonic() - begin < 5


MEMBER = """
import pickle, sys, threading, time, torch
from actors.settings import BroadcastSettings, DeadlineSettings
from actors.weights import Destination, TransferError, make_transfer, nccl
nccl.node_address = lambda: "127.0.0.1"
MIB = 1 << 20

def say(*words):
    print(*words, flush=True)

def send(buckets):
    transfer = make_transfer(BroadcastSettings(backend="nccl"), "run", DeadlineSettings())
    receivers = [Destination("node", f"sampler-{i}") for i in range(2)]
    parts = [[(f"w{i}", torch.full((4 * MIB,), float(i)))] for i in range(buckets)]
    payload = transfer.publish(parts, rank=0, here="node", receivers=receivers)
    from actors.weights import Published
    say(pickle.dumps([transfer.address(Published("node", 1, payload), r) for r in receivers]).hex())
    while transfer._thread.is_alive():
        time.sleep(0.05)
    say("stopped" if transfer._sender.stopped else "sent")
    time.sleep(60)

def receive():
    (manifests,) = pickle.loads(bytes.fromhex(sys.stdin.readline()))
    inbox = nccl.Inbox(0, torch.device("cpu"))
    for manifest in manifests:
        try:
            list(inbox.open_bucket(manifest))
        except TransferError as error:
            say("lost", error)
            break
        say("got")
        time.sleep(0.2)
    else:
        say("complete")
    time.sleep(60)

{"send": lambda: send(20), "receive": receive}[sys.argv[1]]()
"""


class Member:
    def __init__(self, role: str) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", MEMBER, role], **pipes)

    def line(self) -> str:
        timer = threading.Timer(90, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            timer.cancel()

    def last_line(self) -> str:
        while (line := self.line()) == "got":
            pass
        return line


@pytest.fixture
def members() -> Iterator[list[Member]]:
    made = [Member("send"), Member("receive"), Member("receive")]
    yield made
    for member in made:
        member.process.kill()
        member.process.wait(timeout=10)


@pytest.mark.slow  # processes that import torch
@pytest.mark.parametrize("victim", ["a sampler", "the learner"])
def test_the_death_of_a_member_during_a_broadcast_ends_it_for_all(members: list[Member], victim: str) -> None:
    sender, first, second = members
    arguments = pickle.loads(bytes.fromhex(sender.line()))
    for member, one in zip((first, second), arguments, strict=True):
        member.process.stdin.write(pickle.dumps(one).hex() + "\n")
        member.process.stdin.flush()
    assert first.line() == second.line() == "got"
    begin = time.monotonic()
    dead = sender if victim == "the learner" else second
    dead.process.kill()
    if victim == "the learner":
        assert "lost learner rank 0 has ended or cannot be reached" in first.last_line()
        assert "lost learner rank 0 has ended or cannot be reached" in second.last_line()
    else:
        assert first.last_line().startswith("lost"), "within the time of this test, not of a deadline"
        assert sender.line() == "stopped"
    assert time.monotonic() - begin < 15
