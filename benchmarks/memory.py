"""Memory of a short run by role, next to what `--dry-run` says of the same configuration.

Starts `bonrl train` with the given configuration for a few steps and looks at /proc meanwhile: for every role the peak
of the resident set (RSS) and of the proportional set (PSS, where a page shared by k processes counts 1/k), and the peak
of the weight buckets in shared memory.

    python -m benchmarks.memory [--config FILE] [--steps 6] [--output FILE] [SECTION.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from actors.weights.bucket_files import SHARED_MEMORY
from cluster.checks.dry_run import load_model_facts
from cluster.checks.memory.estimates import derive
from cluster.config import load_config

LIMIT_SECONDS = 540.0
ROLES = {
    "ray::SamplerActor": "sampler",
    "VLLM::EngineCore": "sampler",
    "ray::LearnerRank": "learner rank",
    "ray::VerifierWorker": "verifiers",
    "ray::ReplayQueue": "driver, Ray, queue",
}


def role_of(process: psutil.Process) -> str:
    """The role of one process of the job, by its title; what has none of its own belongs to the driver."""
    title = " ".join(process.cmdline())
    return next((role for mark, role in ROLES.items() if mark in title), "driver, Ray, queue")


class Peaks(threading.Thread):
    """Looks at the processes below `root` twice a second, and at shared memory every two milliseconds."""

    def __init__(self, root: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._over = threading.Event()
        self.pss: dict[str, int] = defaultdict(int)
        self.rss: dict[str, int] = defaultdict(int)
        self.buckets = self.whole = 0

    def run(self) -> None:
        while not self._over.wait(0.5):
            self._read_memory()

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=5.0)

    def _read_memory(self) -> None:
        pss: dict[str, int] = defaultdict(int)
        rss: dict[str, int] = defaultdict(int)
        buckets: dict[int, int] = {}
        with contextlib.suppress(psutil.NoSuchProcess):  # the run is over
            for process in [self._root, *self._root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    memory, role = process.memory_full_info(), role_of(process)
                    pss[role] += memory.pss
                    rss[role] += memory.rss
                    buckets |= bucket_sizes(process.pid)
        self.whole, self.buckets = max(self.whole, sum(pss.values())), max(self.buckets, sum(buckets.values()))
        for role in pss:
            self.pss[role], self.rss[role] = max(self.pss[role], pss[role]), max(self.rss[role], rss[role])


def bucket_sizes(pid: int) -> dict[int, int]:
    """Bytes of the weight buckets that a process has open, by inode; the files have no names."""
    found = {}
    with contextlib.suppress(OSError):  # it ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith(f"{SHARED_MEMORY}/bonrl-"):
                    found[descriptor.stat().st_ino] = descriptor.stat().st_size
    return found


def measure(config: str, overrides: list[str]) -> Peaks:
    """Run the job once; its peaks."""
    command = [sys.executable, "-m", "cluster.cli", "train", "--config", config, *overrides]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        peaks = Peaks(psutil.Process(process.pid))
        peaks.start()
        try:
            status = process.wait(timeout=LIMIT_SECONDS)
        finally:
            peaks.stop()
            process.terminate()
    if status:
        raise SystemExit(f"the run ended with status {status}")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cluster/presets/local.yaml")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bonrl-memory-") as directory:
        overrides = [f"run.steps={arguments.steps}", f"run.directory={directory}", "wandb.mode=disabled"]
        overrides += ["learner.warmup_steps=0", "evaluation.at_start=false", "evaluation.at_end=false"]
        overrides += arguments.overrides
        config = load_config(arguments.config, overrides)
        peaks = measure(arguments.config, overrides)
    derived = derive(config, load_model_facts(config, must_exist=True)[0])
    mib = 2**20
    row: dict[str, Any] = {
        "measured_pss_mib": {role: round(size / mib) for role, size in sorted(peaks.pss.items())},
        "measured_rss_mib": {role: round(size / mib) for role, size in sorted(peaks.rss.items())},
        "measured_whole_mib": round(peaks.whole / mib),
        "measured_buckets_mib": round(peaks.buckets / mib, 2),
        "dry_run_mib": {
            "one sampler": round((derived.sampler_memory or 0) / mib),
            "one learner rank": round((derived.learner_memory or 0) / mib),
            "whole": round((derived.host_memory or 0) / mib),
            "buckets": round(derived.transit.shared_memory / mib, 2) if derived.transit else None,
        },
    }
    text = json.dumps(row, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
