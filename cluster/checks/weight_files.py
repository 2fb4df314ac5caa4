"""Checks of the weights in a model directory, from the safetensors headers, before anything loads them.

No library is imported but NumPy, and only to look for NaN: a 70 B model's headers are read in milliseconds.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UsageError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors format
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SCANNED_BYTES = 4 * 2**30  # larger models are not read through for NaN: that would take minutes
_LAYER = re.compile(r"(?:layers|h|blocks)\.(\d+)\.")
_LFS = b"version https://git-lfs"
_MISTRAL = "consolidated"  # beginning of the names of files that vLLM takes alone, where there are any
_FETCH = "fetch the model again"
LINK = "is a link to a file that is not there; copy the model with `cp -rL`, which follows links, or " + _FETCH
ADAPTER = (
    "it holds a LoRA adapter; merge it into its base model (merge_and_unload and save_pretrained of peft) and set "
    "model.path to the result"
)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file: `start` is the place of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int


def read_tensors(directory: Path) -> list[Tensor]:
    """Every tensor that transformers would load from `directory`; `consolidated.safetensors` and the like do not count.

    Raises:
        UsageError: no safetensors, a shard of the index is missing, or a file is damaged.
    """
    tensors = [tensor for file in _files(directory) for tensor in _read_header(file)]
    absent = sorted(set(_index(directory)) - {tensor.name for tensor in tensors}) if tensors else []
    if absent and not (directory / SINGLE).is_file():
        raise UsageError(
            f"model.path = {directory}: {INDEX} names {len(absent)} weights that are in none of its files "
            f"({', '.join(absent[:3])}); {_FETCH}"
        )
    return tensors


def _index(directory: Path) -> dict[str, str]:
    """File names by the weights that they hold; empty where there is no index."""
    index = directory / INDEX
    if not index.is_file():
        return {}
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(name, str) for name in places.values()):
            raise TypeError("weight_map has a value that is not a file name")
        return places
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"model.path: {index} cannot be read as an index of shards ({error!r}); {_FETCH}") from error


def _files(directory: Path) -> list[Path]:
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.is_file():
        others = sorted(
            p.name for pattern in ("*.bin", "*.gguf", "*.pt", "*.safetensors") for p in directory.glob(pattern)
        )
        found = f" (only {', '.join(others[:3])})" if others else ""
        if (directory / "adapter_config.json").is_file():
            raise UsageError(f"model.path = {directory}: no {SINGLE} there: {ADAPTER}")
        if broken := [name for name in (SINGLE, INDEX) if (directory / name).is_symlink()]:
            raise UsageError(f"model.path = {directory}: {broken[0]} {LINK}")
        raise UsageError(
            f"model.path = {directory}: no {SINGLE} and no {INDEX} there{found}; bonrl reads safetensors under these "
            "names: convert the model with transformers' save_pretrained"
        )
    files = [directory / name for name in sorted(set(_index(directory).values()))]
    missing = [file.name for file in files if not file.is_file()]
    if broken := [file.name for file in files if file.name in missing and file.is_symlink()]:
        raise UsageError(f"model.path = {directory}: {broken[0]} {LINK}")
    if missing or not files:
        raise UsageError(
            f"model.path = {directory}: {INDEX} names {len(missing)} of {len(files)} files that are not there "
            f"({', '.join(missing[:3]) or 'none'}); {_FETCH}"
        )
    return files


def _tensor(file: Path, name: str, entry: dict[str, Any], data: int) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(name, entry["dtype"], tuple(map(int, entry["shape"])), file, data + start, end - start)


def _read_header(file: Path) -> list[Tensor]:
    """A safetensors file: 8 bytes of length (little endian), that many of JSON, then the data."""
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            if _LFS.startswith(start) and start:
                raise ValueError("a Git LFS pointer: run `git lfs pull`")
            (length,) = struct.unpack("<Q", start)
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header would have {length} bytes")
            entries: dict[str, Any] = json.loads(stream.read(length))
            tensors = [
                _tensor(file, name, entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"
            ]
        _check_places(tensors, 8 + length, file.stat().st_size)
        return tensors
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"model.path: {file} is damaged or no safetensors file ({reason}); {_FETCH}") from error


def _check_places(tensors: list[Tensor], start: int, size: int) -> None:
    """The format wants the data of one tensor behind those of another, from the header to the end of the file.

    Raises:
        ValueError: they overlap, have gaps, or end elsewhere than the file.
    """
    wanted = max((t.start + t.size for t in tensors), default=start)
    if size < wanted:
        raise ValueError(f"it is cut off: {size} bytes of {wanted}")
    for tensor in sorted(tensors, key=lambda t: (t.start, t.size)):
        if tensor.start != start or tensor.size < 0:
            raise ValueError(f"the data of {tensor.name} do not begin where those before it end")
        start += tensor.size
    if size > start:
        raise ValueError(f"{size - start} bytes after the last weight belong to none")


def differing_files(directory: Path) -> Iterator[str]:
    """A line where the sampler (vLLM) would not load the files that `read_tensors` reads, as the learner does.

    vLLM reads what the index names, and without an index every safetensors file.
    """
    names = {file.name for file in directory.glob("*.safetensors")}
    if SINGLE not in names or any(name.startswith(_MISTRAL) for name in names):
        return
    place = f"model.path = {directory}"
    index = _index(directory)
    if index and set(index.values()) != {SINGLE}:
        yield (
            f"{place}: the learner would load {SINGLE}, but the sampler the files that {INDEX} names; delete "
            f"{INDEX} if it is of an earlier model, else {SINGLE}"
        )
    elif not index and len(names) > 1:
        yield (
            f"{place}: the learner would load {SINGLE} only, but the sampler also {', '.join(sorted(names - {SINGLE}))}"
            "; move that to another directory"
        )


def weight_problems(directory: Path, text: dict[str, Any], tensors: list[Tensor]) -> Iterator[str]:
    """One line for each way in which the weights are not those of config.json, or cannot be trained."""
    place = f"model.path = {directory}"
    whole = {"I64", "I32", "BOOL"}  # of buffers
    odd = sorted({t.dtype for t in tensors if t.name.endswith(".weight") or t.dtype not in whole} - set(_BYTES))
    if odd:
        yield (
            f"{place}: weights of type {', '.join(odd)} are quantised, and bonrl trains float weights; set model.path "
            "to the model before quantisation"
        )
        return
    for tensor in tensors:
        if tensor.size and tensor.dtype in _BYTES and math.prod(tensor.shape) * _BYTES[tensor.dtype] != tensor.size:
            yield f"{place}: {tensor.file.name}: {tensor.name} has a shape that does not fit its data; {_FETCH}"
            return
    for tensor in tensors:
        wanted = (text["vocab_size"], text["hidden_size"])
        if tensor.name.endswith(("embed_tokens.weight", "wte.weight")) and tensor.shape != wanted:
            yield (
                f"{place}: config.json says vocab_size x hidden_size = {wanted[0]} x {wanted[1]}, but {tensor.name} is "
                f"{' x '.join(map(str, tensor.shape))}; config.json and weights must be from the same model: {_FETCH}"
            )
    layers = {int(found.group(1)) for t in tensors if (found := _LAYER.search(t.name)) and "vision" not in t.name}
    if layers and max(layers) + 1 < text["num_hidden_layers"]:
        yield (
            f"{place}: config.json says num_hidden_layers = {text['num_hidden_layers']}, but the weights have "
            f"{max(layers) + 1}; config.json and weights must be from the same model: {_FETCH}"
        )


def first_not_finite(tensors: list[Tensor]) -> Tensor | None:
    """The first tensor with NaN or infinity; None also for models too large to be read through."""
    import numpy as np

    floats = [t for t in tensors if t.dtype in _FLOATS and t.size]
    if sum(t.size for t in floats) > _SCANNED_BYTES:
        return None
    for tensor in floats:
        values = np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.size,)).view(_FLOATS[tensor.dtype])
        for start in range(0, len(values), 2**24):
            part = values[start : start + 2**24]
            finite = (part & 0x7F80) != 0x7F80 if tensor.dtype == "BF16" else np.isfinite(part)
            if not finite.all():
                return tensor
    return None
