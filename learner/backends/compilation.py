"""torch.compile for the decoder layers and for the passes over the logits (`learner.torch_compile`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from learner.losses import LogitPasses

# Graphs of one kind of layer: with and without gradient, mask and adapters, one row or several, first layer or later.
# Where there are more, torch runs the rest uncompiled; its own limit of 8 is too low for LoRA with padded rows.
_MAX_GRAPHS = 64


def decoder_layers(model: Any) -> list[torch.nn.Module]:
    """The layers of a model of transformers.

    Raises:
        ValueError: it has none that can be compiled; the message names the key.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[torch.nn.Module] = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ValueError(f"learner.torch_compile: {type(model).__name__} has no layers to compile; set it to false")
    return layers


def check_compiler(device: torch.device) -> None:
    """Find the compiler that inductor needs on the first forward pass: of C++ for a CPU, of C for Triton on a GPU.

    Raises:
        ValueError: there is none; the message names the key.
    """
    if device.type == "cpu":
        variable, candidates = "CXX", ["g++"]
    else:
        variable, candidates = "CC", ["gcc", "clang"]
    named = os.environ.get(variable)
    if not any(map(shutil.which, [named] if named else candidates)):
        wanted = f"{variable} = {named}" if named else " or ".join(candidates)
        raise ValueError(
            f"learner.torch_compile needs a compiler on the learner's node, and {wanted} is not there; install "
            f"{candidates[0]}, or set learner.torch_compile to false"
        )


def compile_layers(layers: list[torch.nn.Module]) -> None:
    """Compile each layer for any number and length of sequences. The whole model has too many branches.

    Only `forward` is compiled: hooks of the layer, such as those of ZeRO-3, would end a graph at every call.
    """
    compiled: Callable[..., Any] = partial(torch.compile, dynamic=True, recompile_limit=_MAX_GRAPHS)
    for layer in layers:
        layer.forward = compiled(layer.forward)


def compiled_passes() -> LogitPasses:
    """Each pass over the logits of a chunk as one kernel that reads them once. A size that changes, such as that of the
    chunk, is made variable when it does."""
    compiled: Callable[..., Any] = partial(torch.compile, recompile_limit=_MAX_GRAPHS)
    return LogitPasses(*map(compiled, LogitPasses()))
