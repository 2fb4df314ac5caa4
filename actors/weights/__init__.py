"""Weight transfer from the learner to samplers: the interface is in `base`, its implementation in `host`."""

from __future__ import annotations

from actors.settings import BroadcastSettings
from actors.weights.base import Published, TransferError, Update, WeightTransfer
from actors.weights.host import HostTransfer

__all__ = ["Published", "TransferError", "Update", "WeightTransfer", "make_transfer"]

TRANSFERS: dict[str, type[WeightTransfer]] = {"host": HostTransfer}


def make_transfer(settings: BroadcastSettings, owner: str) -> WeightTransfer:
    """The weight transfer that ``broadcast.backend`` names."""
    return TRANSFERS[settings.backend](settings, owner)
