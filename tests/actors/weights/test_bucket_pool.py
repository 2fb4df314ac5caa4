"""Files that hold one version after the other: readers see the latest, and nothing stays behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, TransferError, buckets, make_transfer, pinning
from actors.weights.bucket_pool import BucketPool
from actors.weights.mapped_files import MappedFiles
from tests.actors.weights.bucket_writing import write_bucket

HERE = Destination("node")
CPU = torch.device("cpu")


def weights(value: float, size: int = 5) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((size, 3), value)), ("b", torch.full((7,), value).bfloat16()), ("none", torch.empty(0, 2))]


def assert_holds(got: dict[str, torch.Tensor], value: float, size: int = 5) -> None:
    assert got.keys() == {"a", "b", "none"}
    assert got["a"].shape == (size, 3) and got["b"].dtype == torch.bfloat16
    assert all(torch.all(tensor == value) for tensor in got.values())


def test_versions_share_a_file_which_grows(tmp_path: Path) -> None:
    pool = BucketPool("run", tmp_path)
    first = pool.write(0, weights(1.0, size=50))
    assert_holds(dict(buckets.open_bucket(first)), 1.0, size=50)
    second = pool.write(0, weights(2.0, size=50))
    assert (second["path"], second["mark"]) == (first["path"], first["mark"])
    assert_holds(dict(buckets.open_bucket(second)), 2.0, size=50)
    smaller = pool.write(0, weights(3.0, size=1))
    assert smaller["mark"] == first["mark"] and smaller["nbytes"] < first["nbytes"]
    assert_holds(dict(buckets.open_bucket(smaller)), 3.0, size=1)
    assert_holds(dict(buckets.open_bucket(pool.write(0, weights(4.0, size=5000)))), 4.0, size=5000)
    assert_holds(dict(buckets.open_bucket(pool.write(1, weights(5.0)))), 5.0)
    assert list(tmp_path.iterdir()) == [], "the files have no names"
    pool.close()


def test_the_memory_benchmark_sees_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import memory

    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path)
    pool = BucketPool("run", tmp_path)
    manifests = [pool.write(index, weights(1.0)) for index in range(2)]
    sizes = memory.bucket_sizes(os.getpid())
    assert sum(sizes.values()) == sum(m["nbytes"] + len(m["mark"]) for m in manifests) and len(sizes) == 2
    pool.close()
    assert memory.bucket_sizes(os.getpid()) == {}


def test_a_reader_keeps_a_bucket_whose_writer_has_ended(tmp_path: Path) -> None:
    pool = BucketPool("run", tmp_path)
    manifest = pool.write(0, weights(1.0))
    with buckets.held(manifest) as kept:
        pool.close()
        assert_holds(dict(buckets.open_bucket(kept)), 1.0)
    with pytest.raises(TransferError, match="cannot open the weight bucket"), buckets.held(manifest):
        pass


def test_another_file_under_the_same_number_is_not_read(tmp_path: Path) -> None:
    """The kernel gives numbers of descriptors, and of processes, to others later."""
    pool = BucketPool("run", tmp_path)
    manifest = pool.write(0, weights(1.0))
    pool.close()
    other = BucketPool("run", tmp_path)
    foreign = other.write(0, weights(2.0))
    assert foreign["path"] == manifest["path"]
    with pytest.raises(TransferError, match="is gone: its writer has ended"), buckets.held(manifest):
        pass
    with pytest.raises(TransferError, match="is gone: its writer has ended"):
        MappedFiles(CPU).open_bucket(manifest)
    other.close()


WRITER = """
import sys, time, torch
from pathlib import Path
from actors.weights.bucket_pool import BucketPool
pool = BucketPool("run", Path(sys.argv[1]))
manifest = pool.write(0, [("a", torch.ones(1 << 20))])
print(manifest["path"], flush=True)
time.sleep(60)
"""


@pytest.mark.slow  # a process that imports torch
def test_a_killed_writer_leaves_nothing() -> None:
    directory = Path("/dev/shm")
    before = set(directory.iterdir())
    with subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        file = Path(writer.stdout.readline().rstrip("\n"))
        status = file.stat()
        assert status.st_dev == directory.stat().st_dev and status.st_size > 4 << 20
        assert status.st_nlink == 0, "without a name the kernel frees it with its last user"
        assert {path for path in directory.iterdir() if "bonrl" in path.name} <= before
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
        assert not file.exists()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_memory_file_system_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TransferError, match=r"is full: a weight bucket of 4\.0 MiB .* --shm-size"):
        BucketPool("run", tmp_path).write(0, [("w", torch.ones(2**20))])
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_files_stay_usable_if_one_cannot_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BucketPool("run", tmp_path)
    for index in range(2):
        pool.write(index, weights(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(TransferError, match="is full"):
            pool.write(0, weights(2.0, size=5000))
    for index in range(2):
        assert_holds(dict(buckets.open_bucket(pool.write(index, weights(3.0)))), 3.0)
    pool.close()


def test_the_host_back_end_reuses_its_files_and_sends_all_buckets_at_once() -> None:
    transfer, sampler = make_transfer(BroadcastSettings(), "test"), make_transfer(BroadcastSettings(), "sampler 0")

    async def read(addressed: tuple) -> dict[str, torch.Tensor]:
        async with sampler.receive(*addressed) as updates:
            [update] = updates
            manifests = update.info["manifests"]
            assert update.nbytes == sum(m["nbytes"] for m in manifests)
            return {name: tensor.clone() for m in manifests for name, tensor in buckets.open_bucket(m)}

    marks = []
    for version in (1, 2):
        parts = [weights(float(version)), [("c", torch.full((4,), float(version)))]]
        payload = transfer.publish(parts, rank=0, here="node", receivers=[HERE])
        got = asyncio.run(read(transfer.address(Published("node", version, payload), HERE)))
        assert torch.all(got.pop("c") == version)
        assert_holds(got, version)
        transfer.release(payload)
        marks.append([manifest["mark"] for manifest in payload.manifests])
    assert marks[0] == marks[1] and len(marks[0]) == 2


def test_an_engine_on_a_gpu_keeps_its_mappings_and_takes_copies(tmp_path: Path) -> None:
    """Here its device is the CPU."""
    pool, files = BucketPool("run", tmp_path), MappedFiles(CPU)
    manifest = pool.write(0, weights(1.0))
    first = dict(files.open_bucket(manifest))
    files.forget_others([manifest])
    mapping = files._files[manifest["mark"]]
    assert_holds(dict(files.open_bucket(pool.write(0, weights(2.0)))), 2.0)
    assert_holds(first, 1.0)
    first["a"].zero_()
    assert_holds(dict(files.open_bucket(manifest)), 2.0)
    assert files._files[manifest["mark"]] is mapping, "mapped once"
    successor = BucketPool("run", tmp_path).write(0, weights(3.0))
    assert_holds(dict(files.open_bucket(successor)), 3.0)
    files.forget_others([successor])
    assert files._files.keys() == {successor["mark"]} and mapping._mapped.closed
    named = write_bucket(tmp_path / "b", weights(4.0))
    assert_holds(dict(files.open_bucket(named)), 4.0)
    files.close()
    assert not files._files


@pytest.mark.parametrize("code", [0, 801])
def test_memory_that_the_driver_does_not_pin_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    calls: list[tuple[int, int]] = []

    def register(pointer: int, nbytes: int, flags: int) -> int:
        calls.append((pointer, nbytes))
        return code

    monkeypatch.setattr(pinning, "_take_error", lambda: None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=register))
    data = np.zeros(1 << 20, np.uint8)
    assert pinning.pin(data) == (code == 0)
    assert calls == [(data.ctypes.data, 1 << 20)]
    assert ("does not pin 1 MiB" in caplog.text) == (code != 0)
