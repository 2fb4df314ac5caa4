"""The adapter that vLLM adds to each layer's output, for ``learner.lora.send: adapters``.

All requests name the same adapter, because a running request cannot change to another one. Before the first update this
adapter changes nothing. An update replaces its content under the same name, so running requests continue with the new
content, as they do with new weights.

Facts about vLLM 0.32:

- A worker reads an adapter's files only if it has no adapter of that number. Ours arrives by the weight transfer, so
  there are no files.
- The end of a weight update removes all adapters, because the model below them has changed. So adapters are sent by a
  separate call.
- alpha / rank is multiplied into B, in the type of the model.
- Weights of layers that the model does not have are ignored, so the names are checked here.
- Without `lora_target_modules` vLLM would adapt the embedding and the output head as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from actors.weights import Update
from learner.settings import LoraSettings

_NUMBER = 1
_SHOWN = 3


class SentAdapter:
    """The adapter of one engine, seen from the sampler."""

    def __init__(self, settings: LoraSettings) -> None:
        self._settings = settings
        self._layers: list[str] = []  # names in the checkpoint

    def engine_arguments(self, model_path: str) -> dict[str, Any]:
        """vLLM's arguments for an engine with this adapter; call it before the other methods.

        Raises:
            ValueError: the model has no such layers; the message names the key.
        """
        from vllm.config.lora import MaxLoRARanks

        from learner.backends.lora import sent_layers  # late: it imports torch

        self._layers = sent_layers(model_path, self._settings)
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": min(rank for rank in get_args(MaxLoRARanks) if rank >= self._settings.rank),
            "lora_target_modules": sorted({layer.rpartition(".")[2] for layer in self._layers}),
        }

    async def prepare(self, llm: Any) -> None:
        """Give a new engine an adapter that changes nothing.

        Raises:
            Exception: vLLM's model has not all the layers.
        """
        await llm.collective_rpc("prepare_adapter", args=(self._layers, self._settings.rank))

    async def load(self, llm: Any, updates: Sequence[Update]) -> list[tuple[str, bool]]:
        """Replace the adapter; per worker, why it stopped arriving (empty: it did not), and whether it was replaced."""
        manifests = [manifest for update in updates for manifest in update.info["manifests"]]
        arguments = (manifests, self._layers, self._settings.rank, self._settings.alpha)
        return await llm.collective_rpc("load_adapter", args=arguments)


def adapter_request() -> Any:
    """What a request carries to be sampled with the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("learner", _NUMBER, "/sent/by/the/learner")


def prepare(manager: Any, layers: Sequence[str], rank: int) -> None:
    """Put an adapter of zeros into the adapter manager of a vLLM worker.

    Raises:
        ValueError: the model has not all the layers.
    """
    from vllm.lora.utils import parse_fine_tuned_lora_name

    models = manager._adapter_manager
    known = {*models.modules, *(part for parts in models.packed_modules.values() for part in parts)}
    names = {layer: parse_fine_tuned_lora_name(f"{layer}.lora_A.weight", _mapper(models))[0] for layer in layers}
    if missing := [layer for layer, name in names.items() if name not in known]:
        raise ValueError(f"vLLM cannot adapt {_listed(missing)} of this model; set learner.lora.send=merged")
    manager.add_dummy_lora(adapter_request(), rank)


def replace(manager: Any, tensors: Mapping[str, Any], layers: Sequence[str], rank: int, alpha: float) -> None:
    """Replace the adapter of a vLLM worker by that of these tensors.

    Args:
        tensors: A and B of each layer, by the names of :meth:`learner.backends.lora.Adapters.factors`, on the host.

    Raises:
        ValueError: the tensors are not those of `layers`.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    if odd := sorted(tensors.keys() ^ {f"{layer}.lora_{x}.weight" for layer in layers for x in "AB"}):
        raise ValueError(f"the update lacks {_listed(odd)}, or should not have it")
    models = manager._adapter_manager
    adapter = LoRAModel.from_lora_tensors(
        _NUMBER,
        dict(tensors),
        PEFTHelper(r=rank, lora_alpha=alpha, target_modules=[]),  # type: ignore[arg-type]  # alpha is only divided
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=_mapper(models),
    )
    models.remove_adapter(_NUMBER)
    models.add_adapter(adapter)
    models.activate_adapter(_NUMBER)


def _mapper(models: Any) -> Any:
    """vLLM's renaming of the names in the checkpoint, if it has one."""
    mapper = getattr(models.model, "hf_to_vllm_mapper", None)
    return None if mapper is None else mapper.get_rename_mapper()


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
