"""LoRA (arXiv 2106.09685): adapters in a frozen model, and the weights of the same policy without adapters.

An adapted layer computes `W x + (alpha / rank) B A x`. Exports, and samplers unless they get A and B themselves, have
the merged weight `W + (alpha / rank) B A`, always computed from the frozen W and the current A and B, in float32, and
rounded once to W's type. Merging in place would add a rounding error with every update.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from learner.backends.checkpoint_layout import CheckpointLayout, NamedTensor
from learner.backends.model_directory import empty_causal_lm, load_causal_lm
from learner.settings import ALL_LINEAR, LoraSettings

_ADAPTER = "default"  # peft's name of the only adapter
_PREFIX = "base_model.model."  # of the names in an adapter file of peft
_SHOWN = 8


class Adapters:
    """The adapters of one model.

    Create it after the model's `CheckpointLayout` and before DeepSpeed partitions the parameters. It freezes the model.

    Attributes:
        parameters: the adapters' named parameters; only these are trained.
        sent: the weights that an inference engine needs after a step: those of adapted layers, and those that it can
            load only together with them.

    Raises:
        ValueError: the model has no such layers; the message names the key.
    """

    def __init__(self, model: Any, settings: LoraSettings) -> None:
        self.sent = _with_siblings(model, target_layers(model, settings.targets))
        self._config = _inject(model, settings)
        self._layers = _adapted_layers(model)
        self._by_weight = {id(layer.get_base_layer().weight): layer for layer in self._layers.values()}
        self.parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def units(self, units: Iterable[list[NamedTensor]]) -> list[list[NamedTensor]]:
        """Those units of a layout that hold a weight of `sent`."""
        sent = set(map(id, self.sent))
        return [unit for unit in units if any(id(tensor) in sent for _, tensor in unit)]

    def with_factors(self, weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """These weights, and A and B of those that have an adapter: what must be whole for `merged`."""
        found = []
        for weight in weights:
            layer = self._by_weight.get(id(weight))
            found += [weight, *(_factors(layer) if layer is not None else ())]
        return found

    @torch.no_grad()
    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its adapter added; itself if it has none."""
        layer = self._by_weight.get(id(weight))
        if layer is None:
            return weight
        a, b = _factors(layer)
        change = (b.float() @ a.float()) * layer.scaling[_ADAPTER]
        return (weight.float() + (change.T if layer.fan_in_fan_out else change)).to(weight.dtype)

    def factors(self, layout: CheckpointLayout) -> list[NamedTensor]:
        """A and B of every adapted layer, named after the layer in the checkpoint, as inference engines name adapters.

        Raises:
            ValueError: the checkpoint has no such layer, because it fuses or splits its weight.
        """
        stored = {name: _stored(layout, name, layer.get_base_layer()) for name, layer in self._layers.items()}
        return [
            (f"{stored[name]}.lora_{x}.weight", factor)
            for name, layer in self._layers.items()
            for x, factor in zip("AB", _factors(layer), strict=True)
        ]

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the block the model computes what the frozen model computes."""
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)

    def save(self, directory: str | Path, base: str | Path) -> None:
        """Write the adapters in peft's format, for `PeftModel.from_pretrained`; `base` is the frozen model's path."""
        from safetensors.torch import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._config.base_model_name_or_path = str(base)
        self._config.save_pretrained(str(directory))
        weights = {
            _PREFIX + name.replace(f".{_ADAPTER}.", "."): p.detach().to("cpu", copy=True).contiguous()
            for name, p in self.parameters
        }
        save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def target_layers(model: Any, targets: str | Sequence[str]) -> list[str]:
    """Names of the layers that `learner.lora.targets` names: linear layers, except the output head.

    Raises:
        ValueError: a target names no layer, or one that cannot have an adapter.
    """
    linear = _linear_layers(model)
    if isinstance(targets, str):
        return list(linear)
    found: set[str] = set()
    for target in targets:
        named = {name for name, _ in model.named_modules() if _is_named(name, target)}
        if not named & linear.keys():
            raise ValueError(_target_problem(model, target, named, linear))
        found |= named & linear.keys()
    return [name for name in linear if name in found]


def adapter_sizes(model_path: str | Path, settings: LoraSettings) -> tuple[int, int]:
    """How many weights are trained, and how many go to the samplers after a step. The model's weights are not read.

    Raises:
        ValueError: as `Adapters` and `sent_layers`.
    """
    adapters = Adapters(empty_causal_lm(model_path), settings)
    trained = sum(p.numel() for _, p in adapters.parameters)
    if settings.send == "adapters":
        sent_layers(model_path, settings)
        return trained, trained
    return trained, sum(p.numel() for p in adapters.sent)


def sent_layers(model_path: str | Path, settings: LoraSettings) -> list[str]:
    """Names in the checkpoint of the layers whose adapters `Adapters.factors` has. The weights are not read.

    Raises:
        ValueError: as `target_layers` and `Adapters.factors`.
    """
    model = load_causal_lm(model_path, "float32", weights=False)
    layout, modules = CheckpointLayout(model), dict(model.named_modules())
    return [_stored(layout, name, modules[name]) for name in target_layers(model, settings.targets)]


def _inject(model: Any, settings: LoraSettings) -> Any:
    """Put adapters into the target layers and freeze everything else; returns peft's configuration.

    Raises:
        ValueError: as `target_layers`, or peft does not adapt one of the layers of this model.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    layers = target_layers(model, settings.targets)
    modules = dict(model.named_modules())
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft accepts a float
        lora_dropout=settings.dropout,
        target_modules=layers,
        fan_in_fan_out=isinstance(modules[layers[0]], Conv1D),
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, model)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"learner.lora.targets: peft cannot adapt these layers of {type(model).__name__} ({error}); list "
            "other layers"
        ) from error
    if odd := sorted(_adapted_layers(model).keys() ^ set(layers)):
        raise ValueError(
            f"learner.lora.targets: peft cannot adapt {', '.join(odd[:3])} like the other layers; list other layers"
        )
    config.target_modules = layers  # peft shortens them; whole names fit no other layer of a larger model
    return config


def _adapted_layers(model: Any) -> dict[str, Any]:
    """The layers with an adapter by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _stored(layout: CheckpointLayout, name: str, layer: Any) -> str:
    """The layer's name in the checkpoint.

    Raises:
        ValueError: the checkpoint fuses or splits its weight.
    """
    stored = layout.stored.get(id(layer.weight))
    if stored is None:
        raise ValueError(
            f"learner.lora.send = adapters: the checkpoint fuses or splits {name}, so that its adapter has no name "
            "there; set learner.lora.send = merged, or list other layers in learner.lora.targets"
        )
    return stored.removesuffix(".weight")


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight


def _linear_layers(model: Any) -> dict[str, torch.nn.Module]:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }


def _with_siblings(model: Any, layers: Sequence[str]) -> list[torch.nn.Parameter]:
    """Parameters of these layers and of the linear layers in the same module: engines fuse some of them (q, k and v),
    and load a fused layer only as a whole."""
    parents = {name.rpartition(".")[0] for name in layers}
    linear = [layer for name, layer in _linear_layers(model).items() if name.rpartition(".")[0] in parents]
    return [parameter for layer in linear for parameter in layer.parameters()]


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _target_problem(model: Any, target: str, named: set[str], linear: Iterable[str]) -> str:
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    place = f"learner.lora.targets: {target!r}"
    remedy = f"name linear layers ({', '.join(known[:_SHOWN])}), or use {ALL_LINEAR}"
    if not named:
        near = difflib.get_close_matches(target, known, 1)
        return (
            f"{place} names no layer of {type(model).__name__}{f'; did you mean {near[0]}?' if near else ''}; {remedy}"
        )
    modules = dict(model.named_modules())
    for special, what in (
        (model.get_input_embeddings(), "the embedding"),
        (model.get_output_embeddings(), "the output head"),
    ):
        if any(modules[name] is special for name in named):
            return f"{place} is {what}, which stays frozen under LoRA; {remedy}"
    kinds = sorted({type(modules[name]).__name__ for name in named})
    return f"{place} names layers of type {', '.join(kinds)}, which are not linear; {remedy}"
