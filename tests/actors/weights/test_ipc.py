"""Buckets of `broadcast.backend: ipc` cross a process boundary; shared host memory takes the place of a card's."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch.multiprocessing import reductions

from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, TransferError, ipc, make_transfer
from actors.weights.buckets import Manifest, layout
from actors.weights.ipc import IpcTransfer, Segment, open_bucket

HERE = Destination("node")


@pytest.fixture
def transfer() -> Iterator[IpcTransfer]:
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")  # as CUDA's handles, the names mean something everywhere
    made = make_transfer(BroadcastSettings(backend="ipc"), "test")
    assert isinstance(made, IpcTransfer)
    yield made
    torch.multiprocessing.set_sharing_strategy(before)


def weights() -> list[list[tuple[str, torch.Tensor]]]:
    torch.manual_seed(0)
    return [
        [("a", torch.randn(3, 5)), ("b", torch.randn(7).bfloat16())],
        [("transposed", torch.randn(4, 6).T), ("scalar", torch.tensor(2.5)), ("empty", torch.empty(0, 3))],
    ]


def read(manifests: list[Manifest]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for manifest in manifests for name, tensor in open_bucket(manifest)}


READER = """
import pickle, sys, torch
from actors.weights.ipc import open_bucket
torch.multiprocessing.set_sharing_strategy("file_system")
manifests = pickle.load(sys.stdin.buffer)
print([(name, str(t.dtype), t.float().tolist()) for m in manifests for name, t in open_bucket(m)])
"""


def published(transfer: IpcTransfer) -> Published:
    return Published("node", 1, transfer.publish(weights(), rank=0, here="node", receivers=[HERE]))


@pytest.mark.slow  # a process that imports torch
def test_another_process_reads_what_was_published(transfer: IpcTransfer) -> None:
    (manifests,) = transfer.address(published(transfer), HERE)
    assert len(manifests) == 2, "one handle a bucket"
    found = subprocess.run(
        [sys.executable, "-c", READER], input=pickle.dumps(manifests), capture_output=True, timeout=120, check=True
    ).stdout.decode()
    expected = [(name, str(t.dtype), t.float().tolist()) for bucket in weights() for name, t in bucket]
    assert found.strip() == str(expected)


def test_a_sampler_gets_all_buckets_in_one_update(transfer: IpcTransfer) -> None:
    addressed = transfer.address(published(transfer), HERE)

    async def received() -> list[int]:
        async with transfer.receive(*addressed) as updates:
            [update] = updates
            assert read(update.info["manifests"]).keys() >= {"a", "transposed"}
            return [update.nbytes]

    assert asyncio.run(received()) == [128 + 192]


@pytest.mark.slow  # processes that import torch
def test_a_sampler_that_unmaps_each_version_gets_the_next_one(transfer: IpcTransfer) -> None:
    for _ in range(4):
        version = published(transfer)
        given = pickle.dumps(version.payload.manifests)
        subprocess.run([sys.executable, "-c", READER], input=given, capture_output=True, timeout=120, check=True)
        transfer.release(version.payload)


def test_versions_are_written_to_the_same_memory_under_the_same_handles(transfer: IpcTransfer) -> None:
    first = published(transfer)
    transfer.release(first.payload)
    changed = [[(name, tensor + 1) for name, tensor in bucket] for bucket in weights()]
    second = transfer.publish(changed, rank=0, here="node", receivers=[HERE])
    assert [m["handle"] for m in second.manifests] == [m["handle"] for m in first.payload.manifests]
    for name, tensor in read(second.manifests).items():
        assert torch.equal(tensor, dict(pair for bucket in changed for pair in bucket)[name])


class Card:
    """Memory of a card as torch counts it for exported tensors (CudaIPCTypes.cpp), on the host.

    An export sets its counter to 1, a receiver that unmaps the memory lowers it, and one that dies does not. Memory
    stays allocated while its counter is above 0, also if its owner frees it.
    """

    def __init__(self) -> None:
        self.counters: dict[int, int] = {}  # of each exported block
        self.sizes: dict[int, int] = {}  # of each block that is allocated
        self._names = itertools.count()

    def segments(self) -> type[Segment]:
        """Segments in this memory."""
        card = self

        class Counted(Segment):
            def __init__(self, nbytes: int, device: torch.device) -> None:
                super().__init__(nbytes, device)
                block = next(card._names)
                card.sizes[block], card.counters[block] = nbytes, 1
                self._counter = (b"counters", block)

        return Counted

    def lower(self, handle: bytes, block: int, device: torch.device) -> None:
        """As `UntypedStorage._release_ipc_counter`."""
        assert handle == b"counters"
        self.counters[block] -= 1
        if self.counters[block] <= 0:
            del self.sizes[block]


def test_samplers_that_die_in_an_update_cost_no_memory(transfer: IpcTransfer, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    monkeypatch.setattr(ipc, "Segment", card.segments())
    monkeypatch.setattr(torch.UntypedStorage, "_release_ipc_counter", card.lower, raising=False)
    for _ in range(5):
        version = published(transfer)
        read(version.payload.manifests)  # and no counter is lowered: the sampler dies with its mappings
        transfer.release(version.payload)
        assert sum(card.sizes.values()) == 128 + 192
    larger = [[(name, torch.cat([tensor.flatten()] * 50)) for name, tensor in bucket] for bucket in weights()]
    transfer.publish(larger, rank=0, here="node", receivers=[HERE])
    expected = sum(layout(bucket)[1] for bucket in larger)
    assert sum(card.sizes.values()) == expected, "segments that became too small are free, though a receiver died"


def test_a_segment_on_a_card_names_its_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of the counter in what torch hands over are those of its rebuild function."""
    names = list(inspect.signature(reductions.rebuild_cuda_tensor).parameters)
    assert names[ipc._COUNTER] == ["ref_counter_handle", "ref_counter_offset"]


def test_a_handle_that_means_nothing_is_refused(transfer: IpcTransfer) -> None:
    manifest = published(transfer).payload.manifests[0]
    with pytest.raises(TransferError, match="cannot map the weight bucket of the learner"):
        read([manifest | {"handle": manifest["handle"][:20]}])


def test_only_rank_0_publishes_and_only_to_its_node(transfer: IpcTransfer) -> None:
    exhausted = iter([[], []])
    assert transfer.publish(exhausted, rank=1, here="node", receivers=[HERE]) is None
    assert next(exhausted, None) is None, "ZeRO-3 gathers on every rank"
    with pytest.raises(TransferError, match=r"another node .* broadcast.backend = ipc .* use host"):
        transfer.address(published(transfer), Destination("elsewhere"))


def test_a_segment_that_is_too_small_is_refused(transfer: IpcTransfer) -> None:
    manifest = published(transfer).payload.manifests[0]
    with pytest.raises(TransferError, match="has 128 bytes, its manifest says 256"):
        read([manifest | {"nbytes": 256}])
