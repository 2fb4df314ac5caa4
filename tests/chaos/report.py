"""The result of a campaign: the recovery from every fault, the problems that the audit found, and a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recovery:
    """The recovery from one fault; times in seconds since the fault (None: there was no loss to detect)."""

    kind: str
    way: str
    detected_s: float | None
    serving_s: float | None
    step_s: float
    during: str | None = None  # the kind of an earlier fault from which the run was still recovering

    @property
    def target(self) -> str:
        return self.kind if self.during is None else f"{self.kind}, after {self.during}"


@dataclass
class Report:
    """The result of a campaign."""

    recoveries: list[Recovery] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    steps: int = 0
    with_gradient: int = 0  # steps at which the optimizer moved
    reward: tuple[float, float] = (0.0, 0.0)  # mean of the first and of the last fifth of the steps
    weights: str = ""  # SHA-256 of the run's last checkpoint
    replayed: str = ""  # that of an undisturbed learner, trained on the recorded groups; "" if not compared
    staleness: tuple[int, int] = (0, 0)  # observed, bound

    def table(self) -> str:
        """By kind: the number of faults; seconds to detection, to service, and to two more finished steps."""
        lines = [
            "| target | fault | times | detected after (s) | serving after (s) | two more steps after (s) |",
            "|---|---|---|---|---|---|",
        ]
        for target, way in sorted({(r.target, r.way) for r in self.recoveries}):
            some = [r for r in self.recoveries if (r.target, r.way) == (target, way)]
            figures = ([r.detected_s for r in some], [r.serving_s for r in some], [r.step_s for r in some])
            lines.append(f"| {target} | {way} | {len(some)} | {' | '.join(_spread(values) for values in figures)} |")
        return "\n".join(lines)

    def summary(self) -> str:
        """The table, and the results of the audit in lines."""
        if not self.replayed:
            weights = "not compared with those of an undisturbed learner"
        elif self.replayed == self.weights:
            weights = f"{self.weights}, equal to those of an undisturbed learner"
        else:
            weights = f"{self.weights}, but {self.replayed} from an undisturbed learner"
        return "\n".join(
            (
                self.table(),
                f"{self.steps} steps; staleness: observed {self.staleness[0]}, bound {self.staleness[1]}",
                f"{self.with_gradient} steps with a gradient; reward {self.reward[0]:.3f} -> {self.reward[1]:.3f}",
                f"weights {weights}",
                "problems: " + ("; ".join(self.problems) if self.problems else "none"),
            )
        )


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f}, worst {max(known):.1f}" if known else "not lost"
