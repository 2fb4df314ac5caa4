"""Resources that an optional unit reserves before its actor starts."""

from __future__ import annotations

from typing import Protocol

from actors.remote_calls import ask_ray


class Reservation(Protocol):
    """Resources for one actor. Both methods may block, so they are called in a thread."""

    def reserve(self) -> bool:
        """Ask the cluster for the resources, once; returns whether it has reserved them."""

    def release(self) -> None:
        """Withdraw the request, or free what was reserved."""


async def reserve(reservation: Reservation | None, name: str) -> bool:
    """Ask for the resources of the unit `name`; returns whether they are reserved. False if Ray does not answer."""
    return reservation is None or bool(await ask_ray(reservation.reserve, to=f"reserve room for {name}"))


async def release(reservation: Reservation | None, name: str) -> None:
    """Release the resources of the unit `name`. If Ray does not answer, they are freed when the job ends."""
    if reservation is not None:
        await ask_ray(reservation.release, to=f"release the room of {name}")
