"""Weight transfer from the learner to samplers: the interface is in `base`, its implementations in `host`,
`ipc` and `nccl`."""

from __future__ import annotations

from collections.abc import Callable

from actors.settings import BroadcastSettings, DeadlineSettings
from actors.weights.base import Destination, Published, TransferError, Update, WeightTransfer

__all__ = ["Destination", "Published", "TransferError", "Update", "WeightTransfer", "make_transfer"]


def make_transfer(settings: BroadcastSettings, owner: str, deadlines: DeadlineSettings | None = None) -> WeightTransfer:
    """The weight transfer that ``broadcast.backend`` names; `auto` chooses one."""
    from actors.weights.host import HostTransfer  # late: they import torch
    from actors.weights.ipc import IpcTransfer
    from actors.weights.nccl import NcclTransfer

    kinds: dict[str, Callable[..., WeightTransfer]] = {"host": HostTransfer, "ipc": IpcTransfer, "nccl": NcclTransfer}
    return kinds[settings.chosen_backend](settings, owner, deadlines)
