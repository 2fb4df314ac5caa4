"""`broadcast.backend: ipc`: weights through memory of one GPU that learner rank 0 and the sampler share.

The learner copies each bucket into one flat tensor on the card and publishes its CUDA IPC handle: one handle a bucket,
not one a tensor. The engine maps it and loads from it, so that no byte leaves the card. The copies take the memory of
the weights once more, from publishing to :meth:`IpcTransfer.release`.

If the learner dies meanwhile, the mapping becomes invalid, the engine's update fails and the sampler is replaced. If
the sampler dies, the learner frees the buckets as after any update.

Not run on a GPU yet. The tests run this code with tensors in shared host memory, which torch hands over the same way.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import AsyncIterator, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
import torch.multiprocessing  # teaches ForkingPickler tensors

from actors.weights import buckets as packed_buckets
from actors.weights.base import Buckets, Destination, NamedTensor, Published, TransferError, Update, WeightTransfer
from actors.weights.buckets import Manifest

HANDLE = "handle"  # key of a manifest: the pickled handle of its bucket


class IpcPayload(NamedTuple):
    """manifests: of the buckets, with their handles, which are valid while the publishing process lives."""

    manifests: list[Manifest]


class IpcTransfer(WeightTransfer):
    """Flat buckets on the card."""

    engine_backend = "host"  # the engine loads a bucket by its manifest, wherever that lies
    bucket_device = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: list[torch.Tensor] = []  # of the version that is published

    def _publish(self, buckets: Buckets, here: str, receivers: Sequence[Destination], partial: bool) -> IpcPayload:
        """As the base class says."""
        self._held.clear()
        manifests = [self._copied(tensors) | {"partial": partial} for tensors in buckets]
        if self._held and self._held[0].is_cuda:
            torch.cuda.synchronize()  # the copies are done before another process reads them
        return IpcPayload(manifests)

    def release(self, payload: IpcPayload) -> None:
        """Free the buckets; after the death of the publisher there are none."""
        on_card = any(tensor.is_cuda for tensor in self._held)
        self._held.clear()
        if on_card:
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()

    def address(self, published: Published, receiver: Destination) -> tuple[Any, ...]:
        """As the base class says: the manifests."""
        if receiver.node != published.node:
            raise TransferError(
                "runs on another node than the learner, which broadcast.backend = ipc cannot reach: use host"
            )
        return (published.payload.manifests,)

    @contextlib.asynccontextmanager
    async def receive(self, manifests: list[Manifest]) -> AsyncIterator[list[Update]]:
        """As the base class says; the buckets stay on the card of the publisher."""
        yield [Update({"manifest": manifest}, manifest["nbytes"]) for manifest in manifests]

    def remove_leftovers(self, *, restarted: bool) -> None:
        """Nothing: the driver frees the memory of a process that ends."""

    def _copied(self, tensors: Sequence[NamedTensor]) -> Manifest:
        manifest, flat = packed_buckets.flatten(tensors)
        self._held.append(flat)
        return manifest | {HANDLE: bytes(ForkingPickler.dumps(flat))}


def open_bucket(manifest: Manifest) -> Iterator[NamedTensor]:
    """Map a published bucket and yield `(name, tensor)` views of it.

    Raises:
        TransferError: the publisher has freed it or died, or it has another size than its manifest says.
    """
    try:
        flat = pickle.loads(manifest[HANDLE])
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise TransferError(f"cannot map the weight bucket of the learner: {error}") from error
    if flat.numel() != manifest["nbytes"]:
        raise TransferError(f"weight bucket has {flat.numel()} bytes, its manifest says {manifest['nbytes']}")
    yield from packed_buckets.views(manifest, flat)
