"""Weights in the names and shapes of the checkpoint.

transformers 5 renames and merges weights while it loads them: the experts of a layer become one tensor,
`block_sparse_moe` becomes `mlp`. vLLM and readers of an export expect the names in the files, so exported weights go
through the inverse of the conversion that loaded them (`transformers.core_model_loading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

NamedTensor = tuple[str, torch.Tensor]


class CheckpointLayout:
    """How the weights of a loaded model are named, split and ordered in its checkpoint.

    Create it before DeepSpeed partitions the parameters.

    Attributes:
        units: the model's weights, grouped by conversion; most groups have one weight. Parameters, then the buffers in
            the checkpoint; a head tied to the embedding is omitted.
        metadata: (checkpoint name, dtype, shape) of all that `convert` returns for all units, in this order.
        stored: for weights that the checkpoint neither splits nor fuses nor reshapes, their name in it, by id.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        weights = [*model.named_parameters(), *_persistent_buffers(model)]
        self.units: list[list[NamedTensor]] = list(_units(model, weights))
        self.metadata: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
        self.stored: dict[int, str] = {}
        for unit in self.units:
            converted = self.convert((name, tensor.detach().to("meta")) for name, tensor in unit)
            self.metadata += [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in converted]
            if len(unit) == len(converted) == 1 and unit[0][1].shape == converted[0][1].shape:
                self.stored[id(unit[0][1])] = converted[0][0]

    def convert(self, unit: Iterable[NamedTensor]) -> list[NamedTensor]:
        """The tensors of one unit, by their names in the checkpoint; views of them where possible."""
        from transformers.core_model_loading import revert_weight_conversion  # late: see Engine.__init__

        return list(revert_weight_conversion(self._model, dict(unit)).items())


def into_buckets(units: Iterable[list[NamedTensor]], bucket_bytes: int) -> Iterator[list[list[NamedTensor]]]:
    """Consecutive units in buckets of at most `bucket_bytes`; a larger unit gets its own bucket."""
    bucket: list[list[NamedTensor]] = []
    used = 0
    for unit in units:
        size = sum(_nbytes(tensor) for _, tensor in unit)
        if bucket and used + size > bucket_bytes:
            yield bucket
            bucket, used = [], 0
        bucket.append(unit)
        used += size
    if bucket:
        yield bucket


def _nbytes(tensor: torch.Tensor) -> int:
    # Under ZeRO-3 a released parameter has numel() 0; its true size is ds_numel.
    return int(getattr(tensor, "ds_numel", tensor.numel())) * tensor.element_size()


def _persistent_buffers(model: torch.nn.Module) -> Iterator[NamedTensor]:
    """Buffers that a checkpoint contains, such as the balancing bias of a router."""
    names = model.state_dict(keep_vars=True).keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in names)


def _units(model: Any, weights: list[NamedTensor]) -> Iterator[list[NamedTensor]]:
    """Group the weights that one conversion combines, such as q, k and v of a checkpoint with fused projections."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = [transform.reverse_transform() for transform in reversed(getattr(model, "_weight_conversions", []))]
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    groups: dict[str, list[NamedTensor]] = {}
    for name, tensor in weights:
        key, _ = rename_source_key(name, renamings, converters, reverse=True)
        groups.setdefault(key, []).append((name, tensor))
    yield from groups.values()
