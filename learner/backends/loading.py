"""Rank 0 reads the model and the other ranks receive it, so that not every rank of a host holds a copy of the files.

A receiving rank reads only the headers of the files. Its parameters are placeholders: they have the right shape, but
memory for a single number. `allocate` gives them memory on the training device, just before rank 0 broadcasts their
values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from learner.backends.model_directory import load_causal_lm


def load_on_rank_0(path: str | Path, dtype: str, rank: int, world_size: int) -> Any:
    """`load_causal_lm` on rank 0; on the others the same model with placeholder parameters. Collective.

    Raises:
        ValueError: as `load_causal_lm`.
        RuntimeError: the directory of this rank has another model than that of rank 0.
    """
    model = load_causal_lm(path, dtype, weights=rank == 0)
    if world_size > 1:
        outlines = [_outline(model) if rank == 0 else None]
        dist.broadcast_object_list(outlines)
        if rank != 0:
            assert outlines[0] is not None
            if problem := _difference(_outline(model), outlines[0]):
                raise RuntimeError(
                    f"learner rank {rank}: '{path}' has {problem}; give all nodes the same files and packages"
                )
            _apply_outline(model, outlines[0])
    return model


def allocate(parameters: Iterable[torch.nn.Parameter], device: torch.device) -> None:
    """Allocate placeholder parameters on `device`; their values are undefined. Other parameters are left alone."""
    for parameter in parameters:
        if parameter.untyped_storage().nbytes() < parameter.nbytes:
            parameter.data = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)


@dataclass(frozen=True)
class _Outline:
    """What a rank must know of the model of rank 0 besides the values of its parameters.

    parameters: by every name: the first name of the same parameter, its type and its shape.
    random: state of the generator after loading, which draws numbers for some architectures (Mamba 2).
    """

    parameters: dict[str, tuple[str, torch.dtype, torch.Size]]
    buffers: dict[str, torch.Tensor]
    random: torch.Tensor


def _outline(model: torch.nn.Module) -> _Outline:
    first: dict[int, str] = {}
    parameters = {
        name: (first.setdefault(id(p), name), p.dtype, p.shape)
        for name, p in model.named_parameters(remove_duplicate=False)
    }
    return _Outline(parameters, dict(model.named_buffers(remove_duplicate=False)), torch.get_rng_state())


def _difference(mine: _Outline, other: _Outline) -> str | None:
    """The difference in names, types or shapes. Ties may differ: transformers decides some of them by values."""

    def described(outline: _Outline) -> dict[str, tuple[torch.dtype, torch.Size]]:
        found = {name: (dtype, shape) for name, (_, dtype, shape) in outline.parameters.items()}
        return found | {name: (buffer.dtype, buffer.shape) for name, buffer in outline.buffers.items()}

    a, b = described(mine), described(other)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            return f"another {name} than on rank 0 ({_text(a.get(name))}, there {_text(b.get(name))})"
    return None


def _text(described: tuple[torch.dtype, torch.Size] | None) -> str:
    return "none" if described is None else f"{described[0]} {list(described[1])}"


def _apply_outline(model: torch.nn.Module, outline: _Outline) -> None:
    """Replace tensors on the meta device by placeholder parameters, tied as on rank 0, and by the buffers of rank 0."""
    placeholder: dict[str, torch.nn.Parameter] = {}
    for name, (first, dtype, shape) in outline.parameters.items():
        if first not in placeholder:
            floating = dtype.is_floating_point or dtype.is_complex
            placeholder[first] = torch.nn.Parameter(torch.zeros((), dtype=dtype).expand(shape), requires_grad=floating)
        _set(model, name, placeholder[first])
    for name, buffer in outline.buffers.items():
        _set(model, name, buffer)
    torch.set_rng_state(outline.random)


def _set(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, tensor)
