"""Buckets of `broadcast.backend: ipc` cross a process boundary; shared host memory takes the place of a card's."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, TransferError, make_transfer
from actors.weights.buckets import Manifest
from actors.weights.ipc import IpcTransfer, open_bucket

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


def test_a_sampler_gets_one_update_for_each_bucket(transfer: IpcTransfer) -> None:
    addressed = transfer.address(published(transfer), HERE)

    async def received() -> list[int]:
        async with transfer.receive(*addressed) as updates:
            assert read([update.info["manifest"] for update in updates]).keys() >= {"a", "transposed"}
            return [update.nbytes for update in updates]

    assert asyncio.run(received()) == [128, 192]


def test_released_buckets_are_freed(transfer: IpcTransfer) -> None:
    version = published(transfer)
    transfer.release(version.payload)
    assert not transfer._held
    transfer.release(version.payload)  # by a successor of the publisher


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


def test_a_bucket_of_another_size_is_refused(transfer: IpcTransfer) -> None:
    manifest = published(transfer).payload.manifests[0]
    with pytest.raises(TransferError, match="has 128 bytes, its manifest says 64"):
        read([manifest | {"nbytes": 64}])
