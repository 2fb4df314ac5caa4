"""Memory that a GPU copies from and to directly; other host memory goes through a small buffer of the driver.

Not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import logging

import numpy as np

logger = logging.getLogger(__name__)


def pin(data: np.ndarray) -> bool:
    """Register the memory of an array with CUDA; False, with a warning, if the driver refuses: copies are slower.

    Call :func:`unpin` before the memory is unmapped.
    """
    import torch

    code = int(torch.cuda.cudart().cudaHostRegister(data.ctypes.data, data.nbytes, 0))
    if code == 0:
        return True
    logger.warning("CUDA does not pin %d MiB of shared memory (error %d): copies are slower", data.nbytes >> 20, code)
    _take_error()
    return False


def _take_error() -> None:
    """Otherwise the next kernel would report the error of the refused call as its own."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda").add_(1)


def unpin(data: np.ndarray) -> None:
    """Undo :func:`pin`."""
    import torch

    torch.cuda.cudart().cudaHostUnregister(data.ctypes.data)
