"""`bonrl grade`: grade a file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def grade(
    source: Annotated[Path, typer.Option("--input", "-i", metavar="JSONL", help="Rows to grade.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="JSONL", help="File to write, a row per input row.")
    ],
    verifier: Annotated[str, typer.Option("--verifier", metavar="math|gsm8k|code|countdown", help="Which verifier.")],
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.001,
            max=3600,
            help="Seconds for one answer; for a program on stdin and stdout, seconds for each test case.",
        ),
    ] = 5.0,
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
    Fields of the output: id, status, reward, seconds, answer, detail. It is called OUTPUT.partial until it is complete.

    \b
    Examples
      bonrl grade --verifier math --input answers.jsonl --output graded.jsonl
      bonrl grade --verifier code --timeout 10 --input completions.jsonl --output graded.jsonl
    """
    from rich.progress import track

    from cluster.commands.grading import CodeOptions, grade_file
    from cluster.telemetry.console import make_console

    counts = grade_file(
        source,
        output,
        verifier,
        timeout_s=timeout,
        parallel=parallel,
        code=CodeOptions(total_timeout, threads, tolerance),
        progress=lambda rows, total: track(rows, "grading", total, console=make_console(stderr=True)),
        say=lambda line: typer.echo(line, err=True),
    )
    total = counts.total()
    for status, count in counts.most_common():
        typer.echo(f"{status:<15} {count:>7}  {100 * count / total:5.1f} %")
    typer.echo(f"wrote {output}")
