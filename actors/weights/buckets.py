"""Packed weight buckets: many tensors in one block of bytes, described by a manifest.

A bucket is a file in shared memory that a reader on the same node maps without copying, or the same bytes as
a NumPy array for Ray's object store. The manifest has plain types, so that any serializer
handles it:

    {"path": "/dev/shm/bonrl-<run>-<pid>-...", "nbytes": 1024,
     "entries": [(name, "float32", [2, 3], offset, nbytes), ...]}

`"mark"` is there for a file without a name, which ends with it and may be larger (:mod:`actors.weights.bucket_pool`). A
publisher adds `"partial": True` where the update leaves out layers, which then keep their weights.

One manifest describes all tensors of a bucket, because one call per tensor would cost a round trip each. A reader maps
the file; unlinking it afterwards is safe, because the mapping persists. Buckets do not change during an update, because
readers may hold views until it ends.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.weights.base import NamedTensor, TransferError

Manifest = dict[str, Any]

ALIGNMENT = 64  # bytes; a cache line, and a multiple of every item size


def layout(tensors: Sequence[NamedTensor]) -> tuple[list[tuple[str, str, list[int], int, int]], int]:
    """Entries `(name, dtype, shape, offset, nbytes)` of a packed bucket and its size in bytes."""
    entries, offset = [], 0
    for name, tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        entries.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return entries, offset


def pack(tensors: Sequence[NamedTensor]) -> tuple[Manifest, np.ndarray]:
    """Copy `tensors` into one byte array for a receiver without this node's shared memory.

    Returns:
        the manifest, with an empty path, and the bytes (uint8 [nbytes]).
    """
    entries, nbytes = layout(tensors)
    data = np.empty(nbytes, dtype=np.uint8)
    fill(data, tensors, entries)
    return {"path": "", "entries": entries, "nbytes": nbytes}, data


def write_bytes(path: Path, manifest: Manifest, data: np.ndarray) -> Manifest:
    """Write bytes made by :func:`pack` to a new shared-memory file on this node.

    Raises:
        TransferError: the size differs from the manifest's, the memory file system is full, or the path exists or
            cannot be written.
    """
    nbytes = manifest["nbytes"]
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != nbytes:
        raise TransferError(f"weight bucket has {data.size} items of {data.dtype}, its manifest {nbytes} bytes")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError as error:
        raise TransferError(f"cannot create the weight bucket {path}: {error.strerror}") from error
    try:
        if nbytes:
            # Reserve the pages now: writing to a full tmpfs through a mapping would end in SIGBUS.
            os.posix_fallocate(descriptor, 0, nbytes)
            with mmap.mmap(descriptor, nbytes) as mapped:
                mapped.write(data.data)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TransferError(write_problem(path, nbytes, error)) from error
        raise
    finally:
        os.close(descriptor)
    return {**manifest, "path": str(path)}


@contextlib.contextmanager
def held(manifest: Manifest) -> Iterator[Manifest]:
    """The same bucket under a path that stays readable inside the block, also for child processes.

    The path is that of an open descriptor, so the file may be unlinked, and nothing remains if this process is killed.

    Raises:
        TransferError: when the file cannot be opened.
    """
    try:
        descriptor = os.open(manifest["path"], os.O_RDONLY)
    except OSError as error:
        raise TransferError(f"cannot open the weight bucket {manifest['path']}: {error.strerror}") from error
    try:
        check_file(descriptor, manifest)
        yield {**manifest, "path": f"/proc/{os.getpid()}/fd/{descriptor}"}
    finally:
        os.close(descriptor)


def open_bucket(manifest: Manifest) -> Iterator[NamedTensor]:
    """Map a bucket and yield `(name, tensor)` views; no bytes are copied.

    The views keep the mapping alive, also after the file is unlinked. Their memory is private to the reader
    (copy-on-write), so that an in-place operation cannot change what another reader sees.

    Raises:
        TransferError: when the file is gone or shorter than its manifest says.
    """
    path, nbytes = manifest["path"], manifest["nbytes"]
    data: Any = b""
    if nbytes:
        try:
            with open(path, "rb") as file:
                check_file(file.fileno(), manifest)
                data = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise TransferError(
                f"weight bucket {path} is gone: unlinked before the update ended, or on another node "
                "(set broadcast.transport to object_store)"
            ) from None
    yield from views(
        manifest, torch.frombuffer(data, dtype=torch.uint8) if nbytes else torch.empty(0, dtype=torch.uint8)
    )


def check_file(descriptor: int, manifest: Manifest) -> None:
    """Check that an open file is the one of the manifest: numbers of processes and descriptors are used again.

    Raises:
        TransferError: it is another one, or has another size than the manifest says.
    """
    path, nbytes, mark = manifest["path"], manifest["nbytes"], manifest.get("mark", b"")
    size = os.fstat(descriptor).st_size
    if mark and os.pread(descriptor, len(mark), max(0, size - len(mark))) != mark:
        raise TransferError(f"the weight bucket {path} is gone: its writer has ended")
    if size - len(mark) < nbytes or (size != nbytes and not mark):
        raise TransferError(f"weight bucket {path} has {size} bytes, its manifest says {nbytes}")


def flatten(tensors: Sequence[NamedTensor], out: torch.Tensor | None = None) -> tuple[Manifest, torch.Tensor]:
    """Copy `tensors` into one tensor on their device.

    Args:
        out: where to (uint8, at least as many bytes as :func:`layout` says); None: a new tensor.

    Returns:
        the manifest, with an empty path, and the bytes (uint8 [nbytes]).
    """
    entries, nbytes = layout(tensors)
    flat = torch.empty(nbytes, dtype=torch.uint8, device=tensors[0][1].device) if out is None else out[:nbytes]
    for (_, tensor), (*_, offset, size) in zip(tensors, entries, strict=True):
        flat[offset : offset + size].copy_(_bytes_of(tensor))
    return {"path": "", "entries": entries, "nbytes": nbytes}, flat


def views(manifest: Manifest, flat: torch.Tensor) -> Iterator[NamedTensor]:
    """The tensors of a bucket, which share the memory of its bytes `flat` (uint8 [nbytes])."""
    for name, dtype, shape, offset, size in manifest["entries"]:
        yield name, flat[offset : offset + size].view(getattr(torch, dtype)).view(shape)


def unlink(manifests: Iterable[Manifest]) -> None:
    """Remove the files of buckets; missing files are ignored."""
    for manifest in manifests:
        if manifest["path"]:
            Path(manifest["path"]).unlink(missing_ok=True)


def fill(data: np.ndarray, tensors: Sequence[NamedTensor], entries: Sequence[tuple]) -> None:
    """Copy `tensors` from any device into the bytes of a bucket (uint8), at the offsets of their entries."""
    on_gpu = False
    for (_, tensor), (_, _, _, offset, nbytes) in zip(tensors, entries, strict=True):
        if nbytes:
            source, target = _bytes_of(tensor), data[offset : offset + nbytes]
            if source.is_cuda:
                on_gpu = True
                torch.from_numpy(target).copy_(source, non_blocking=True)
            else:  # NumPy copies on this thread; torch's parallel copy takes 40 times as long on shared cores
                target[:] = source.numpy()
    if on_gpu:
        torch.cuda.synchronize()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def write_problem(path: Path, nbytes: int, error: OSError) -> str:
    """Why a bucket cannot be written to a memory file system, and what to do."""
    if error.errno not in (errno.ENOSPC, errno.ENOMEM):
        return f"cannot write the weight bucket {path}: {error.strerror}"
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path.parent} is full: a weight bucket of {nbytes / 2**20:.1f} MiB does not fit into the "
        f"{free / 2**20:.1f} MiB left. Enlarge it (docker: --shm-size), or free space in it"
    )
