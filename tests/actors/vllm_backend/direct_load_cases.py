"""Direct updates of vLLM's models in this process: `python -m tests.actors.vllm_backend.direct_load_cases DIRECTORY`.

Prints a JSON object per subfolder, a Hugging Face model. The models are not processed for the CPU, so that their
parameters are the checkpoint's values, as on a GPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from actors.vllm_backend.direct_loads import DirectLoads
from actors.weights import buckets
from actors.weights.base import NamedTensor
from actors.weights.buckets import Manifest
from benchmarks.direct_loads import vllm_models


def main() -> None:
    directory = Path(sys.argv[1])
    models = sorted(directory.iterdir())
    for path, (_, pair) in zip(models, vllm_models(models, directory.parent / "group", copies=2), strict=True):
        print(json.dumps({"model": path.name, **updates(*pair, path)}), flush=True)


def updates(model: Any, expected: Any, directory: Path) -> dict[str, Any]:
    """Five updates, the first as a reload leaves it; whether each has the values of the model's own loaders."""
    direct, calls, equal, begun = DirectLoads(model), 0, [], []
    own_loader = model.load_weights

    def counted(tensors: Iterator[NamedTensor]) -> Any:
        nonlocal calls
        calls += 1
        return own_loader(tensors)

    model.load_weights = counted
    for version in range(5):
        if version == 3:
            for parameter in model.parameters():
                parameter.fill_(torch.nan)  # as after a sleep that discards the weights
        parts = _version(directory, version)
        flats = [buckets.flatten(part) for part in parts]
        manifests: list[Manifest] = [manifest for manifest, _ in flats]
        begun.append(direct.begin(manifests))
        for manifest, flat in flats:
            tensors = buckets.views(manifest, flat)
            if begun[-1]:
                direct.load(tensors)
            else:
                model.load_weights(tensors)
        if begun[-1]:
            direct.finish(complete=True)
        else:
            direct.reloaded(manifests)
        for part in parts:
            expected.load_weights(iter(part))
        pairs = zip(model.parameters(), expected.parameters(), strict=True)
        equal.append(all(torch.equal(a, b) for a, b in pairs))
    return {"direct": begun, "equal": equal, "calls": calls}


def _version(directory: Path, version: int) -> list[list[NamedTensor]]:
    """The tensors of the files with other values, in two buckets that divide the tensors of merged layers."""
    from safetensors.torch import load_file

    loaded = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(version)
    tensors = [(name, t + torch.randn(t.shape, generator=generator).to(t.dtype)) for name, t in loaded.items()]
    return [tensors[0::2], tensors[1::2]]


if __name__ == "__main__":
    main()
