"""The supervisor's eyes and hands on every node, and what is done when they fail: nothing else watches them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from actors.calls import ActorFailure, call
from actors.vitals import Beat, Vitals

LOOK_SECONDS = 5.0  # for a look at a process, or its end
_START_SECONDS = 60.0  # for a new watch to give its first answer


@dataclass(eq=False)
class _Watch:
    handle: Any
    patience_until: float  # time of a monotonic clock until which its silence means nothing
    failed_at: float | None = None  # when the first of the looks ended that failed in a row


class Watches:
    """One :class:`actors.vitals.NodeWatch` on every node that holds actors, made when first wanted.

    Args:
        spawn: makes the watch of a node, by the node's id.
        kill: ends an actor, as ``ray.kill``.
    """

    def __init__(self, spawn: Callable[[str], ActorHandle], kill: Callable[[ActorHandle], None]) -> None:
        self._spawn = spawn
        self._kill = kill
        self._watches: dict[str, _Watch] = {}

    async def look(self, beat: Beat, *, family: bool = False) -> dict[int, Vitals]:
        """Vitals of the processes of `beat`; none when nobody could look.

        After two looks in a row that failed the watch is replaced: it may hang, and then nobody else would notice.
        """
        watch = self._watch(beat.node)
        began = time.monotonic()
        try:
            seen = await self._ask(watch, beat, "look", beat.processes, family, to="look at its processes")
        except ActorFailure:  # the node may be gone: then the actor's own silence, or its death, will tell
            if watch.failed_at is not None and watch.failed_at <= began and began >= watch.patience_until:
                self._drop(beat.node, watch)
            watch.failed_at = watch.failed_at or time.monotonic()
            return {}
        watch.failed_at, watch.patience_until = None, 0.0
        return seen

    async def end(self, beat: Beat, name: str) -> None:
        """SIGKILL to the processes of `beat`, by a new watch if the old one does not answer."""
        for _ in range(2):
            watch = self._watch(beat.node)
            try:
                return await self._ask(watch, beat, "kill", beat.processes, to=f"end {name}")
            except ActorFailure:  # it hangs; or the node is gone, and its processes with it
                self._drop(beat.node, watch)

    def _watch(self, node: str) -> _Watch:
        if node not in self._watches:
            self._watches[node] = _Watch(self._spawn(node), time.monotonic() + _START_SECONDS)
        return self._watches[node]

    def _drop(self, node: str, watch: _Watch) -> None:
        if self._watches.get(node) is watch:
            del self._watches[node]
            self._kill(watch.handle)

    async def _ask(self, watch: _Watch, beat: Beat, method: str, *arguments: Any, to: str) -> Any:
        return await call(
            getattr(watch.handle, method).remote(*arguments),
            owner=f"the watch of node {beat.node[:8]}",
            to=to,
            deadline_s=LOOK_SECONDS,
        )
