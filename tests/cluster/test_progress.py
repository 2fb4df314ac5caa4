"""Pins the terminal display: live on a TTY, plain throttled lines without, and the closing pass@k table."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from cluster.progress import Progress, duration, print_pass_at_k


@dataclass(frozen=True)
class Point:
    k: int
    value: float
    low: float
    high: float


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def row(step: int) -> dict[str, float]:
    return {
        "train/step": step,
        "reward/mean": 0.25,
        "pass_at_k/1": 0.25,
        "pass_at_k/4": 0.5,
        "pass_at_k/16": 0.75,
        "throughput/sampled_tokens_per_s": 6543.2,
        "throughput/trained_tokens_per_s": 9000.0,
        "time/sampling_share": 0.6,
        "time/learning_share": 0.3,
        "time/sync_share": 0.04,
        "time/other_share": 0.06,
    }


EVALUATION = {
    "evaluation/step": 3,
    "eval/pass@1": 0.3,
    "eval/pass@1_low": 0.25,
    "eval/pass@1_high": 0.35,
    "eval/pass@16": 0.9,
}


def plain() -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    return Progress(Console(file=file, force_terminal=False, width=80), clock=clock), file, clock


def test_plain_lines_are_throttled_complete_and_end_with_the_last_step() -> None:
    progress, file, clock = plain()
    progress.start(total=10)
    for step in range(1, 9):
        clock.now += 0.5
        progress.step(row(step))
    lines = file.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 1/10", "step 5/10"]
    assert lines[0] == (
        "step 1/10 | reward 0.250 | train pass@1 0.250 pass@16 0.750 | tokens/s sampled 6,543 trained 9,000"
        " | time sampling 60% learning 30% sync 4% waiting 6%"
    )
    progress.stop()
    progress.stop()
    assert file.getvalue().splitlines()[-1].startswith("step 8/10")
    assert len(file.getvalue().splitlines()) == 3
    assert "\x1b" not in file.getvalue() and file.getvalue().isascii()


def test_plain_last_step_shows_at_once() -> None:
    progress, file, _ = plain()
    progress.start(total=2)
    progress.step(row(1))
    progress.step(row(2))
    assert "step 2/2" in file.getvalue()
    progress.stop()
    assert file.getvalue().count("step 2/2") == 1


def test_plain_messages_and_evaluations_stay_whole() -> None:
    progress, file, _ = plain()
    progress.start(total=10, first_step=4)
    progress.message("wandb is [offline]: " + "x" * 100)
    progress.step(EVALUATION)
    progress.phase("waiting for the sampler")
    progress.stop()
    assert file.getvalue().splitlines() == [
        "resuming after step 4 of 10",
        "wandb is [offline]: " + "x" * 100,
        "evaluation after step 3: pass@1 0.300 [0.250, 0.350], pass@16 0.900",
    ]


def test_every_plain_line_is_flushed() -> None:
    class Flushing(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    file = Flushing()
    progress = Progress(Console(file=file, force_terminal=False))
    progress.start(3)
    progress.step(row(1))
    assert file.flushed == len(file.getvalue()) > 0


def test_eta_counts_only_the_steps_of_this_process() -> None:
    progress, _, clock = plain()
    assert progress.eta_s() is None
    progress.start(total=110, first_step=100)
    clock.now += 500  # starting, and evaluating the base model
    progress.step(row(101))
    assert progress.eta_s() is None, "one step has no pace yet"
    clock.now += 10
    progress.step(row(102))
    assert progress.eta_s() == pytest.approx(80)


def test_live_display_shows_figures_phase_and_keeps_messages() -> None:
    file, clock = io.StringIO(), Clock()
    terminal = Console(file=file, force_terminal=True, force_interactive=True, width=100)
    progress = Progress(terminal, clock=clock)
    with progress:
        progress.start(total=10)
        progress.step(row(1))
        clock.now += 6
        progress.step(row(3))
        progress.step(EVALUATION)
        progress.phase("sampling 16 prompts")
        clock.now += 65
        progress.message("a message that stays")
        screen = Console(width=100, file=io.StringIO())
        screen.print(progress.render())
        text = screen.file.getvalue()  # type: ignore[attr-defined]
        for part in (
            "step 3/10",
            "ETA 4m",
            "pass@16 0.750",
            "pass@16 0.900",
            "sampled 6,543",
            "learning 30%",
            "sampling 16 prompts (1m05s)",
        ):
            assert part in text
    assert "a message that stays" in file.getvalue()
    assert "\x1b[" in file.getvalue(), "a terminal gets control codes"
    assert "step 3/10 | reward 0.250" in file.getvalue().splitlines()[-1], "the last state stays"


def test_an_empty_run_shows_nothing_wrong() -> None:
    progress, file, _ = plain()
    progress.stop()
    progress.start(total=0)
    progress.step({"train/step": 0})
    progress.stop()
    assert file.getvalue() == "step 0/0\n"
    Console(file=io.StringIO()).print(progress.render())


def test_table_says_whether_the_intervals_are_apart() -> None:
    base = [Point(1, 0.30, 0.25, 0.35), Point(8, 0.60, 0.55, 0.65), Point(16, 0.80, 0.75, 0.85)]
    final = [Point(1, 0.20, 0.15, 0.24), Point(8, 0.66, 0.61, 0.71), Point(16, 0.93, 0.90, 0.96)]
    final.append(Point(32, 1, 1, 1))
    file = io.StringIO()
    print_pass_at_k(base, final, console=Console(file=file, width=100))
    rows = [line for line in file.getvalue().splitlines() if "0." in line]
    assert "0.300 [0.250, 0.350]" in rows[0] and "-0.100" in rows[0] and "below" in rows[0]
    assert "+0.060" in rows[1] and "overlap" in rows[1]
    assert "0.930 [0.900, 0.960]" in rows[2] and "above" in rows[2]
    alone = io.StringIO()
    print_pass_at_k([], final, console=Console(file=alone, width=100))
    assert "base" not in alone.getvalue() and "1.000 [1.000, 1.000]" in alone.getvalue()


def test_duration() -> None:
    assert [duration(s) for s in (-1, 45.9, 200, 7500)] == ["0s", "45s", "3m20s", "2h05m"]
