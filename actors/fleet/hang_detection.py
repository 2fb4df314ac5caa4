"""Hang detection from heartbeats and processor time: pure logic, without Ray and without a clock.

An actor answers heartbeats from the event loop that serves requests, so a background thread cannot answer for a blocked
loop. The operating system reports whether its processes are stopped and how much processor time they use. This
separates an actor that compiles, or holds the GIL in a long call, from one that is deadlocked:

    stopped by a signal for hung_s                                 -> lost
    no answer for hung_s, and (almost) no processor time meanwhile -> lost
    no answer for busy_s, whatever it does                         -> lost
    its engine has work and uses no processor time for hung_s      -> lost
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from actors.process_stats import ProcessStats

IDLE_SHARE = 0.03  # of one core: Ray's own threads in an idle actor use less


class HangDetector:
    """Heartbeats and process stats of one actor since it began to serve.

    Args:
        now: seconds of a monotonic clock, as in every method.
        hung_s, busy_s: see the settings of the section `supervision`.
    """

    def __init__(self, now: float, hung_s: float, busy_s: float) -> None:
        self._hung_s = hung_s
        self._busy_s = busy_s
        self._reset(now)

    def _reset(self, now: float) -> None:
        self._last_heartbeat = self._last_observation = now
        self._observable = False  # the last observation returned process stats
        self._last_stats = now
        self._reconnects_until = now  # an answer may still be on its way through a network that was down
        self._working_since: float | None = None
        self._stopped_since: dict[int, float] = {}
        self._cpu: dict[int, deque[tuple[float, float]]] = {}

    def heartbeat(self, now: float, *, working: bool) -> None:
        """The actor answered; `working` as in :class:`actors.process_stats.Heartbeat`."""
        self._last_heartbeat = now
        if not working:
            self._working_since = None
        elif self._working_since is None:
            self._working_since = now

    def observe(self, now: float, stats: Mapping[int, ProcessStats], *, waited_s: float = 0.0) -> None:
        """Record what the operating system reports.

        Args:
            stats: of the actor's processes; empty if the node's monitor did not answer.
            waited_s: seconds since the last observation that were spent waiting for this one.
        """
        if now - self._last_observation - waited_s > self._hung_s / 2:
            self._reset(now)  # the observer itself was suspended, so the gap proves nothing about the actor
        self._last_observation = now
        if stats and not self._observable and self._cpu:
            # Node and network were out of sight. TCP sends again after twice the time each time, so answers may need as
            # long again; and processor time that was not seen does not tell an actor that waited from one that hangs.
            self._reconnects_until = now + (now - self._last_stats)
            self._cpu.clear()
        self._observable = bool(stats)
        if stats:  # a child that was stopped and has ended, or was killed, is not stopped any more
            self._stopped_since = {pid: since for pid, since in self._stopped_since.items() if pid in stats}
        self._last_stats = now if stats else self._last_stats
        for pid, process in stats.items():
            if process.stopped:
                self._stopped_since.setdefault(pid, now)
            else:
                self._stopped_since.pop(pid, None)
            history = self._cpu.setdefault(pid, deque())
            history.append((now, process.cpu_seconds))
            while len(history) > 2 and now - history[1][0] >= self._hung_s:
                history.popleft()

    def diagnosis(self, now: float) -> str | None:
        """Why the actor counts as lost, or None."""
        silent = now - self._last_heartbeat
        if silent >= self._busy_s:
            return f"it has not answered for {silent:.0f} s (supervision.busy_s)"
        if not self._observable:
            return None  # older observations may be out of date
        for pid, since in self._stopped_since.items():
            if max(now - since, silent) >= self._hung_s:
                return f"its process {pid} has been stopped for {max(now - since, silent):.0f} s"
        if now < self._reconnects_until:
            return None
        pids = list(self._cpu)
        if silent >= self._hung_s and all(self._idle(pid) for pid in pids):
            return f"it has not answered for {silent:.0f} s and uses no processor time"
        engines = pids[1:]
        if self._working_since is not None and now - self._working_since >= self._hung_s and engines:
            if all(self._idle(pid) for pid in engines):
                return f"its engine (process {engines[0]}) has work and uses no processor time"
        return None

    def _idle(self, pid: int) -> bool:
        """Whether the process was observed for `hung_s` and used (almost) no processor time meanwhile."""
        history = self._cpu[pid]
        (begin, before), (end, after) = history[0], history[-1]
        return end - begin >= self._hung_s and after - before < IDLE_SHARE * (end - begin)
