"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.refresh
from benchmarks.planned.plan import require_committed
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.page import hours_left, write_page
from benchmarks.refresh.plan import load
from benchmarks.refresh.results import Courses, Evaluations
from benchmarks.refresh.stages import Stages


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refresh",
        description=benchmarks.refresh.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["hours", "run", "report"])
    parser.add_argument("--plan", type=Path, default=Path("benchmarks/refresh/countdown.yaml"))
    parser.add_argument("--evidence", type=Path, default=Path("docs/evidence/refresh"), help="page and measurements")
    parser.add_argument("--scratch", type=Path, default=Path("runs/refresh"), help="run: for runs and verifiers")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="run: overrides of every command")
    options = parser.parse_args()
    plan = load(options.plan)
    evaluations = Evaluations(options.evidence / "evaluations.parquet", plan.digest)
    found = Measures(plan, evaluations, Courses(options.evidence / "courses.parquet", plan.digest))
    if options.command == "hours":
        print(hours_left(found))
        return
    if options.command == "run":
        stages = Stages(found, options.scratch.resolve() / plan.digest, extra=tuple(options.set))
        try:
            stages.check()
        except ValueError as error:
            parser.error(f"{options.plan}: {error}")
        if plan.split == "test":  # refused now, because the runs serve nothing else
            require_committed(options.plan.resolve())
        stages.run()
    write_page(options.evidence, found, options.plan)


if __name__ == "__main__":
    main()
