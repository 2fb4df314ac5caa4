"""Weight transfer from the learner to samplers: the interface is in `base`, its implementation in `host`."""

from __future__ import annotations

from actors.settings import BroadcastSettings
from actors.weights.base import Published, TransferError, Update, WeightTransfer

__all__ = ["Published", "TransferError", "Update", "WeightTransfer", "make_transfer"]


def make_transfer(settings: BroadcastSettings, owner: str) -> WeightTransfer:
    """The way of moving weights that ``broadcast.backend`` names."""
    from actors.weights.host import HostTransfer  # late: it imports torch

    return {"host": HostTransfer}[settings.backend](settings, owner)
