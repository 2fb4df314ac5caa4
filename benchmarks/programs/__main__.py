"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.programs
from benchmarks.planned.plan import require_committed
from benchmarks.programs.counts import Store
from benchmarks.programs.page import write_page
from benchmarks.programs.plan import PLAN, load
from benchmarks.programs.stages import Stages


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.programs",
        description=benchmarks.programs.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--data", type=Path, help="run: directory of the problem files")
    parser.add_argument("--evidence", type=Path, default=Path("docs/evidence/programs"), help="page and counts")
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/programs"), help="run: for the model and evaluations"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="run: keys of this machine")
    options = parser.parse_args()
    plan = load()
    store = Store(options.evidence / "counts.parquet", plan.digest)
    if options.command == "run":
        if options.data is None:
            parser.error(
                "run needs --data DIR, the directory with mbpp.jsonl, mbpp_sanitized.jsonl and humaneval.jsonl"
            )
        stages = Stages(plan, store, options.data.resolve(), options.scratch.resolve(), extra=tuple(options.set))
        try:
            stages.check()
        except ValueError as error:
            parser.error(str(error))
        require_committed(PLAN)
        stages.run()
    write_page(options.evidence, store, plan)


if __name__ == "__main__":
    main()
