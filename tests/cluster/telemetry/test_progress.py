"""Pins the terminal display: live on a TTY, and plain throttled lines without."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.telemetry.console import make_console
from cluster.telemetry.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def row(step: int) -> dict[str, float]:
    return {
        "train/step": step,
        "reward/mean": 0.25,
        "objective/value": 0.5,
        "throughput/sampled_tokens_per_s": 6543.2,
        "throughput/trained_tokens_per_s": 9000.0,
        "time/sampling_share": 0.6,
        "time/learning_share": 0.3,
        "time/sync_share": 0.04,
        "time/other_share": 0.06,
    }


def plain() -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=False, width=80)
    return Progress(console, objective=lambda step: "pass@8", clock=clock), file, clock


def test_plain_lines_are_throttled_complete_and_end_with_the_last_step() -> None:
    progress, file, clock = plain()
    progress.start(total=10)
    for step in range(1, 9):
        clock.now += 0.5
        progress.step(row(step))
    lines = file.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 1/10", "step 5/10"]
    assert lines[0] == (
        "step 1/10 | reward 0.250 | train pass@8 0.500 | tokens/s sampled 6,543 trained 9,000"
        " | time sampling 60% learning 30% sync 4% other 6%"
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
    progress.begin()
    progress.phase("waiting for the sampler")
    progress.evaluated(4, "pass@8 0.578")
    progress.step(row(5))
    progress.stop()
    assert file.getvalue().splitlines()[:2] == ["resuming after step 4 of 10", "wandb is [offline]: " + "x" * 100]
    assert "| train pass@8 0.500 | held-out pass@8 0.578 (step 4) |" in file.getvalue().splitlines()[2]


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
    progress = Progress(terminal, objective=lambda step: f"pass@{step}", clock=clock)
    with progress:
        progress.start(total=10)
        progress.begin()
        progress.step(row(1))
        clock.now += 6
        progress.step(row(3))
        assert "training step 4 (0s)" in screen_of(progress), "not what was done before"
        progress.evaluated(3, "pass@8 0.900")
        progress.phase("sampling 16 prompts")
        clock.now += 65
        progress.message("a message that stays")
        text = screen_of(progress)
        for part in (
            "step 3/10",
            "ETA 4m",
            "train pass@3 0.500",
            "pass@8 0.900 (step 3)",
            "sampled 6,543",
            "learning 30%",
            "sampling 16 prompts (1m05s)",
        ):
            assert part in text
    assert "a message that stays" in file.getvalue()
    assert "\x1b[" in file.getvalue(), "a terminal gets control codes"
    assert "step 3/10 | reward 0.250" in file.getvalue().splitlines()[-1], "the last state stays"


def test_the_live_display_waits_for_the_actors() -> None:
    """What Ray and vLLM print while they start would leave a stale copy of the display (`step 0`) behind."""
    file = io.StringIO()
    progress = Progress(Console(file=file, force_terminal=True, force_interactive=True, width=100))
    progress.start(total=10)
    progress.message("starting samplers")
    assert "step 0/10" not in file.getvalue()
    progress.begin()
    progress.message("evaluating")
    assert "step 0/10" in file.getvalue()
    progress.stop()


def screen_of(progress: Progress) -> str:
    screen = Console(width=100, file=io.StringIO())
    screen.print(progress.render())
    return screen.file.getvalue()  # type: ignore[attr-defined]


def test_an_empty_run_shows_nothing_wrong() -> None:
    progress, file, _ = plain()
    progress.stop()
    progress.start(total=0)
    progress.step({"train/step": 0})
    progress.stop()
    assert file.getvalue() == "step 0/0\n"
    Console(file=io.StringIO()).print(progress.render())


def test_duration() -> None:
    assert [duration(s) for s in (-1, 45.9, 200, 7500)] == ["0s", "45s", "3m20s", "2h05m"]


def test_a_pipe_is_no_terminal_where_colors_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebooks and CI services do
    assert not Progress().is_live and not make_console(stderr=True).is_terminal


def test_after_the_last_step_no_further_step_is_named() -> None:
    progress = Progress(Console(file=io.StringIO(), width=100))
    progress.start(2)
    progress.begin()
    assert "training step 1 (0s)" in screen_of(progress)
    progress.step({"train/step": 2})
    assert "finishing (0s)" in screen_of(progress)
