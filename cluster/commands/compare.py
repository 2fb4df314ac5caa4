"""`bonrl compare`: paired differences of runs and evaluations, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import WhichTemperature
from cluster.commands.printing import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.results.change import Change
    from cluster.results.comparison import Comparison, Moment, Value


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run directories, or directories that `bonrl eval --output` wrote; at least two."
        ),
    ],
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Also compare each run at its best evaluation. Half of the prompts choose the step at which the other "
            "half is compared, so the choice does not flatter the result.",
        ),
    ] = False,
    temperature: WhichTemperature = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE", help="Also draw curves and differences: .png, .svg, .pdf or .html."),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Also write everything as JSON; `-` prints only JSON."),
    ] = None,
) -> None:
    """Compare runs on the same held-out prompts: paired differences with 95 % intervals.

    The first run is the baseline. Runs that differ only in the seed are one group, and groups are named by the keys in
    which they differ. With one run of each, intervals are over prompts; with several seeds, over seeds.

    \b
    Examples
      bonrl compare runs/mean runs/pass8
      bonrl compare runs/mean-seed* runs/pass8-seed* --figure compare.png
      bonrl compare runs/mean runs/pass8 --best --json -
      bonrl compare base-on-test pass8-on-test      (directories of `bonrl eval --output`)
    """
    from rich.markup import escape

    from cluster.results.comparison import compare as compare_runs
    from cluster.results.figure import check_figure, write_figure
    from cluster.telemetry.console import make_console

    if figure is not None:
        check_figure(figure)
    with make_console(stderr=True).status("reading") as status:  # shown on a terminal only
        found = compare_runs(
            runs, best=best, temperature=temperature, progress=lambda line: status.update(escape(line))
        )
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if json_file != "-":
        _print(found)
    if json_file is not None:
        write_json(found.as_dict(), json_file)
    if figure is not None:
        write_figure(found, figure)
        typer.echo(f"wrote {figure}", err=json_file == "-")


def _print(comparison: Comparison) -> None:
    from cluster.telemetry.console import print_table

    for i, group in enumerate(comparison.groups):
        runs = ", ".join(run.name for run in group.runs)
        seeds = ", ".join(str(run.seed) for run in group.runs if run.seed is not None)
        facts = [f"runs {runs}"] if runs != group.label else []
        facts += [f"seeds {seeds}"] if seeds and len(group.runs) > 1 else []
        name = f"{_letter(i)}  {group.label}{' (baseline)' if i == 0 else ''}"
        typer.echo(": ".join([name, *(["; ".join(facts)] if facts else [])]))
    typer.echo("")
    for moment in comparison.moments:
        if moment.step is None:
            for i in range(1, len(comparison.groups)):
                print_table(_table(comparison, moment, i))
    by_step = [moment for moment in comparison.moments if moment.step is not None]
    last = {tuple(steps) for steps in comparison.moments[0].steps.values()}
    if len(by_step) > 1 or (by_step and len(last) > 1):  # one common step may be the last of all, which is shown above
        print_table(_step_table(comparison, by_step))


def _table(comparison: Comparison, moment: Moment, other: int) -> Table:
    """Every metric of the baseline and of another group, with the difference."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from cluster.results.change import METHODS

    first, second = comparison.groups[0], comparison.groups[other]
    a, b = _letter(0), _letter(other)
    table = Table(title=f"{escape(_title(moment))}: {moment.prompts:,} prompts, 95 % intervals", box=SIMPLE_HEAD)
    table.title_justify, table.caption_justify, table.pad_edge = "left", "left", False
    for heading in ("metric", a, b, f"{b} - {a}"):
        table.add_column(heading)
    for (metric, label), change in moment.changes.items():
        if label == second.label:
            values = [moment.values[metric, group.label] for group in (first, second)]
            cells = [_valued(value) for value in values]
            table.add_row(_name(comparison, metric), *cells, _signed(change))
    found = next(change for (_, label), change in moment.changes.items() if label == second.label)
    over = [f"{letter} over {'seeds' if len(g.runs) > 1 else 'prompts'}" for letter, g in ((a, first), (b, second))]
    count = f" [n = {' and '.join(map(str, found.runs))}]" if found.method != "prompts" else ""
    table.caption = escape(f"{', '.join(over)}; {b} - {a}: {METHODS[found.method]}{count}\n")
    return table


def _step_table(comparison: Comparison, moments: list[Moment]) -> Table:
    """The differences of the deployed metrics at every common step."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="by step", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", justify="right")
    columns = [
        (metric, i)
        for metric in comparison.deployed
        for i in range(1, len(comparison.groups))
        if (metric, comparison.groups[i].label) in moments[0].changes
    ]
    for metric, i in columns:
        table.add_column(f"{comparison.labels[metric]}, {_letter(i)} - {_letter(0)}")
    for moment in moments:
        changes = [moment.changes[metric, comparison.groups[i].label] for metric, i in columns]
        table.add_row(str(moment.step), *map(_signed, changes))
    return table


def _title(moment: Moment) -> str:
    steps = moment.steps
    if moment.at == "best":
        chosen = ", ".join(f"{name} {' and '.join(map(str, dict.fromkeys(of)))}" for name, of in steps.items())
        return f"best evaluation, chosen on the other half of the prompts (steps: {chosen})"
    found = {of[0] for of in steps.values()}
    if not found:
        return "evaluation"
    return f"last evaluation (step {found.pop()})" if len(found) == 1 else "last evaluation of each run"


def _name(comparison: Comparison, metric: str) -> str:
    """`pass@8 (objective of A)`: the groups that are trained for it are named."""
    deployers = [_letter(i) for i, g in enumerate(comparison.groups) if comparison.objectives.get(g.label) == metric]
    return comparison.labels[metric] + (f" (objective of {', '.join(deployers)})" if deployers else "")


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} \\[{low:{sign}.3f}, {high:{sign}.3f}]"


def _valued(value: Value) -> str:
    if value.low == value.value == value.high:  # a t interval without width says nothing
        return f"{value.value:.3f}, all seeds"
    return _interval(value.value, value.low, value.high)


def _signed(change: Change) -> str:
    if change.low == change.value == change.high == 0.0:
        return "+0.000, no difference"
    return _interval(change.value, change.low, change.high, "+")


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"group {i + 1}"
