"""When an actor counts as hung: a pure judgement over answers and processor time, without Ray and without a clock.

An actor answers the supervisor from the event loop that serves requests, so a thread that merely runs cannot answer for
it. The operating system says whether its processes are stopped and how much processor time they use, so an actor that
is silent because it compiles, or holds Python's lock in a long call, is told from one that waits for ever:

    stopped by a signal for hung_s                                 -> lost
    no answer for hung_s, and (almost) no processor time meanwhile -> lost
    no answer for busy_s, whatever it does                         -> lost
    its engine has work and uses no processor time for hung_s      -> lost
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from actors.process_stats import Vitals

IDLE_SHARE = 0.03  # of one core: Ray's own threads in an actor that does nothing use less


class HangDetector:
    """What is known about one actor since it began to serve.

    Args:
        now: seconds of a monotonic clock, as in every method.
        hung_s, busy_s: see the settings of the section `supervision`.
    """

    def __init__(self, now: float, hung_s: float, busy_s: float) -> None:
        self._hung_s = hung_s
        self._busy_s = busy_s
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._answered = self._looked = now
        self._sees = False  # the last look told something
        self._working_since: float | None = None
        self._stopped_since: dict[int, float] = {}
        self._cpu: dict[int, deque[tuple[float, float]]] = {}

    def answered(self, now: float, *, working: bool) -> None:
        """The actor answered; `working` as in :class:`actors.process_stats.Heartbeat`."""
        self._answered = now
        if not working:
            self._working_since = None
        elif self._working_since is None:
            self._working_since = now

    def looked(self, now: float, vitals: Mapping[int, Vitals], *, waited_s: float = 0.0) -> None:
        """The operating system's word.

        Args:
            vitals: of the actor's processes; empty when nobody could look.
            waited_s: seconds of the time since the last look that were spent on waiting for this one.
        """
        if now - self._looked - waited_s > self._hung_s / 2:
            self._begin(now)  # the observer itself stood still: what it did not see proves nothing
        self._looked = now
        self._sees = bool(vitals)
        for pid, seen in vitals.items():
            if seen.stopped:
                self._stopped_since.setdefault(pid, now)
            else:
                self._stopped_since.pop(pid, None)
            history = self._cpu.setdefault(pid, deque())
            history.append((now, seen.cpu_seconds))
            while len(history) > 2 and now - history[1][0] >= self._hung_s:
                history.popleft()

    def ailment(self, now: float) -> str | None:
        """Why the actor counts as lost, or None."""
        silent = now - self._answered
        if silent >= self._busy_s:
            return f"it has not answered for {silent:.0f} s (supervision.busy_s)"
        if not self._sees:
            return None  # what was seen earlier may have changed
        for pid, since in self._stopped_since.items():
            if max(now - since, silent) >= self._hung_s:
                return f"its process {pid} is stopped, for {max(now - since, silent):.0f} s"
        pids = list(self._cpu)
        if silent >= self._hung_s and all(self._idle(pid) for pid in pids):
            return f"it has not answered for {silent:.0f} s and uses no processor time"
        engines = pids[1:]
        if self._working_since is not None and now - self._working_since >= self._hung_s and engines:
            if all(self._idle(pid) for pid in engines):
                return f"its engine (process {engines[0]}) has work and uses no processor time"
        return None

    def _idle(self, pid: int) -> bool:
        """Whether the process was watched for `hung_s` and did (almost) nothing in that time."""
        history = self._cpu[pid]
        (begin, before), (end, after) = history[0], history[-1]
        return end - begin >= self._hung_s and after - before < IDLE_SHARE * (end - begin)
