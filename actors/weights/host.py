"""`broadcast.backend: host`: weights through host memory, for CPUs and any mix of devices.

The learner packs its weights once: into files in shared memory for samplers on its own node, into Ray's object store
for samplers elsewhere, which write them to shared memory of their own node. It keeps its files for later versions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from actors.weights import buckets as packed_buckets
from actors.weights.base import Buckets, Destination, Published, TransferError, Update, WeightTransfer
from actors.weights.bucket_files import new_path, remove_stale
from actors.weights.bucket_pool import BucketPool
from actors.weights.buckets import Manifest


class HostPayload(NamedTuple):
    """manifests: of the files in shared memory. packed: manifest and Ray reference of each bucket in the object store,
    which are lost if the publishing rank dies."""

    manifests: list[Manifest]
    packed: list[tuple[Manifest, Any]]


class HostTransfer(WeightTransfer):
    """Packed buckets in shared memory, or in Ray's object store (``broadcast.transport``)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pool = BucketPool(self.owner)

    def _publish(self, buckets: Buckets, here: str, receivers: Sequence[Destination], partial: bool) -> HostPayload:
        """As the base class says."""
        import ray

        near = self._shares_memory and any(receiver.node == here for receiver in receivers)
        far = not self._shares_memory or any(receiver.node != here for receiver in receivers)
        payload = HostPayload([], [])
        for index, tensors in enumerate(buckets):
            if near:
                payload.manifests.append(self._pool.write(index, tensors) | {"partial": partial})
            if far:
                manifest, data = packed_buckets.pack(tensors)
                payload.packed.append((manifest | {"partial": partial}, ray.put(data)))
        return payload

    def release(self, payload: HostPayload) -> None:
        """Nothing: the next version is written to the same files, and Ray frees unreferenced objects."""

    def address(self, published: Published, receiver: Destination) -> tuple[Any, ...]:
        """As the base class says: manifests of files, or manifests and as many byte arrays."""
        payload: HostPayload = published.payload
        if self._shares_memory and receiver.node == published.node:
            return (payload.manifests,)
        if self.settings.transport == "shared_memory":
            raise TransferError(
                "runs on another node than the learner, which broadcast.transport=shared_memory cannot reach: use auto "
                "or object_store"
            )
        return [manifest for manifest, _ in payload.packed], *(data for _, data in payload.packed)

    @contextlib.asynccontextmanager
    async def receive(self, manifests: list[Manifest], *data: np.ndarray) -> AsyncIterator[list[Update]]:
        """As the base class says."""
        with contextlib.ExitStack() as stack:
            readable = []
            for index, manifest in enumerate(manifests):
                if data:
                    # deadline: a copy in memory, within the caller's broadcast_s
                    held = await asyncio.to_thread(self._written, manifest, data[index], stack)
                else:
                    held = stack.enter_context(packed_buckets.held(manifest))
                readable.append(held)
            yield [Update.of(readable)]

    def remove_leftovers(self, *, restarted: bool) -> None:
        """Remove the bucket files of processes that were killed during an update."""
        remove_stale(run=self.owner if restarted else None)

    @property
    def _shares_memory(self) -> bool:
        return self.settings.transport != "object_store"

    def _written(self, manifest: Manifest, data: np.ndarray, stack: contextlib.ExitStack) -> Manifest:
        """The bytes in an unlinked file on this node, kept by its open descriptor."""
        written = packed_buckets.write_bytes(new_path(self.owner), manifest, data)
        try:
            return stack.enter_context(packed_buckets.held(written))
        finally:
            packed_buckets.unlink([written])
