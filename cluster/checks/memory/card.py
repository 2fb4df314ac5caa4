"""The GPUs of this machine and their memory, read with nvidia-smi, without starting CUDA."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import RunConfig

ASSUMED_GIB = 80.0
_GIB, _MIB = 2**30, 2**20
_ASK_S = 20.0  # the driver wakes up on the first question
_DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")  # containers and virtual machines may lack it


def local_gpus() -> int:
    """NVIDIA GPUs of this machine that the process may use."""
    visible = _visible()
    return _listed_gpus() if visible is None else len(visible)


def _visible() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES (indices, UUIDs or their beginnings); None: every GPU is visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    return [name for name in map(str.strip, visible.split(",")) if name not in ("", "-1")]


def _listed_gpus() -> int:
    if _DRIVER_FOLDER.is_dir():
        return len(list(_DRIVER_FOLDER.iterdir()))
    return len(_query("index"))


@functools.cache
def _query(fields: str) -> tuple[tuple[str, ...], ...]:
    """A row for each GPU of the machine, from nvidia-smi; none where it is missing or does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(tuple(cell.strip() for cell in line.split(",")) for line in found.stdout.splitlines() if line.strip())


def card_bytes(config: RunConfig) -> float:
    """Bytes of memory of one GPU: ``cluster.gpu_memory_gib``, else read from the GPU, else an assumed 80 GiB."""
    if config.cluster.gpu_memory_gib is not None:
        return config.cluster.gpu_memory_gib * _GIB
    found = local_card_bytes() if config.cluster.address is None else None
    return ASSUMED_GIB * _GIB if found is None else found


def local_card_bytes() -> float | None:
    """Memory of the smallest GPU that this process may use; None where there is none or nvidia-smi does not answer.

    CUDA_VISIBLE_DEVICES is compared with nvidia-smi's indices and UUIDs, so an index needs
    CUDA_DEVICE_ORDER=PCI_BUS_ID on a machine with different GPUs; an entry that names no GPU (a MIG device) makes the
    answer None.
    """
    if local_gpus() == 0:
        return None
    rows = [row for row in _query("index,uuid,memory.total") if len(row) == 3 and row[2].isdigit()]
    wanted = _visible()
    if wanted is not None:
        chosen = [[row for row in rows if name == row[0] or row[1].startswith(name)] for name in wanted]
        if any(len(found) != 1 for found in chosen):
            return None
        rows = [row for [row] in chosen]
    return min(float(row[2]) for row in rows) * _MIB if rows else None
