"""Resources that an optional unit reserves before its actor starts."""

from __future__ import annotations

from typing import Protocol

from actors.remote_calls import ask_ray


class Room(Protocol):
    """Resources for one actor. Both methods may block, so they are called in a thread."""

    def reserve(self) -> bool:
        """Ask the cluster for the resources, once; returns whether it has reserved them."""

    def release(self) -> None:
        """Withdraw the request, or free what was reserved."""


async def reserved(room: Room | None, name: str) -> bool:
    """Ask for room for the unit `name`; returns whether it is reserved. False if Ray does not answer."""
    return room is None or bool(await ask_ray(room.reserve, to=f"reserve room for {name}"))


async def release(room: Room | None, name: str) -> None:
    """Release the room of the unit `name`. If Ray does not answer, the room is freed when its job ends."""
    if room is not None:
        await ask_ray(room.release, to=f"release the room of {name}")
