"""`bonrl submit`: run a job on a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands.options import DEFAULT_CONFIG, Address, Config, Overrides, Replay, Resume, ResumeOrStart


def submit(
    address: Address,
    overrides: Overrides = None,
    config: Config = None,
    resume: Resume = None,
    resume_or_start: ResumeOrStart = False,
    replay: Replay = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="Run eval, sft or train-verifier with these options instead of train (overrides are given to submit), "
            "or read runs on the cluster: report, samples, compare, logs, export.",
        ),
    ] = None,
    entrypoint: Annotated[
        str | None,
        typer.Option(
            "--entrypoint",
            metavar="COMMAND",
            help="Run this shell command in the packaged directory instead of `bonrl train`. Files here that it names "
            "travel with it.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            metavar="NAME[=VALUE]",
            help="Environment variable of the job; without VALUE, the value that is set here. May be repeated. "
            "Variables for wandb and Hugging Face are sent automatically: docs/cluster.md.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Submit a job that only checks the configuration on the cluster and prints estimates."
        ),
    ] = False,
) -> None:
    """Package what the job reads, run it on a Ray cluster, follow its log, and return its exit status.

    Relative paths of the configuration travel with the job; absolute ones must exist on the cluster. The run
    of --resume must be in a directory that every node sees; it keeps copies of what was packed for it. User code
    (task.reward, plugins, ...) is packed with the other Python files and packages in its directory.

    \b
    Examples
      bonrl submit -a http://head:8265 --config cluster/presets/multinode.yaml rollout.n=64
      bonrl submit -a http://head:8265 --resume /shared/runs/20261123-101500
      bonrl submit -a http://head:8265 --command 'eval --checkpoint /shared/runs/20261123-101500 --n 64'
      bonrl submit -a http://head:8265 --command 'report /shared/runs/20261123-101500'
      bonrl submit -a http://head:8265 --entrypoint 'python my.py' --env MY_TOKEN run.directory=/shared/runs

    Ctrl-C stops following, not the job; the message then says how to follow or stop it.
    """
    from cluster.config import RunConfig
    from cluster.config.input_paths import value_at
    from cluster.jobs.command import environment, make_job
    from cluster.jobs.submission import submit_job

    job = make_job(
        config,
        DEFAULT_CONFIG,
        overrides or [],
        dry_run=dry_run,
        entrypoint=entrypoint,
        command=command,
        resume=resume,
        replay=replay,
        resume_or_start=resume_or_start,
    )
    tree = job.config.to_mapping() if isinstance(job.config, RunConfig) else job.config
    token = value_at(tree, "task.reward_token_variable")
    variables = environment([*([token] if isinstance(token, str) else []), *(env or [])], tree=tree)
    raise typer.Exit(submit_job(job, address=address, variables=variables, echo=typer.echo))
