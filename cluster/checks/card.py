"""The memory of one GPU: asked of the card, without starting CUDA."""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import RunConfig

ASSUMED_GIB = 80.0
_GIB, _MIB = 2**30, 2**20
_ASK_S = 20.0  # the driver wakes up on the first question


def card_bytes(config: RunConfig) -> float:
    """Bytes of memory of one GPU: ``cluster.gpu_memory_gib``, else read from the card, else an assumed 80 GiB."""
    if config.cluster.gpu_memory_gib is not None:
        return config.cluster.gpu_memory_gib * _GIB
    found = local_card_bytes() if config.cluster.address is None else None
    return ASSUMED_GIB * _GIB if found is None else found


@functools.cache
def local_card_bytes() -> float | None:
    """Memory of this machine's smallest visible GPU; None where there is none or nvidia-smi does not answer."""
    from cluster.checks.preflight import local_gpus

    if local_gpus() == 0:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
        return min(float(line) for line in found.stdout.split()) * _MIB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
