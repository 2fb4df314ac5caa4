"""The `host` back-end of vLLM's weight transfer: loads buckets into models.

The buckets are in shared memory (`host`), in the memory of a shared GPU (`ipc`), or learner rank 0 broadcasts them
(`nccl`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from actors.vllm_backend.direct_loads import DirectLoads
from actors.vllm_backend.text_models import allow_text_models
from actors.weights import buckets, ipc, nccl
from actors.weights.mapped_files import MappedFiles

BACKEND = "host"


def register_host_backend() -> None:
    """Register the back-end `host` with vLLM; vLLM calls this entry point in each of its processes.

    May be called many times. A process that vLLM started is also set to die with its parent.
    """
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    _die_with_parent()
    allow_text_models()
    with contextlib.suppress(ValueError):  # registered already
        WeightTransferEngineFactory.register_engine(BACKEND, host_weight_transfer_engine())


def _die_with_parent() -> None:
    """Have the kernel kill this engine process with its sampler; vLLM cleans up only if the parent is alive."""
    import ctypes
    import multiprocessing
    import signal
    import sys

    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it died before the request
        os._exit(1)


@functools.cache
def host_weight_transfer_engine() -> type:
    """The class `HostWeightTransferEngine`; created on demand because its base class needs vLLM imported."""
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    @dataclass
    class HostInitInfo(WeightTransferInitInfo):
        """Empty: each manifest describes its bucket."""

    @dataclass
    class HostUpdateInfo(WeightTransferUpdateInfo):
        """manifests: of all buckets, see :mod:`actors.weights.buckets`."""

        manifests: list[dict[str, Any]]

    class HostWeightTransferEngine(WeightTransferEngine[HostInitInfo, HostUpdateInfo]):
        """Loads checkpoint-format weights into a model on any device.

        interruption: why buckets of the running update stopped arriving; empty: they did not. The rest is then skipped.
        changed: whether the running update has loaded tensors.
        """

        init_info_cls = HostInitInfo
        update_info_cls = HostUpdateInfo
        supports_draft_weight_update = False

        def init_transfer_engine(self, init_info: HostInitInfo) -> None:
            # Each update would warn about layers without own weights (rotary tables, the tied head);
            # _check_complete reports the relevant ones.
            logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
            self._inbox = nccl.Inbox(self.parallel_config.rank, self.device)
            self._files = MappedFiles(self.device)
            # Where layers multiply with their parameters; on CPUs they have packed copies.
            self._direct = DirectLoads(self.model) if self.device.type == "cuda" else None

        def start_weight_update(self) -> None:
            self._partial = False
            self.interruption, self.changed = "", False
            self._reloading = False
            self._received: list[dict[str, Any]] = []

        def _start_reload(self) -> None:
            if self._reloading:
                return
            self._reloading = True
            self._expert_kernels = _remove_expert_kernels(self.model) if self.device.type == "cpu" else {}
            initialize_layerwise_reload(self.model)
            for layer in _written_directly(self.model):
                _allocate(layer)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            # The base class synchronizes an accelerator, which a CPU does not have.
            self.receive_weights(self.parse_update_info(update_info))
            if self.device.type != "cpu":
                torch.accelerator.synchronize()

        def receive_weights(self, update_info: HostUpdateInfo) -> None:
            manifests = update_info.manifests
            self._partial |= any(manifest.get("partial", False) for manifest in manifests)
            self._received += manifests
            if self._direct is not None and not self._reloading and self._direct.begin(manifests):
                load: Callable[..., Any] = self._direct.load
            else:
                # A layer may need tensors of a later bucket; its views keep this bucket mapped until then.
                self._start_reload()
                load = self.model.load_weights  # type: ignore[assignment]
            for tensors in self._arriving(manifests):
                self.changed = True
                load(tensors)

        def receive_adapter(self, manifests: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            """Copies of all tensors on the host; not all of them if there was an `interruption`."""
            self.interruption, self.changed = "", False
            arriving = self._arriving(manifests)
            return {name: tensor.to("cpu", copy=True) for tensors in arriving for name, tensor in tensors}

        def _arriving(self, manifests: list[dict[str, Any]]) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
            """The tensors of one bucket after the other; ends early with an `interruption`."""
            for manifest in manifests:
                try:
                    tensors = self._open_bucket(manifest)
                except nccl.Interrupted as error:
                    self.interruption = str(error)
                    return
                yield tensors
            self._files.forget_others(manifests)

        def _open_bucket(self, manifest: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
            if nccl.GROUP in manifest:
                return self._inbox.open_bucket(manifest)
            if ipc.HANDLE in manifest:
                return ipc.open_bucket(manifest)
            if self.device.type == "cpu":
                return buckets.open_bucket(manifest)
            return self._files.open_bucket(manifest)

        def finish_weight_update(self) -> None:
            if not self._reloading:
                # After an interruption the model has weights of two versions: it waits for another update.
                if self._direct is not None:
                    self._direct.finish(complete=not self.interruption)
                return
            if self.interruption:
                _keep_expert_kernels(self._expert_kernels)
                _give_up(self.model)
                finalize_layerwise_reload(self.model, self.model_config)
                return
            for layer in _written_directly(self.model):
                _process(layer)
            _check_complete(self.model, partial=self._partial)
            _keep_expert_kernels(self._expert_kernels)
            finalize_layerwise_reload(self.model, self.model_config)
            if self.device.type == "cpu":
                _repack_tied_layers(self.model)
            if self._direct is not None:
                self._direct.reloaded(self._received)

        def shutdown(self) -> None:
            """Leave the group of the learner, and its files."""
            self._inbox.close()
            self._files.close()

    return HostWeightTransferEngine


def _remove_expert_kernels(model: torch.nn.Module) -> dict[torch.nn.Module, Any]:
    """Make the update rebuild the kernels of mixture-of-experts layers; returns them.

    On CPUs vLLM packs expert weights only when it builds the kernel. An update that finds a kernel would copy
    unpacked weights into packed memory: same size, another order, wrong by several nats.
    """
    kernels: dict[torch.nn.Module, Any] = {}
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if method is not None and getattr(method, "moe_kernel", None) is not None:
            kernels[layer], method.moe_kernel = method.moe_kernel, None
    return kernels


def _keep_expert_kernels(kernels: dict[torch.nn.Module, Any]) -> None:
    """Give layers that a partial update left out their kernels back: they keep their packed weights."""
    for layer, kernel in kernels.items():
        if _untouched(layer):
            layer.quant_method.moe_kernel = kernel  # type: ignore[union-attr]


def _untouched(layer: torch.nn.Module) -> bool:
    """Whether the update has no tensor for the layer."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    info = get_layerwise_info(layer)
    return info.can_load() and info.load_numel == 0


def _give_up(model: torch.nn.Module) -> None:
    """Let the end of the reload give layers whose tensors did not all arrive their former weights.

    What arrived of a layer must go: vLLM would count it in the next update.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            info.load_numel = 0
            info.loaded_weights.clear()


def _written_directly(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers whose parameters the model writes directly, without the loaders that wait for a whole layer.

    The reload allocates a layer only when its tensors have arrived, so the experts and attention sinks that gpt-oss
    writes would be lost.
    """
    if type(model).__name__ != "GptOssForCausalLM":
        return []
    return [layer for layer in model.modules() if {"w13_weight", "sinks"} & layer._parameters.keys()]


def _allocate(layer: torch.nn.Module) -> None:
    """Allocate the layer before its tensors arrive, filled with NaN to detect missing ones."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import materialize_layer

    materialize_layer(layer, get_layerwise_info(layer))
    for parameter in layer.parameters(recurse=False):
        parameter.data.fill_(torch.nan)


def _process(layer: torch.nn.Module) -> None:
    """Process the written tensors as the loaders do after the last one; incomplete layers are left unchanged."""
    from vllm.model_executor.model_loader.reload.layerwise import _layerwise_process, get_layerwise_info

    if not any(parameter.isnan().any() for parameter in layer.parameters(recurse=False)):
        _layerwise_process(layer, get_layerwise_info(layer))


def _check_complete(model: torch.nn.Module, *, partial: bool) -> None:
    """Reject an update that left a parameter without a value; vLLM would continue with uninitialized memory.

    In a partial update whole layers may be absent, but not a part of one.

    Raises:
        ValueError: naming the layers.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    waiting: list[tuple[str, set[int]]] = []
    loaded: set[int] = set()
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load():  # complete, processed when its last tensor arrived
            loaded.update(map(id, layer.parameters(recurse=False)))
            continue
        kernel_parameters = info.kernel_tensors[0].values() if info.kernel_tensors else ()
        needed = sum(p.numel() for p in layer.parameters(recurse=False))
        padded = isinstance(layer, VocabParallelEmbedding) and info.load_numel > 0  # the vocabulary's padding rows
        if info.load_numel >= needed or padded or (partial and info.load_numel == 0):
            loaded.update(map(id, kernel_parameters))
        else:
            waiting.append((name, set(map(id, kernel_parameters))))
    missing = [name for name, parameters in waiting if not parameters <= loaded]
    if missing:
        raise ValueError(f"the weight update lacks tensors for {len(missing)} layers: {', '.join(missing[:5])}")


def _repack_tied_layers(model: torch.nn.Module) -> None:
    """Repack layers that share a weight.

    On CPUs a layer multiplies with a packed copy of its weight. The reload packs a layer when its own tensors
    arrive; a tied output head never gets any and would silently keep a copy of the old embedding (off by
    up to 14 nats).
    """
    for layers in _layers_by_weight(model):
        if len(layers) > 1:
            for layer in layers:
                method = getattr(layer, "quant_method", None)
                if method is not None:
                    method.process_weights_after_loading(layer)


def _layers_by_weight(model: torch.nn.Module) -> Iterator[list[torch.nn.Module]]:
    groups: dict[int, list[torch.nn.Module]] = {}
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.numel():
            groups.setdefault(weight.data_ptr(), []).append(layer)
    yield from groups.values()
