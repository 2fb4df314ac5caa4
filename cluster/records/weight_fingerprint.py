"""A fingerprint of a model directory's weights: equal for equal weights, whatever the files look like."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open


def weights_sha256(model_directory: Path) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of names.

    The metadata that a safetensors file carries and the split into files do not count.
    """
    where: dict[str, Path] = {}
    for path in sorted(model_directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            where |= {name: path for name in file.keys()}
    digest = hashlib.sha256()
    for name in sorted(where):
        with safe_open(where[name], framework="pt") as file:
            tensor = file.get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
