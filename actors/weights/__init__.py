"""Weight transfer from the learner to samplers: the interface is in `base`, its implementations in `host` and `ipc`."""

from __future__ import annotations

from actors.settings import BroadcastSettings
from actors.weights.base import Published, TransferError, Update, WeightTransfer

__all__ = ["Published", "TransferError", "Update", "WeightTransfer", "make_transfer"]


def make_transfer(settings: BroadcastSettings, owner: str) -> WeightTransfer:
    """The way of moving weights that ``broadcast.backend`` names or lets us choose."""
    from actors.weights.host import HostTransfer  # late: they import torch
    from actors.weights.ipc import IpcTransfer

    return {"host": HostTransfer, "ipc": IpcTransfer}[settings.chosen_backend](settings, owner)
