"""Loads multimodal checkpoints as text models on machines without torchvision.

vLLM's classes for them import torchvision for images, which a text model never sees (`language_model_only`). CPU
machines do without the package (see requirements/cpu.txt). An empty stub replaces it only while
such a class is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MODULES = (
    "torchvision",
    "torchvision.io",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.transforms.v2",
    "torchvision.transforms.v2.functional",
)


def allow_text_models() -> None:
    """Let vLLM import its multimodal classes without torchvision; may be called many times."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from vllm.model_executor.models.registry import ModelRegistry, _LazyRegisteredModel

    @dataclass(frozen=True)
    class TextModel(_LazyRegisteredModel):
        """An entry of vLLM's registry whose class is imported with the stub if it needs torchvision."""

        def load_model_cls(self) -> Any:
            try:
                return super().load_model_cls()
            except ModuleNotFoundError as error:
                if error.name is None or not error.name.startswith("torchvision"):
                    raise
            with stand_in():
                return super().load_model_cls()

    for name, model in list(ModelRegistry.models.items()):
        if type(model) is _LazyRegisteredModel:
            ModelRegistry.models[name] = TextModel(model.module_name, model.class_name)


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Empty modules in place of torchvision."""
    added = {name: _StandIn(name) for name in _MODULES}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _StandIn(types.ModuleType):
    """A module from which every name can be imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or type(name, (), {})
