"""Weight buckets: what is written is read, whatever the dtypes and shapes, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.weights import buckets
from actors.weights.bucket_files import new_path, remove_stale, remove_written_by
from actors.weights.buckets import TransferError
from tests.actors.weights.bucket_writing import write_bucket

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.bool]


@st.composite
def named_tensors(draw: st.DrawFn) -> list[tuple[str, torch.Tensor]]:
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = []
    for i, shape in enumerate(shapes):
        values = torch.randint(-100, 100, shape, generator=generator)
        tensor = values.to(draw(st.sampled_from(DTYPES)))
        if tensor.dim() >= 2 and draw(st.booleans()):
            tensor = tensor.transpose(0, 1)  # not contiguous
        tensors.append((f"layer.{i}.weight", tensor))
    return tensors


def assert_same(got: list[tuple[str, torch.Tensor]], expected: list[tuple[str, torch.Tensor]]) -> None:
    assert [name for name, _ in got] == [name for name, _ in expected]
    for (_, a), (_, b) in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@settings(max_examples=60, deadline=None)
@given(named_tensors())
def test_file_round_trip(tensors):
    manifest, data = buckets.pack(tensors)
    data.flags.writeable = False  # as Ray's object store hands them out
    with tempfile.TemporaryDirectory() as directory:
        local = buckets.write_bytes(new_path("run", Path(directory)), manifest, data)
        read = list(buckets.open_bucket(local))
        buckets.unlink([local])
        assert os.listdir(directory) == []
    assert_same(read, tensors)  # the mapping outlives the file


def test_manifest_is_plain_data(tmp_path):
    manifest = write_bucket(tmp_path / "b", [("w", torch.ones(2, 3))])
    assert eval(repr(manifest)) == manifest
    assert manifest["entries"] == [("w", "float32", [2, 3], 0, 24)]


def test_readers_cannot_change_the_bucket(tmp_path):
    manifest = write_bucket(tmp_path / "b", [("w", torch.ones(4))])
    next(buckets.open_bucket(manifest))[1].zero_()
    assert next(buckets.open_bucket(manifest))[1].sum() == 4


def test_a_bucket_is_never_written_twice(tmp_path):
    write_bucket(tmp_path / "b", [("w", torch.ones(4))])
    with pytest.raises(TransferError, match="File exists"):
        write_bucket(tmp_path / "b", [("w", torch.zeros(4))])


def test_a_full_memory_file_system_is_explained_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TransferError, match=r"is full: a weight bucket of 4\.0 MiB .* --shm-size"):
        write_bucket(tmp_path / "b", [("w", torch.ones(2**20))])
    assert list(tmp_path.iterdir()) == []


def test_missing_and_torn_buckets_are_refused(tmp_path):
    manifest = write_bucket(tmp_path / "b", [("w", torch.ones(64))])
    os.truncate(tmp_path / "b", 100)
    with pytest.raises(TransferError, match="has 100 bytes, its manifest says 256"):
        list(buckets.open_bucket(manifest))
    buckets.unlink([manifest, manifest])
    with pytest.raises(TransferError, match="is gone"):
        list(buckets.open_bucket(manifest))
    with pytest.raises(TransferError, match="its manifest 256 bytes"):
        buckets.write_bytes(tmp_path / "c", manifest, np.zeros(3, np.uint8))


def test_only_buckets_of_dead_processes_are_removed(tmp_path):
    program = "import os; print(os.getpid())"
    dead = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    stale = tmp_path / f"bonrl-run-{int(dead.stdout)}-0123abcd.bucket"
    mine = new_path("run 1/x", tmp_path)
    foreign = tmp_path / "bonrl-notes.txt"
    for path in (stale, mine, foreign):
        path.touch()
    assert remove_stale(tmp_path) == []  # young: perhaps of a process in another container
    assert remove_stale(tmp_path, run="another") == []
    os.utime(stale, (0, 0))
    os.utime(mine, (0, 0))
    assert remove_stale(tmp_path) == [stale]
    assert mine.exists() and foreign.exists()


def test_a_held_bucket_is_readable_after_its_file_is_gone_also_by_a_child(tmp_path: Path):
    tensors = [("a", torch.arange(5.0))]
    manifest = write_bucket(new_path("run", tmp_path), tensors)
    with buckets.held(manifest) as kept:
        buckets.unlink([manifest])
        assert_same(list(buckets.open_bucket(kept)), tensors)
        child = subprocess.run(["cat", kept["path"]], capture_output=True, check=True)
        assert len(child.stdout) == manifest["nbytes"]
    with pytest.raises(TransferError, match="cannot open the weight bucket"), buckets.held(manifest):
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path):
    files = {pid: tmp_path / f"bonrl-run-{pid}-0123abcd.bucket" for pid in (11, 111)}
    for path in (*files.values(), tmp_path / "bonrl-11.txt"):
        path.touch()
    assert remove_written_by({11, 12}, tmp_path) == [files[11]]
    assert sorted(tmp_path.iterdir()) == sorted([files[111], tmp_path / "bonrl-11.txt"])
