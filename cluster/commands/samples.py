"""`bonrl samples`: what the model answered, in the terminal."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import WhichTemperature
from cluster.commands.printing import printable, write_json
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.results import GroupRecord, RunResults, SampleRecord

_HEAD, _TAIL = 400, 200  # characters of a long text that are shown
_NO_TEXT = "(no text: version 0.1.0 of bonrl recorded token ids only)"
_COLORS = {"correct": "green", "verifier_error": "magenta"}


class Only(StrEnum):
    """Which answers are shown."""

    RIGHT = "right"
    WRONG = "wrong"
    TRUNCATED = "truncated"
    FAILED = "failed"


def samples(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run directory; the run may be under way. Or a directory that `bonrl eval --output` wrote.",
        ),
    ],
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Optimizer step (the first is 1) [the last recorded one].")
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Show the evaluation after that step (0: the base model).")
    ] = False,
    temperature: WhichTemperature = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="ID", help="Only this prompt.")] = None,
    only: Annotated[
        Only | None,
        typer.Option(
            "--only",
            help="right; wrong (also unparsable answers, crashes and time-outs of their programs); truncated: cut at "
            "the token limit; failed: the verifier gave no verdict.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Prompts to show.")] = 3,
    answers: Annotated[int, typer.Option("--answers", min=1, help="Answers to show for each prompt.")] = 4,
    full: Annotated[
        bool, typer.Option("--full", help="Show every answer of each prompt, and long texts whole.")
    ] = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all answers of the prompts as JSON; `-` prints it."),
    ] = None,
) -> None:
    """Show what the model answered: prompt, responses, rewards, verdicts and advantages.

    \b
    Examples
      bonrl samples runs/NAME                                  the last recorded step
      bonrl samples runs/NAME --step 10 --only wrong --n 5
      bonrl samples runs/NAME --step 0 --evaluation --full     the base model on held-out prompts
      bonrl samples runs/NAME --evaluation --n 1000 --json samples.json
      bonrl samples base-on-test --only wrong                  (a directory of `bonrl eval --output`)
    """
    step, evaluation, groups = _recorded(run, step, evaluation, temperature)
    path = run.expanduser().absolute()
    chosen = _chosen(groups, prompt, only)
    if json_file is not None:
        content = {"run": str(path), "step": step, "evaluation": evaluation, "matching_prompts": len(chosen)}
        write_json(content | {"groups": [group.as_dict() for group in chosen[:n]]}, json_file)
        return
    _print(chosen[:n], None if full else answers, full)
    kind = f" with {only} answers" if only else ""
    at = "" if step is None else f" after step {step}"
    of = f"the evaluation{at}" if evaluation else f"step {step}"
    more = f"; --n {len(chosen)} shows all" if n < len(chosen) else ""
    typer.echo(f"{min(n, len(chosen))} of {len(chosen)} prompts{kind} of {of} of {path}{more}")


def _recorded(
    run: Path, step: int | None, evaluation: bool, temperature: float | None
) -> tuple[int | None, bool, list[GroupRecord]]:
    """The step (None for an output of `bonrl eval`), whether it is an evaluation, and its groups."""
    from cluster.results import load_run
    from cluster.results.run_results import EVALUATION_FILE

    if (run / EVALUATION_FILE).is_file():
        if step is not None:
            raise UsageError(
                f"--step {step}: {run} is a directory of `bonrl eval --output`, which has no steps; leave --step out"
            )
        return None, True, _evaluated(run, temperature)
    if temperature is not None:
        raise UsageError(
            "--temperature chooses among the evaluations of a `bonrl eval --output` directory; for a run use --step"
        )
    found = load_run(run)
    step = _step(found, step, evaluation)
    return step, evaluation, list(found.evaluation_groups(step) if evaluation else found.groups(step))


def _evaluated(path: Path, temperature: float | None) -> list[GroupRecord]:
    """The groups of an output of `bonrl eval`, in the order of their prompts."""
    from cluster.results.group_records import group_records
    from cluster.results.subjects import load_subject, read_all

    subject = load_subject(path, temperature)
    groups = read_all(subject.files[subject.last])
    return group_records(groups, 0, [None] * len(groups))


def _step(run: RunResults, step: int | None, evaluation: bool) -> int:
    """The step that is meant; the last recorded one where none is given."""
    recorded = run.evaluation_steps if evaluation else run.group_steps
    if step is not None:
        return step
    if not recorded:
        what, other = ("evaluation", "") if evaluation else ("step", "; --evaluation shows evaluations")
        raise UsageError(f"{run.path} has recorded no {what} yet{other if run.evaluation_steps else ''}")
    return recorded[-1]


def _chosen(groups: Sequence[GroupRecord], prompt: str | None, only: Only | None) -> list[GroupRecord]:
    """The groups (or that of one prompt) with the answers that are asked for; without such answers they are left out.

    Raises:
        UsageError: there is no such prompt.
    """
    if prompt is not None:
        known = [group.prompt_id for group in groups]
        if prompt not in known:
            near = difflib.get_close_matches(prompt, known, n=3, cutoff=0.3) or known[:3]
            raise UsageError(f"--prompt {prompt}: not among the {len(known)} prompts of this step; there are {near}")
        groups = [group for group in groups if group.prompt_id == prompt]
    if only is None:
        return list(groups)
    kept = [replace(group, samples=tuple(s for s in group.samples if _is(s, only))) for group in groups]
    return [group for group, before in zip(kept, groups, strict=True) if group.samples or _is_quarantined(before, only)]


def _is(sample: SampleRecord, only: Only) -> bool:
    failed, right = sample.verdict == "verifier_error", sample.verdict == "correct"
    return {
        Only.RIGHT: right,
        Only.WRONG: not right and not failed,
        Only.TRUNCATED: sample.truncated,
        Only.FAILED: failed,
    }[only]


def _is_quarantined(group: GroupRecord, only: Only) -> bool:
    """Whether the group is a quarantined prompt (without answers) that `only` includes."""
    return only is Only.FAILED and not group.samples


def _print(groups: Sequence[GroupRecord], most: int | None, full: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from cluster.telemetry.console import WIDE, make_console

    console = make_console()
    if not console.is_terminal:
        console.width = WIDE
    for group in groups:
        console.print(Text(f"{group.prompt_id}  ({group.level})", style="bold"))
        console.print(Padding(Text(_shown(group.prompt, full)), (0, 0, 0, 2), expand=False))
        if group.reference not in (None, {}):  # a row without an answer has an empty one
            reference = json.dumps(group.reference, ensure_ascii=False)
            console.print(
                Padding(Text(f"reference {_shown(reference, full)}", style="dim"), (0, 0, 0, 2), expand=False)
            )
        if group.fault:
            console.print(Text(f"  not used: {_shown(group.fault, full)}", style="magenta"))
        for sample in group.samples[:most]:
            line = Text(f"  #{sample.index} ")
            line.append(sample.verdict, style=_COLORS.get(sample.verdict, "red"))
            line.append("  " + "  ".join(_facts(sample)), style="dim")
            console.print(line)
            console.print(Padding(Text(_shown(sample.response, full)), (0, 0, 0, 5), expand=False))
        if most is not None and len(group.samples) > most:
            console.print(Text(f"  {len(group.samples) - most} more answers; --full shows them", style="dim"))
        console.print("")


def _facts(sample: SampleRecord) -> Iterator[str]:
    for name in ("reward", "score"):
        value = getattr(sample, name)
        yield f"{name} {value:g}" if value is not None else f"no {name}"
    if sample.parts:
        parts = (f"{name} {'none' if value is None else format(value, 'g')}" for name, value in sample.parts.items())
        yield f"({', '.join(map(printable, parts))})"
    if sample.advantage is not None:
        yield f"advantage {_signed(sample.advantage)}"
    yield f"{sample.tokens} tokens" + (", truncated" if sample.truncated else "")
    if sample.detail:
        yield printable(sample.detail.splitlines()[0])[:_TAIL]


def _signed(value: float) -> str:
    """Three decimals; a smaller value is not shown as zero, because its sign matters."""
    return f"{value:+.1e}" if 0 < abs(value) < 0.0005 else f"{value + 0.0:+.3f}"


def _shown(text: str | None, full: bool) -> str:
    """A text for the terminal; of a long one the beginning and the end."""
    if text is None:
        return _NO_TEXT
    if not text.strip():
        return "(empty)"
    cut = len(text) - _HEAD - _TAIL
    if not full and cut > 0:
        text = f"{text[:_HEAD]} [... {cut:,} characters; --full shows them ...] {text[-_TAIL:]}"
    return printable(text)
