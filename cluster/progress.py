"""What a run shows on the terminal: a live display on a TTY, plain lines without one (a file, a job's log).

The display is an observer: it reads rows of cluster/metric_names.py and changes nothing in the run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learner.metrics import CurvePoint

_PASS = re.compile(r"(eval/pass@|pass_at_k/)(\d+)")


class Progress:
    """Progress of one run. `start`, then `step` / `phase` / `message` in any order, then `stop`.

    Args:
        console: where to write; stdout by default. Live display only if it is an interactive terminal.
        plain_every_s: without a TTY at most one line in this many seconds; first and last step always show.
        clock: seconds, monotonic (tests put their own).
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        plain_every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._plain_every_s = plain_every_s
        self._clock = clock
        self._live: Live | None = None
        self._total = self._done = self._first = 0
        self._row: dict[str, Any] = {}
        self._pending: str | None = None
        self._last_line_at = -float("inf")
        self._phase, self._phase_since = "starting", clock()
        self._first_news: tuple[float, int] | None = None  # when the first finished step was told, and which

    @property
    def is_live(self) -> bool:
        return self._console.is_interactive

    def start(self, total: int, first_step: int = 0) -> None:
        """Begins: `total` optimiser steps in all, of which `first_step` were done before (resume)."""
        self._total, self._first, self._done = total, first_step, first_step
        self._first_news = None
        self.phase("starting")
        if self.is_live:
            self._live = Live(console=self._console, get_renderable=self.render, transient=True)
            self._live.start()
        elif first_step:
            self._write(f"resuming after step {first_step} of {total}")

    def message(self, text: str) -> None:
        """A line that stays, above the live display."""
        self._write(text)

    def phase(self, name: str) -> None:
        """What the run waits for now (shown on a TTY with the seconds since)."""
        self._phase, self._phase_since = name, self._clock()

    def step(self, row: Mapping[str, Any]) -> None:
        """News of the run: a row of metrics. Evaluation rows may come apart from training rows."""
        self._row.update(row)
        done = row.get("train/step")
        if done is None:
            if "evaluation/step" in row and not self.is_live:
                self._write(evaluation_line(row))
            return
        self._done = int(done)
        if self._first_news is None:
            self._first_news = self._clock(), self._done
        if self._live is not None:
            return
        line = self.line()
        now = self._clock()
        if now - self._last_line_at >= self._plain_every_s or self._done >= self._total:
            self._write(line)
            self._pending, self._last_line_at = None, now
        else:
            self._pending = line

    def stop(self) -> None:
        """Ends the display; the last step's line stays. Safe to call twice and without `start`."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            if self._done > self._first:
                self._pending = self.line()
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def eta_s(self) -> float | None:
        """Seconds to the last step at the pace since this process's first step, or None before its second.

        The start and the evaluation of the base model come once; counting them made the first minutes say "two hours".
        """
        if self._first_news is None or self._done == self._first_news[1]:
            return None
        then, done = self._first_news
        return (self._clock() - then) / (self._done - done) * (self._total - self._done)

    def line(self) -> str:
        """The newest state as one line of plain ASCII."""
        parts = [f"step {self._done}/{self._total}", *(f"{name} {text}" for name, text in self._figures())]
        eta = self.eta_s()
        if eta is not None:
            parts.append(f"ETA {duration(eta)}")
        return " | ".join(parts)

    def render(self) -> RenderableType:
        """The live display: a bar, the figures, and what the run is doing."""
        bar = Table.grid(padding=(0, 2))
        eta = self.eta_s()
        bar.add_row(
            Text(f"step {self._done}/{self._total}", style="bold"),
            ProgressBar(total=max(self._total, 1), completed=self._done, width=32),
            f"ETA {duration(eta)}" if eta is not None else "ETA -",
        )
        figures = Table.grid(padding=(0, 1))
        for name, text in self._figures():
            figures.add_row(Text(name, style="dim"), text)
        waited = duration(self._clock() - self._phase_since)
        return Group(bar, figures, Text(f"{self._phase} ({waited})", style="italic"))

    def _figures(self) -> list[tuple[str, str]]:
        row, figures = self._row, []
        if "reward/mean" in row:
            figures.append(("reward", f"{row['reward/mean']:.3f}"))
        for prefix, name in (("pass_at_k/", "train"), ("eval/pass@", "eval")):
            ks = sorted(int(m.group(2)) for m in map(_PASS.fullmatch, row) if m and m.group(1) == prefix)
            if ks:
                shown = dict.fromkeys((ks[0], ks[-1]))
                figures.append((name, " ".join(f"pass@{k} {row[f'{prefix}{k}']:.3f}" for k in shown)))
        keys = ((side, f"throughput/{side}_tokens_per_s") for side in ("sampled", "trained"))
        rates = [f"{side} {row[key]:,.0f}" for side, key in keys if key in row]
        if rates:
            figures.append(("tokens/s", " ".join(rates)))
        shares = [
            f"{label} {row[key]:.0%}"
            for label, key in (
                ("sampling", "time/sampling_share"),
                ("learning", "time/learning_share"),
                ("sync", "time/sync_share"),
                ("waiting", "time/other_share"),
            )
            if key in row
        ]
        if shares:
            figures.append(("time", " ".join(shares)))
        return figures

    def _write(self, text: str) -> None:
        # No markup (a prompt may hold brackets) and no wrapping: one event, one line, in any width.
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()


def evaluation_line(row: Mapping[str, Any]) -> str:
    """One line for an evaluation row: pass@k with 95% intervals."""
    points = []
    for k in sorted(int(m.group(2)) for m in map(_PASS.fullmatch, row) if m and m.group(1) == "eval/pass@"):
        point = f"pass@{k} {row[f'eval/pass@{k}']:.3f}"
        low, high = row.get(f"eval/pass@{k}_low"), row.get(f"eval/pass@{k}_high")
        points.append(point if low is None or high is None else f"{point} [{low:.3f}, {high:.3f}]")
    return f"evaluation after step {int(row['evaluation/step'])}: " + ", ".join(points or ["no pass@k"])


def pass_at_k_table(base: Sequence[CurvePoint], final: Sequence[CurvePoint], title: str = "pass@k") -> Table:
    """Base and final pass@k side by side with 95% intervals. Without a base only the final curve is shown.

    The last column says whether the intervals are apart: `above`, `below` or `overlap`.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("k", justify="right")
    if base:
        table.add_column("base [95% interval]")
    table.add_column("final [95% interval]" if base else "value [95% interval]")
    if base:
        table.add_column("change", justify="right")
        table.add_column("intervals")
    before = {point.k: point for point in base}
    for point in final:
        if not base:
            table.add_row(str(point.k), _cell(point))
        elif (old := before.get(point.k)) is not None:
            change = f"{point.value - old.value:+.3f}"
            table.add_row(str(point.k), _cell(old), _cell(point), change, _compare(old, point))
        else:
            table.add_row(str(point.k), "-", _cell(point), "-", "-")
    return table


def print_pass_at_k(
    base: Sequence[CurvePoint],
    final: Sequence[CurvePoint],
    *,
    title: str = "pass@k on held-out prompts",
    console: Console | None = None,
) -> None:
    """Prints `pass_at_k_table` at the end of a run."""
    console = console or Console()
    console.print(pass_at_k_table(base, final, title))
    console.file.flush()


def _cell(point: CurvePoint) -> Text:
    return Text(f"{point.value:.3f} [{point.low:.3f}, {point.high:.3f}]")


def _compare(old: CurvePoint, new: CurvePoint) -> str:
    if new.low > old.high:
        return "above"
    return "below" if new.high < old.low else "overlap"


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`."""
    whole = int(max(seconds, 0.0))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
