"""What a campaign found: every blow with its recovery, what is wrong, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Blow:
    """One blow and its mending; seconds since the blow (None: nothing had to be noticed)."""

    kind: str
    blow: str
    detected_s: float | None
    serving_s: float | None
    step_s: float
    during: str | None = None  # the kind that was struck before it, and was not mended yet

    @property
    def struck(self) -> str:
        return self.kind if self.during is None else f"{self.kind}, after {self.during}"


@dataclass
class Report:
    """What a campaign found."""

    blows: list[Blow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    steps: int = 0
    with_gradient: int = 0  # steps at which the optimiser moved
    reward: tuple[float, float] = (0.0, 0.0)  # mean of the first and of the last fifth of the steps
    weights: str = ""
    staleness: tuple[int, int] = (0, 0)  # observed, bound

    def table(self) -> str:
        """Recovery by kind: number of blows; seconds to detection, to service, and to two more finished steps."""
        lines = [
            "| struck | blow | times | detected after (s) | serving after (s) | two more steps after (s) |",
            "|---|---|---|---|---|---|",
        ]
        for struck, blow in sorted({(b.struck, b.blow) for b in self.blows}):
            some = [b for b in self.blows if (b.struck, b.blow) == (struck, blow)]
            figures = ([b.detected_s for b in some], [b.serving_s for b in some], [b.step_s for b in some])
            lines.append(f"| {struck} | {blow} | {len(some)} | {' | '.join(_spread(values) for values in figures)} |")
        return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f}, worst {max(known):.1f}" if known else "not lost"
