"""A long run on a tiny configuration: does anything grow?

    python -m benchmarks.soak --directory DIRECTORY [--steps 2000]

Runs `bonrl train` for many short steps at staleness 1 and looks at every process of it every few seconds: private
memory (resident pages that are its own), all resident memory (with pages that it shares, such as those of Ray's object
store, which everybody who read them seems to hold), descriptors and threads; and at the job: processes, zombies, and
bytes in use in shared memory, where Ray's object store lies. The growth of each is the Theil-Sen slope (the median of
the slopes between all pairs of readings) over the second half of the run, per 100 steps; for memory the aim is 1 MB.
The first half is the warm-up: allocators and caches of bounded size fill. Resident memory is reported, not judged: its
shared part is judged once, as bytes in use in shared memory. A zombie that is still there at the next reading has
nobody who reaps it, and is a fault however few there are.
Prints a table, writes soak.json and soak.png into the directory, and exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

from benchmarks.metrics_tail import last_step

MIB_AIM = 1.0  # MB per 100 steps
COUNT_AIM = 0.5  # descriptors, threads, processes per 100 steps
FITTED = 100  # samples of the second half of the steps, to which a line is fitted
ROLES = {
    "sampler": r"^ray::SamplerActor",
    "engine core": r"VLLM::EngineCore",
    "verifier": r"^ray::VerifierWorker",
    "replay queue": r"^ray::ReplayQueue",
    "learner": r"^ray::LearnerRank",
    "node monitor": r"^ray::NodeMonitor",
    "raylet": r"raylet/raylet",
    "gcs": r"gcs_server",
}
TINY = (
    "rollout.prompts_per_step=2",
    "rollout.n=4",
    "objective.k=2",
    "queue.staleness=1",
    "evaluation.at_start=false",
    "evaluation.at_end=false",
    "evaluation.every=0",
    "checkpoint.every=200",
    "wandb.mode=disabled",
)


Readings = dict[str, dict[str, float]]  # figures by process; "job" holds what belongs to all of them


@dataclass(frozen=True)
class Sample:
    """One look at a run: after which step, the readings, and the zombies by process id."""

    step: int
    readings: Readings
    zombies: dict[int, str] = field(default_factory=dict)


def slope_per_100(steps: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen slope of `values` over `steps`, per 100 steps; 0 with fewer than two different steps."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] > x[i]
    return float(100 * np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0


def take_sample(root: psutil.Process, step: int) -> Sample:
    """Readings of every process that has a role below `root`, after `step` steps."""
    readings: Readings = {}
    everyone = [root, *root.children(recursive=True)]
    zombies: dict[int, str] = {}
    for process in everyone:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            if process.status() == psutil.STATUS_ZOMBIE:
                zombies[process.pid] = process.name()
                continue
            title = " ".join(process.cmdline())
            role = "driver" if process == root else next((r for r, p in ROLES.items() if re.search(p, title)), None)
            if role:
                readings[f"{role} ({process.pid})"] = {
                    "private_mb": _private_bytes(process.pid) / 1e6,
                    "resident_mb": process.memory_info().rss / 1e6,
                    "descriptors": process.num_fds(),
                    "threads": process.num_threads(),
                }
    readings["job"] = {"processes": len(everyone), "object_store_mb": _object_store() / 1e6}
    return Sample(step, readings, zombies)


def _private_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", text, re.MULTILINE))


def _object_store() -> int:
    """Bytes in use in the shared memory file system, where Ray's store and weight buckets lie."""
    return psutil.disk_usage("/dev/shm").used


def evenly(samples: Sequence[Sample]) -> list[Sample]:
    """About FITTED readings of the second half of the steps, evenly spaced in steps.

    Readings come by the clock: where other work slows the run down they crowd, and what grows by the second would
    count as growth by the step.
    """
    last = samples[-1].step if samples else 0
    chosen: list[Sample] = []
    for sample in samples:
        if sample.step >= last / 2 and (not chosen or sample.step - chosen[-1].step >= last / 2 / FITTED):
            chosen.append(sample)
    return chosen


def growth(samples: Sequence[Sample]) -> Readings:
    """Slope per 100 steps of every figure of every process that lived through most of the second half of the run."""
    steady = evenly(samples)
    series: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for sample in steady:
        for who, figures in sample.readings.items():
            for name, value in figures.items():
                series[who, name].append((sample.step, value))
    slopes: Readings = defaultdict(dict)
    for (who, name), points in series.items():
        if len(points) > len(steady) // 2:
            slopes[who][name] = slope_per_100(*zip(*points, strict=True))
    return dict(slopes)


def unreaped(samples: Sequence[Sample]) -> list[str]:
    """Zombies that two readings in a row have seen."""
    found = {}
    for before, after in pairwise(samples):
        for pid in before.zombies.keys() & after.zombies.keys():
            found[pid] = f"{after.zombies[pid]} ({pid}) is a zombie at two readings in a row, after step {after.step}"
    return list(found.values())


def problems(slopes: Readings) -> list[str]:
    """What grows beyond its aim."""
    found = []
    for who, figures in slopes.items():
        for name, slope in figures.items():
            if name == "resident_mb":
                continue
            aim = MIB_AIM if name.endswith("_mb") else COUNT_AIM
            if slope > aim:
                found.append(f"{who}: {name} grows by {slope:.2f} per 100 steps (aim {aim:g})")
    return found


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Private memory of every process over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for who in sorted({who for sample in samples for who in sample.readings if who != "job"}):
        points = [(s.step, s.readings[who]["private_mb"]) for s in samples if who in s.readings]
        axes.plot(*zip(*points, strict=True), label=who.rpartition(" (")[0])
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("private memory (MB)")
    axes.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def watch(command: Sequence[str], run: Path, log: Path, every_s: float) -> tuple[int, list[Sample]]:
    """Start the run and look at its processes until it ends: exit status, what was seen."""
    samples: list[Sample] = []
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            if step := last_step(run):
                with contextlib.suppress(psutil.NoSuchProcess):
                    samples.append(take_sample(root, step))
            time.sleep(every_s)
    return process.returncode, samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two readings")
    parser.add_argument("overrides", nargs="*", help="of the configuration, for example rollout.n=8")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    overrides = [*TINY, f"run.steps={options.steps}", f"run.directory={options.directory}", "run.name=run"]
    command = [
        *(sys.executable, "-m", "cluster.cli", "train", "--config", "cluster/presets/local.yaml"),
        *overrides,
        *options.overrides,
    ]
    started = time.monotonic()
    status, samples = watch(command, options.directory / "run", options.directory / "output.log", options.every)
    slopes = growth(samples)
    found = problems(slopes) + unreaped(samples)
    if status:
        found.append(f"the run ended with status {status}: see {options.directory / 'output.log'}")
    print(table(samples, slopes))
    print(f"job: {json.dumps({k: round(v, 3) for k, v in slopes.get('job', {}).items()})} per 100 steps")
    zombies = max((len(sample.zombies) for sample in samples), default=0)
    print(f"{options.steps} steps in {time.monotonic() - started:.0f} s; most zombies at once: {zombies}")
    print("wrong: " + ("; ".join(found) if found else "nothing"))
    kept = {"slopes": slopes, "wrong": found, "samples": [asdict(sample) for sample in samples]}
    (options.directory / "soak.json").write_text(json.dumps(kept))
    if samples:
        plot(samples, options.directory / "soak.png")
    return 1 if found else 0


def table(samples: Sequence[Sample], slopes: Readings) -> str:
    """Growth of every process, with its memory at the last reading."""
    lines = [
        "| process | private memory (MB per 100 steps) | resident (MB per 100 steps) | resident at last (MB) "
        "| descriptors | threads |",
        "|---|---|---|---|---|---|",
    ]
    last = {who: figures["resident_mb"] for s in samples for who, figures in s.readings.items() if who != "job"}
    for who, figures in sorted(slopes.items()):
        if who != "job":
            lines.append(
                f"| {who} | {figures['private_mb']:+.3f} | {figures['resident_mb']:+.3f} | {last[who]:.0f} | "
                f"{figures['descriptors']:+.2f} | {figures['threads']:+.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
