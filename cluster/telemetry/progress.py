"""What a run shows on the terminal: a live display on a TTY, plain lines without one (a file, a job's log).

The display is an observer: it reads rows of metrics and changes nothing in the run. It begins when the
actors are up: while they start, Ray and vLLM write to the terminal themselves, and each of their lines would leave a
copy of the display behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.telemetry.console import make_console


class Progress:
    """Progress of one run. `start`, `begin`, then `step` / `phase` / `message` in any order, then `stop`.

    Args:
        objective: what the objective is called at an optimizer step (the first is 1), as in `pass@8`.
        console: where to write; stdout by default. Live display only if it is an interactive terminal.
        plain_every_s: without a TTY at most one line in this many seconds; first and last step always show.
        clock: seconds, monotonic (tests put their own).
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        objective: Callable[[int], str] = lambda step: "objective",
        plain_every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or make_console()
        self._objective = objective
        self._plain_every_s = plain_every_s
        self._clock = clock
        self._live: Live | None = None
        self._total = self._done = self._first = 0
        self._row: dict[str, Any] = {}
        self._evaluation = ""
        self._pending: str | None = None
        self._last_line_at = -float("inf")
        self._phase, self._phase_since = "starting", clock()
        self._first_news: tuple[float, int] | None = None  # time and number of the first finished step

    @property
    def is_live(self) -> bool:
        return self._console.is_interactive

    def start(self, total: int, first_step: int = 0) -> None:
        """The run has `total` optimizer steps in all, of which `first_step` were done before (resume)."""
        self._total, self._first, self._done = total, first_step, first_step
        self._first_news = None
        self.phase("starting")
        if first_step:
            self._write(f"resuming after step {first_step} of {total}")

    def begin(self) -> None:
        """The actors are up: on a terminal the live display appears."""
        self._training()
        if self.is_live and self._live is None:
            self._live = Live(console=self._console, get_renderable=self.render, transient=True)
            self._live.start()

    def message(self, text: str) -> None:
        """A line that stays, above the live display."""
        self._write(text)

    def phase(self, name: str) -> None:
        """What the run waits for now (shown on a TTY with the seconds since)."""
        self._phase, self._phase_since = name, self._clock()

    def _training(self) -> None:
        self.phase(f"training step {self._done + 1}" if self._done < self._total else "finishing")

    def evaluated(self, step: int, text: str) -> None:
        """What the weights of `step` reach on held-out prompts, as in `pass@8 0.578`; empty: nothing to show."""
        if text:
            self._evaluation = f"{text} (step {step})"
        self._training()

    def step(self, row: Mapping[str, Any]) -> None:
        """One optimizer step is done: its row of metrics."""
        self._row = dict(row)
        self._done = int(row["train/step"])
        self._training()
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
        if eta is not None and self._done < self._total:
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
        if "objective/value" in row:
            figures.append((f"train {self._objective(self._done)}", f"{row['objective/value']:.3f}"))
        if self._evaluation:
            figures.append(("held-out", self._evaluation))
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
                ("other", "time/other_share"),
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


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`."""
    whole = int(max(seconds, 0.0))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
