"""Shared-memory files that hold one version of the weights after the other.

New files would cost the kernel a zeroed page for every 4 KiB of each update. The files have no name: readers open them
through the writer's descriptors in /proc, and the kernel frees them when the writer and the readers have ended, also if
they are killed. The writer must not write while somebody reads; the broadcaster publishes a version only after the
loads of the last one have ended, or their samplers are replaced.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from actors.weights import pinning
from actors.weights.base import NamedTensor, TransferError
from actors.weights.bucket_files import SHARED_MEMORY, new_path
from actors.weights.buckets import Manifest, fill, layout, write_problem


class BucketPool:
    """The files of one publisher; the bytes of a bucket are copied once, from a GPU at the speed of pinned memory.

    Args:
        owner: a part of the names that the files have until they are open.
        directory: of a memory file system.
    """

    def __init__(self, owner: str, directory: Path = SHARED_MEMORY) -> None:
        self._owner, self._directory = owner, directory
        self._files: list[_File] = []

    def write(self, index: int, tensors: Sequence[NamedTensor]) -> Manifest:
        """Copy `tensors` into file `index`; files are made in the order of their indices.

        Raises:
            TransferError: the memory file system is full or cannot be written.
        """
        entries, nbytes = layout(tensors)
        if index == len(self._files):
            self._files.append(_File(new_path(self._owner, self._directory), nbytes))
        elif self._files[index].size < nbytes:
            self._files.pop(index).close()  # first, because both may not fit; if the new one does not, it is not listed
            self._files.insert(index, _File(new_path(self._owner, self._directory), nbytes))
        file = self._files[index]
        fill(file.data, tensors, entries)
        return {"path": file.path, "mark": file.mark, "entries": entries, "nbytes": nbytes}

    def close(self) -> None:
        """Free the files."""
        while self._files:
            self._files.pop().close()


class _File:
    """size: bytes for weights. data: uint8 [size], their memory. mark: at the end of the file, names it for readers."""

    def __init__(self, path: Path, size: int) -> None:
        self.size, self.mark = size, uuid4().bytes
        try:
            self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError as error:
            raise TransferError(f"cannot create the weight bucket {path}: {error.strerror}") from error
        path.unlink()
        try:
            # Reserve the pages now: writing to a full tmpfs through a mapping would end in SIGBUS.
            os.posix_fallocate(self._descriptor, 0, size + len(self.mark))
            os.pwrite(self._descriptor, self.mark, size)
            self._mapped = mmap.mmap(self._descriptor, size + len(self.mark))
        except OSError as error:
            os.close(self._descriptor)
            raise TransferError(write_problem(path, size, error)) from error
        self.data = np.frombuffer(self._mapped, dtype=np.uint8, count=size)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._pinned = torch.cuda.is_initialized() and pinning.pin(self.data)

    def close(self) -> None:
        if self._pinned:
            pinning.unpin(self.data)
        del self.data  # an exported buffer would keep the mapping from closing
        self._mapped.close()
        os.close(self._descriptor)
