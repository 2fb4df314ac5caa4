"""Mappings of a learner's files (:mod:`actors.weights.bucket_pool`) in an engine on a GPU, kept for later versions.

Their memory is pinned once, so that a bucket is copied to the GPU as a whole and at the speed of PCIe.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from actors.weights import buckets, pinning
from actors.weights.base import NamedTensor, TransferError
from actors.weights.buckets import Manifest


class MappedFiles:
    """The files of one learner.

    Args:
        device: of the engine's model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._files: dict[bytes, _Mapping] = {}  # by the mark of the file

    def open_bucket(self, manifest: Manifest) -> Iterator[NamedTensor]:
        """Copy a bucket to the device and return `(name, tensor)` views of the copy.

        Raises:
            TransferError: the file cannot be opened or is too short.
        """
        if "mark" not in manifest or not manifest["nbytes"]:  # a file of this update only
            return ((name, tensor.to(self._device)) for name, tensor in buckets.open_bucket(manifest))
        mark = manifest["mark"]
        if mark not in self._files:
            self._files[mark] = _Mapping(manifest, pin=self._device.type == "cuda")
        flat = torch.from_numpy(self._files[mark].data[: manifest["nbytes"]])
        return buckets.views(manifest, flat.to(self._device, copy=True))

    def forget_others(self, manifests: Iterable[Manifest]) -> None:
        """Unmap the files that an update did not use: their learner was replaced, or has larger ones now."""
        used = {manifest.get("mark") for manifest in manifests}
        for mark in self._files.keys() - used:
            self._files.pop(mark).close()

    def close(self) -> None:
        """Unmap all files."""
        self.forget_others(())


class _Mapping:
    """data: uint8 [size of the file]. Writable, because CUDA pins no other memory; only copies are taken from it."""

    def __init__(self, manifest: Manifest, *, pin: bool) -> None:
        try:
            with open(manifest["path"], "r+b") as file:
                buckets.check_file(file.fileno(), manifest)
                self._mapped = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise TransferError(f"cannot open the weight bucket {manifest['path']}: {error.strerror}") from error
        self.data = np.frombuffer(self._mapped, dtype=np.uint8)
        self._pinned = pin and pinning.pin(self.data)

    def close(self) -> None:
        if self._pinned:
            pinning.unpin(self.data)
        del self.data  # an exported buffer would keep the mapping from closing
        self._mapped.close()
