"""Resources that an optional unit reserves before its actor starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from ray.exceptions import RayError

from actors.process_stats import INSPECT_SECONDS
from actors.threads import in_daemon_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Room(Protocol):
    """Resources for one actor. Both methods may block, so they are called in a thread."""

    def reserve(self) -> bool:
        """Ask the cluster for the resources, once; whether it has reserved them."""

    def release(self) -> None:
        """Withdraw the request, or free what was reserved."""


async def reserved(room: Room | None, name: str) -> bool:
    """Ask for room for the unit `name`; whether it is reserved. False if Ray does not answer."""
    return room is None or bool(await _ask(room.reserve, f"reserve room for {name}"))


async def release(room: Room | None, name: str) -> None:
    """Give up the room of the unit `name`. If Ray does not answer, the room is free at the end of its job."""
    if room is not None:
        await _ask(room.release, f"release the room of {name}")


async def _ask(question: Callable[[], T], to: str) -> T | None:
    try:
        return await in_daemon_thread(question, owner="Ray", to=to, deadline_s=INSPECT_SECONDS)
    except (TimeoutError, RayError) as error:
        logger.warning("%s", error)
        return None
