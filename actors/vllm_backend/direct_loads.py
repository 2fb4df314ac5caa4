"""Weight updates straight into a model's parameters, without vLLM's layer-wise reload.

The reload is for layers whose kernels want another form of the weights: quantized, packed, or experts in one block. It
allocates every layer again, loads it and copies it: two copies on the device, and hundreds of Python calls per tensor.
The parameters of unquantized dense layers on a GPU are the checkpoint's values themselves. For a model that has only
such layers:

1. The first update takes the reload, which rejects an update that lacks a tensor of a layer.
2. The next one with the same tensors calls the model's own loaders on its parameters, and records their copies.
3. The following ones make the recorded copies, in one call per bucket.

An update with other tensors takes the reload again. So does every update of a model whose loaders compute something,
because only copies can be repeated. Not run on a GPU yet; the tests run this code with vLLM's models on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.weights.base import NamedTensor
from actors.weights.buckets import Manifest

logger = logging.getLogger(__name__)

Layout = list[tuple[str, str, tuple[int, ...]]]  # name, type and shape of each tensor of an update, in their order


class DirectLoads:
    """Decides how an update is loaded, and loads those that need no reload.

    Args:
        model: of vLLM, loaded.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._suitable = has_only_plain_layers(model)
        self._accepted: Layout | None = None
        self._recorder: _Recorder | None = None
        self._record: _Recorder | None = None

    def begin(self, manifests: Sequence[Manifest]) -> bool:
        """Whether an update of these buckets needs no reload; then call :meth:`load` for each, and :meth:`finish`."""
        if not self._suitable or _layout(manifests) != self._accepted:
            return False
        self._recorder = _Recorder() if self._record is None else None
        return True

    def load(self, tensors: Iterable[NamedTensor]) -> None:
        """Load the tensors of one bucket."""
        if self._recorder is not None:
            with self._recorder:
                self._model.load_weights(self._recorder.watched(tensors))  # type: ignore[operator]
            return
        assert self._record is not None
        copies = self._record.copies
        pairs = [(copy.target, copy.source(tensor)) for name, tensor in tensors for copy in copies[name]]
        if pairs:
            targets, sources = zip(*pairs, strict=True)
            torch._foreach_copy_(targets, sources)

    def finish(self, *, complete: bool) -> None:
        """After the last bucket, or if the rest of them does not arrive."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            for padding, value in self._record.fills if self._record else []:
                padding.fill_(value)
            return
        if not complete:
            return
        problem = recorder.problem or _order_problem(recorder.written)
        if problem:
            logger.info("weight updates reload every layer: %s", problem)
            self._suitable = False
        else:
            self._record = recorder

    def reloaded(self, manifests: Sequence[Manifest]) -> None:
        """A reload with these buckets is done; it would have rejected layers without a part of their tensors."""
        self._accepted, self._record = _layout(manifests), None


def has_only_plain_layers(model: torch.nn.Module) -> bool:
    """Whether no layer changes its weights after they are loaded, on a GPU."""
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    methods = (type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    return all(
        type(getattr(layer, "quant_method", None)) in methods
        and (type(layer) is Attention or not hasattr(layer, "process_weights_after_loading"))
        for layer in model.modules()
    )


class _Copy(NamedTuple):
    """A copy from a part of a sent tensor; offset: of the part in it, in elements."""

    target: torch.Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def source(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.as_strided(self.size, self.stride, tensor.storage_offset() + self.offset)


class _Recorder(TorchDispatchMode):
    """Records what loaders do with the tensors that they get.

    copies: by the name of the tensor. fills: padding, with its value. problem: why this cannot be repeated, or empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[str, list[_Copy]] = {}
        self.fills: list[tuple[torch.Tensor, float]] = []
        self.problem = ""
        self._name, self._tensor = "", torch.empty(0)

    @property
    def written(self) -> list[torch.Tensor]:
        """All that the loaders wrote to."""
        return [copy.target for copies in self.copies.values() for copy in copies] + [one for one, _ in self.fills]

    def watched(self, tensors: Iterable[NamedTensor]) -> Iterator[NamedTensor]:
        """The tensors; what happens between two of them is done with the first."""
        for self._name, self._tensor in list(tensors):
            self.copies[self._name] = []
            yield self._name, self._tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self._copied(args[0], args[1])
        elif func is torch.ops.aten.fill_.Scalar or func is torch.ops.aten.zero_.default:
            self.fills.append((args[0], args[1] if len(args) > 1 else 0.0))
        elif not _is_view(func):
            self.problem = self.problem or f"the loader of {self._name} calls {func}"
        return func(*args, **(kwargs or {}))

    def _copied(self, target: torch.Tensor, source: torch.Tensor) -> None:
        tensor = self._tensor
        same_memory = source.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        if not same_memory or source.dtype != tensor.dtype or target.shape != source.shape:
            self.problem = self.problem or f"the loader of {self._name} copies something else"
        offset = int(source.storage_offset()) - int(tensor.storage_offset())
        self.copies[self._name].append(_Copy(target, source.size(), source.stride(), offset))


def _is_view(func: Any) -> bool:
    """Whether an operator returns a view and writes nothing."""
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _layout(manifests: Sequence[Manifest]) -> Layout:
    return [(name, dtype, tuple(shape)) for m in manifests for name, dtype, shape, *_ in m["entries"]]


def _order_problem(written: Sequence[torch.Tensor]) -> str:
    """Why the order in which these tensors were written may matter; empty if it does not."""
    if not all(tensor.is_contiguous() for tensor in written):
        return "a loader writes to memory with gaps"
    spans = sorted(_span(tensor) for tensor in written if tensor.numel())
    if any(following < end for (_, end), (following, _) in pairwise(spans)):
        return "loaders write twice to the same memory"
    return ""


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte, and the one after the last, of a contiguous tensor."""
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
