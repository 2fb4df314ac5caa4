"""`broadcast.backend: ipc`: weights through memory of one GPU that learner rank 0 and the sampler share.

The learner copies each bucket into a segment, one flat tensor on the GPU, and publishes the segment's CUDA IPC handle.
The engine maps the segment and loads from it, so that no byte leaves the GPU. The segments take the memory of the
weights once more. They and their handles are kept for later versions, for two reasons:

- Allocating and exporting segments takes time.
- torch frees exported memory only when every receiver has unmapped it, and a receiver that dies never does. With new
  segments in each update, every death would keep the memory of the weights in use until the learner ends.

If the learner dies during an update, the mapping becomes invalid, the engine's update fails and the sampler is
replaced.

Not run on a GPU yet. The tests run this code with tensors in shared host memory, which torch hands over the same way.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import AsyncIterator, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
import torch.multiprocessing  # teaches ForkingPickler storages
from torch.multiprocessing.reductions import reduce_tensor

from actors.weights import buckets as packed_buckets
from actors.weights.base import Buckets, Destination, NamedTensor, Published, TransferError, Update, WeightTransfer
from actors.weights.buckets import Manifest

HANDLE = "handle"  # key of a manifest: the pickled handle of its bucket
_COUNTER = slice(11, 13)  # of the arguments of torch's rebuild_cuda_tensor: ref_counter_handle and its offset
_BUCKET_BYTES = 512 << 20  # at least: an engine maps and unmaps every segment in each update


class IpcPayload(NamedTuple):
    """manifests: of the buckets, with the handles of their segments, which are valid while the publishing process
    lives."""

    manifests: list[Manifest]


class Segment:
    """Memory on the GPU that other processes can map, exported once.

    Args:
        nbytes: its size.
        device: of the weights.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.flat = torch.empty(nbytes, dtype=torch.uint8, device=device)
        exported = reduce_tensor(self.flat)
        self.handle = bytes(ForkingPickler.dumps(exported))
        # torch's counter of receivers is 1 from now on.
        self._counter = exported[1][_COUNTER] if self.flat.is_cuda else None

    def export_again(self) -> None:
        """Make a new handle for another version. In tests the memory is on the host, where the first receiver that has
        no export of its own removes it; on a GPU the old handle stays valid.
        """
        if not self.flat.is_cuda:
            self.handle = bytes(ForkingPickler.dumps(reduce_tensor(self.flat)))

    def free(self) -> None:
        """Free the memory, which no receiver may use any more, also if the counter says so: one that died."""
        if self._counter is not None:
            torch.UntypedStorage._release_ipc_counter(*self._counter, device=self.flat.device)
        on_gpu = self.flat.is_cuda
        del self.flat
        if on_gpu:
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()


class IpcTransfer(WeightTransfer):
    """Segments on the GPU, one for each bucket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._segments: list[Segment] = []

    @property
    def bucket_bytes(self) -> int:
        """As the base class says."""
        return max(super().bucket_bytes, _BUCKET_BYTES)

    def _publish(self, buckets: Buckets, here: str, receivers: Sequence[Destination], partial: bool) -> IpcPayload:
        """As the base class says."""
        manifests = [self._copied(index, tensors) | {"partial": partial} for index, tensors in enumerate(buckets)]
        if self._segments and self._segments[0].flat.is_cuda:
            torch.cuda.synchronize()  # the copies are done before another process reads them
        return IpcPayload(manifests)

    def release(self, payload: IpcPayload) -> None:
        """Nothing: the next version is written to the same segments."""

    def address(self, published: Published, receiver: Destination) -> tuple[Any, ...]:
        """As the base class says: the manifests."""
        if receiver.node != published.node:
            raise TransferError(
                "runs on another node than the learner, which broadcast.backend = ipc cannot reach: use host"
            )
        return (published.payload.manifests,)

    @contextlib.asynccontextmanager
    async def receive(self, manifests: list[Manifest]) -> AsyncIterator[list[Update]]:
        """As the base class says; the buckets stay on the GPU of the publisher."""
        yield [Update.of(manifests)]

    def remove_leftovers(self, *, restarted: bool) -> None:
        """Nothing: the driver frees the memory of a process that ends."""

    def _copied(self, index: int, tensors: Sequence[NamedTensor]) -> Manifest:
        """Copy a bucket into segment `index`; segments are made in the order of their indices."""
        _, nbytes = packed_buckets.layout(tensors)
        device = tensors[0][1].device
        if index == len(self._segments):
            self._segments.append(Segment(nbytes, device))
        elif self._segments[index].flat.numel() < nbytes:  # under learner.lora the first update may be a part
            self._segments[index].free()
            self._segments[index] = Segment(nbytes, device)
        else:
            self._segments[index].export_again()
        segment = self._segments[index]
        manifest, _ = packed_buckets.flatten(tensors, out=segment.flat)
        return manifest | {HANDLE: segment.handle}


def open_bucket(manifest: Manifest) -> Iterator[NamedTensor]:
    """Map a published bucket and yield `(name, tensor)` views of it.

    Raises:
        TransferError: the publisher has died, or the segment is smaller than the manifest says.
    """
    try:
        rebuild, arguments = pickle.loads(manifest[HANDLE])
        flat = rebuild(*arguments)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise TransferError(f"cannot map the weight bucket of the learner: {error}") from error
    if flat.numel() < manifest["nbytes"]:
        raise TransferError(f"weight bucket has {flat.numel()} bytes, its manifest says {manifest['nbytes']}")
    yield from packed_buckets.views(manifest, flat)
