"""How well sampling hides behind learning: overlap efficiency by staleness, each half on a core of its own.

    python -m benchmarks.overlap --directory DIRECTORY [--staleness 0 1 2 4] [--steps 40] [section.key=value ...]

Two cores let sampler and learner fight for both, so they are kept apart (a run on GPUs has them apart anyway): the
learner has the second core for itself; the sampler with its engine core, and the little that all others need (driver,
queue, verifier, Ray), have the first. With the workload balanced, so that both cores have about as much to do, perfect
overlap halves the step. Prints, for each staleness, from the steps after a warm-up:

    step           wall time of a step
    sampling busy  share of the step in which the engine used its core (processor time, so waiting does not count)
    learning busy  the same of the learner
    efficiency     max(sampling busy, learning busy): 1 when the busier half never waits
    logged         time/overlap_efficiency as the run logs it: there a half is busy while it has work, waiting included
    stale          largest staleness of a group, and the bound

Idle shares are 1 minus the busy ones. Change the balance with rollout.n, rollout.prompts_per_step or learner.* keys.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.records.run_directory import read_metrics

SAMPLING = r"^ray::SamplerActor|VLLM::EngineCore"
LEARNING = r"^ray::LearnerRank"
BALANCED = (
    "rollout.prompts_per_step=16",
    "rollout.n=32",
    "objective.k=8",
    "learner.threads=1",
    "sampler.threads=1",
    "loss.skip_zero_advantage=false",  # every step the same work
    "evaluation.at_start=false",
    "evaluation.at_end=false",
    "evaluation.every=0",
    "checkpoint.every=0",
    "wandb.mode=disabled",
)


@dataclass(frozen=True)
class Overlap:
    """One run's figures; shares of wall time."""

    staleness: int
    step_s: float
    sampling_busy: float
    learning_busy: float
    logged: float
    observed: int  # largest staleness of a group
    bound: int

    @property
    def efficiency(self) -> float:
        return max(self.sampling_busy, self.learning_busy)


def processes(root: psutil.Process, pattern: str) -> list[psutil.Process]:
    """Those below `root` whose title matches."""
    found = []
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if re.search(pattern, " ".join(process.cmdline())):
                found.append(process)
    return found


def pin(victims: Sequence[psutil.Process], core: int) -> None:
    """Every thread of the processes to one core."""
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {core})


def processor_seconds(some: Sequence[psutil.Process]) -> float:
    """User and system time of the processes so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in some))


def measure(staleness: int, steps: int, warm_up: int, directory: Path, overrides: Sequence[str]) -> Overlap:
    """Run `steps` steps and read the clocks between the end of the warm-up and the last step but one."""
    run = directory / f"staleness-{staleness}"
    command = [
        *(
            sys.executable,
            "-m",
            "cluster.cli",
            "train",
            "--config",
            "cluster/presets/local.yaml",
            *BALANCED,
            *overrides,
        ),
        *(f"queue.staleness={staleness}", f"run.steps={steps}", f"run.directory={directory}", f"run.name={run.name}"),
    ]
    with (directory / f"{run.name}.log").open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    root = psutil.Process(process.pid)

    def wait_for(step: int) -> float:
        while True:
            rows = [row for row in read_metrics(run) if "train/step" in row] if run.exists() else []
            if rows and rows[-1]["train/step"] >= step:
                return time.monotonic()
            if process.poll() is not None:
                raise RuntimeError(f"the run ended early: see {directory / run.name}.log")
            time.sleep(0.02)

    try:
        wait_for(1)  # a thread that starts later is pinned like the one that starts it
        sampling, learning = processes(root, SAMPLING), processes(root, LEARNING)
        first, second, *_ = sorted(os.sched_getaffinity(0))
        pin([root, *root.children(recursive=True)], first)
        pin(learning, second)
        begin = wait_for(warm_up)
        before = processor_seconds(sampling), processor_seconds(learning)
        end = wait_for(steps - 1)
        after = processor_seconds(sampling), processor_seconds(learning)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait(timeout=30)
    wall = end - begin
    rows = [row for row in read_metrics(run) if warm_up < row.get("train/step", 0) < steps]
    return Overlap(
        staleness,
        wall / (steps - 1 - warm_up),
        (after[0] - before[0]) / wall,
        (after[1] - before[1]) / wall,
        statistics.median(row["time/overlap_efficiency"] for row in rows),
        int(max(row["queue/staleness_max"] for row in read_metrics(run) if "train/step" in row)),
        int(rows[0]["queue/staleness_bound"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed, one for each half")
    found = [
        measure(staleness, options.steps, options.warm_up, options.directory, options.overrides)
        for staleness in options.staleness
    ]
    print("| staleness | step (s) | of the first | sampling busy | learning busy | efficiency | logged | stale |")
    print("|---|---|---|---|---|---|---|---|")
    for o in found:
        print(
            f"| {o.staleness} | {o.step_s:.2f} | {o.step_s / found[0].step_s:.2f} | {o.sampling_busy:.2f} | "
            f"{o.learning_busy:.2f} | {o.efficiency:.2f} | {o.logged:.2f} | {o.observed} of {o.bound} |"
        )
    (options.directory / "overlap.json").write_text(json.dumps([asdict(o) for o in found], indent=1))


if __name__ == "__main__":
    main()
