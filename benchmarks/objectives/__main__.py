"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.objectives
from benchmarks.objectives.experiments import EXPERIMENTS, GRIDS
from benchmarks.objectives.grid import Runner
from benchmarks.objectives.page import write_page
from benchmarks.objectives.results import Results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives",
        description=benchmarks.objectives.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--evidence", type=Path, default=Path("docs/evidence"), help="folder of pages and figures")
    parser.add_argument("--scratch", type=Path, default=Path("runs/objectives"), help="run: for run directories")
    parser.add_argument("--keep", action="store_true", help="run: keep the run directories (gigabytes)")
    parser.add_argument("--jobs", type=int, default=2, help="run: simultaneous runs, one core each")
    parser.add_argument("--only", nargs="*", help="these contenders")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.experiment]
    names = options.only or list(experiment.names)
    if unknown := set(names) - set(experiment.names):
        parser.error(f"--only {' '.join(unknown)}: choose from {', '.join(experiment.names)}")
    results = Results(options.evidence / experiment.grid / "runs.parquet")
    if options.command == "run":
        scratch = options.scratch.resolve() / experiment.grid
        Runner(GRIDS[experiment.grid], experiment.strategy, results, scratch, options.keep).run(names, options.jobs)
    else:
        write_page(options.evidence / options.experiment, options.experiment, results, names)


if __name__ == "__main__":
    main()
