"""`bonrl grade`: grade a file of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.commands.grading import Kind


def grade(
    source: Annotated[Path, typer.Option("--input", "-i", metavar="JSONL", help="Rows to grade.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="JSONL", help="File to write, a row per input row.")
    ],
    verifier: Annotated[
        str,
        typer.Option(
            "--verifier",
            metavar="math|gsm8k|code|countdown|REWARD",
            help="Which verifier; REWARD is one of your own, written as in task.reward: path/to/file.py:name.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION.KEY=VALUE",
            help="REWARD: keys of the configuration that it needs, such as task.options, task.reward_weights "
            "or task.jsonl.answer.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.001,
            max=3600,
            help="Seconds for one answer [5; REWARD: task.reward_timeout_s]; for a program on stdin and stdout, for "
            "each test case.",
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Answers graded in parallel [one per core].")
    ] = None,
    total_timeout: Annotated[
        float | None,
        typer.Option(
            "--total-timeout",
            min=0.001,
            max=3600,
            help="code: seconds for all test cases on stdin and stdout [cases x timeout, at most 300].",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=64, help="code: threads that a program may have [8 on stdin and stdout, else 1]."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            max=0.999,
            help="code: absolute or relative error of printed numbers [none: compared as text].",
        ),
    ] = None,
) -> None:
    """Grade a JSON Lines file with the verifier that training uses.

    \b
    Fields of a row, in addition to its id (without ids, the line number is the id)
      math       prediction (a full response or a bare answer), reference
      gsm8k      prediction, reference (a number)
      code       completion, task: {prompt, test, entry_point}; test defines check(candidate). Without entry_point
                 test holds asserts, or a list of {input, output} for a program that reads stdin. task may also
                 have time_limit, total_time_limit, threads and tolerance, which override the options
      countdown  prediction, numbers, target
      REWARD     prediction, problem (or prompt; text or messages), answer (or reference), and what else the function
                 takes: parameters are bound by name, as in training. task.jsonl.problem and task.jsonl.answer name
                 other fields; a dot reads a nested one
    Fields of the output: id, status, reward, seconds, answer, detail, and parts if REWARD returns some. It is called
    OUTPUT.partial until it is complete. A row on which REWARD fails has the status verifier_error and no reward; if it
    fails on the first row, nothing is graded.

    \b
    Examples
      bonrl grade --verifier math --input answers.jsonl --output graded.jsonl
      bonrl grade --verifier code --timeout 10 --input completions.jsonl --output graded.jsonl
      bonrl grade --verifier my_rewards.py:score -i answers.jsonl -o graded.jsonl task.options.limit=1024
    """
    from rich.progress import track

    from cluster.commands.grading import CodeOptions, grade_file
    from cluster.telemetry.console import make_console

    with _own_reward(verifier, overrides or [], timeout) as own:
        counts = grade_file(
            source,
            output,
            verifier,
            timeout_s=5.0 if timeout is None else timeout,
            parallel=parallel,
            code=CodeOptions(total_timeout, threads, tolerance),
            own=own,
            progress=lambda rows, total: track(rows, "grading", total, console=make_console(stderr=True)),
            say=lambda line: typer.echo(line, err=True),
        )
    total = counts.total()
    for status, count in counts.most_common():
        typer.echo(f"{status:<15} {count:>7}  {100 * count / total:5.1f} %")
    typer.echo(f"wrote {output}")


@contextmanager
def _own_reward(verifier: str, overrides: Sequence[str], timeout: float | None) -> Iterator[Kind | None]:
    """A reward of the user as a way to grade; None where `verifier` is one of the project's."""
    from verifiers.settings import is_address, is_code

    if is_code(verifier) or is_address(verifier):
        from cluster.commands.own_reward import reward_kind, reward_settings

        with reward_kind(reward_settings(verifier, overrides, timeout)) as kind:
            yield kind
    elif overrides:
        raise UsageError(f"override {overrides[0]}: --verifier {verifier} has options instead; see bonrl grade --help")
    else:
        yield None
