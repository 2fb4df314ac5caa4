"""Where the wall time of an optimizer step goes, and what staleness buys: python -m benchmarks.step

Runs the main job with `queue.staleness` 0 and 1 in turn, the rest of the configuration equal, and prints medians over
all steps but the first ten of each run: step time, shares, and the ratio of the two step times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WARM_UP_STEPS = 10
FIGURES = ("time/step_s", "time/sampling_share", "time/learning_share", "time/sync_share", "time/other_share",
           "time/overlap_efficiency", "sync/seconds", "batch/padding_share", "memory/pss_gib")  # fmt: skip


def run(staleness: int, steps: int, overrides: list[str], directory: str) -> list[dict[str, float]]:
    """The step rows of one run."""
    name = f"staleness-{staleness}-{len(list(Path(directory).iterdir()))}"
    command = [
        sys.executable, "-m", "cluster.cli", "train", "--config", "cluster/presets/local.yaml", f"run.steps={steps}",
        f"run.directory={directory}", f"run.name={name}", f"queue.staleness={staleness}", "evaluation.every=0",
        "evaluation.at_start=false", "evaluation.at_end=false", "wandb.mode=disabled", *overrides,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1800)
    lines = (Path(directory) / name / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "train/step" in row]
    return rows[WARM_UP_STEPS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each run")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each staleness, in turn")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for both")
    options = parser.parse_args()
    rows: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.repeats):
            for staleness in rows:
                rows[staleness] += run(staleness, options.steps, options.overrides, directory)
    print("| figure (median over steps) | staleness 0 | staleness 1 |\n| --- | --- | --- |")
    for figure in FIGURES:
        cells = [statistics.median(row[figure] for row in rows[s]) for s in rows]
        print(f"| {figure} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    neither = statistics.median(row["time/sync_share"] + row["time/other_share"] for row in rows[0])
    step_s = {s: statistics.median(row["time/step_s"] for row in rows[s]) for s in rows}
    print(f"\nneither sampling nor learning at staleness 0: {neither:.3f} of a step")
    print(f"step time of staleness 1 / staleness 0: {step_s[1] / step_s[0]:.3f}")


if __name__ == "__main__":
    main()
