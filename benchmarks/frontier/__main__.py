"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.frontier
from benchmarks.frontier.counts import Store
from benchmarks.frontier.page import hours_left, write_page
from benchmarks.frontier.plan import Plan, load
from benchmarks.frontier.power import power_table
from benchmarks.frontier.stages import Stages
from benchmarks.planned.plan import require_committed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontier",
        description=benchmarks.frontier.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["hours", "run", "report", "power", "temperatures"])
    parser.add_argument("--plan", type=Path, default=Path("benchmarks/frontier/countdown.yaml"))
    parser.add_argument("--evidence", type=Path, default=Path("docs/evidence/frontier"), help="page and counts")
    parser.add_argument("--scratch", type=Path, default=Path("runs/frontier"), help="run: for runs and models")
    parser.add_argument("--validation-only", action="store_true", help="run: stop before the test split is used")
    parser.add_argument("--only", nargs="*", metavar="CONTENDER:RATE:SEED", help="run: only these training runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="run: overrides of every run")
    parser.add_argument("--also", nargs="*", type=float, default=[], metavar="T", help="temperatures: those to measure")
    parser.add_argument("--base-on-test", action="store_true", help="temperatures: of the base model on the test split")
    options = parser.parse_args()
    if (options.command == "temperatures") != bool(options.also):
        parser.error("`temperatures` needs --also T ..., and no other command takes it")
    if options.base_on_test and options.command != "temperatures":
        parser.error("--base-on-test belongs to `temperatures`")
    plan = load(options.plan)
    store = Store(options.evidence / "counts.parquet", plan.digest)
    if options.command == "hours":
        print(hours_left(store, plan))
    elif options.command == "report":
        write_page(options.evidence, store, plan, options.plan)
    elif options.command == "power":
        print(power_table(store, plan))
    else:
        stages = Stages(plan, store, options.scratch.resolve(), extra=tuple(options.set))
        try:
            only = [_training_run(plan, one) for one in options.only or ()]
            stages.check()
        except ValueError as error:
            parser.error(f"{options.plan}: {error}")
        if only:
            stages.train(only)
            return
        if options.command == "temperatures":
            measure = stages.base_on_test if options.base_on_test else stages.other_temperatures
            measure(tuple(options.also))
            write_page(options.evidence, store, plan, options.plan)
            return
        stages.train()
        stages.tune()
        if not options.validation_only:
            require_committed(options.plan.resolve())
            stages.test()
        write_page(options.evidence, store, plan, options.plan)


def _training_run(plan: Plan, text: str) -> tuple[str, float, int]:
    """The training run CONTENDER:RATE:SEED; ValueError if the plan has no such run."""
    contender, *numbers = text.split(":")
    try:
        rate, seed = map(float, numbers)
    except ValueError:
        rate = seed = float("nan")  # equal to no run
    for run in plan.runs:
        if run == (contender, rate, seed):
            return run
    every_rate = sorted({rate for _, rate, _ in plan.runs})
    names, rates, seeds = (", ".join(map(str, one)) for one in (plan.contenders, every_rate, plan.seeds))
    raise ValueError(f"--only {text}: give CONTENDER:RATE:SEED; contenders: {names}; rates: {rates}; seeds: {seeds}")


if __name__ == "__main__":
    main()
