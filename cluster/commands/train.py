"""`bonrl train`: start, continue or replay a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import (
    Config,
    DryRun,
    Overrides,
    Replay,
    Resume,
    ResumeOrStart,
    check_start,
    load,
    load_earlier,
    started,
)
from cluster.commands.printing import print_dry_run
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.config import RunConfig


def train(
    overrides: Overrides = None,
    config: Config = None,
    resume: Resume = None,
    resume_or_start: ResumeOrStart = False,
    replay: Replay = None,
    rollout_only: Annotated[
        bool,
        typer.Option("--rollout-only", help="Record graded groups without training; --replay trains on them."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model for the inference strategy that will be deployed.

    \b
    Examples
      bonrl train --config cluster/presets/local.yaml
      bonrl train --config cluster/presets/local.yaml objective.k=4 rollout.n=32 queue.staleness=1
      bonrl train --config cluster/presets/8xh100.yaml --dry-run
      bonrl train --resume runs/20261123-101500 run.steps=400
      bonrl train --resume-or-start -c my.yaml run.name=mine
      bonrl train --replay runs/20261123-101500 learner.learning_rate=3e-5

    \b
    Configuration sections
      run, model, task       name, length and seed of the run; the model; the prompts and the verifier
      rollout, objective     samples per prompt (n); the inference strategy and k that training optimizes
      schedule               changes of k, n, temperature, KL and learning rate during the run
      loss, learner          clipping and KL; DeepSpeed ranks, ZeRO stage, AdamW, micro-batches
      actors, sampler        number of samplers and verifiers; settings of the vLLM engines
      queue, broadcast       how far sampling may run ahead of training; how weights reach the samplers
      supervision            replacing actors that die or hang
      evaluation, checkpoint, tracking, wandb, mlflow, deadlines, agreement, cluster, plugins
    All keys with type, range, default and reason: docs/configuration.md, or `bonrl config-reference`.

    \b
    Exit status
      0    the run reached its last step, or stopped early (evaluation.patience)
      1    it failed; the message names the cause, the logs, and the checkpoint to resume from
      2    refused; nothing was started
      130  interrupted (Ctrl-C, SIGTERM); a checkpoint was saved if there was time, and --resume continues
    """
    earlier = resume or replay
    replaces = None
    if resume_or_start and earlier is not None:
        raise UsageError(
            "--resume-or-start takes the run that run.name names: give either it or --resume or --replay, not both"
        )
    if resume is not None and replay is not None:
        raise UsageError(
            "--resume continues a run, --replay starts a new run from its groups: give only one of the two options"
        )
    if rollout_only and replay is not None:
        raise UsageError(
            "--rollout-only records groups, --replay trains on recorded groups: give only one of the two options"
        )
    if earlier is not None and config:
        option = "--resume" if resume else "--replay"
        raise UsageError(f"{option} takes the run's own configuration: leave --config out (overrides are allowed)")
    if resume:
        resolved = load_earlier("--resume", resume, overrides, fetch=not dry_run)
    elif replay:
        resolved = load_earlier("--replay", replay, ["run.name=null", *(overrides or [])], fetch=not dry_run)
    else:
        resolved = load(config, overrides, fetch=not dry_run)
        if resume_or_start:
            resolved, resume, replaces = _found(resolved)
    from cluster.checks.earlier import earlier_problems

    checks = earlier_problems(
        resolved, resume=resume, replay=replay, replaces=replaces, rollout_only=rollout_only, dry_run=dry_run
    )
    new_run = resume is None and replaces is None
    if dry_run:
        print_dry_run(resolved, checks, new_run=new_run, replay=replay, rollout_only=rollout_only)
        return
    check_start(started(resolved, replay=replay, rollout_only=rollout_only), checks, new_run=new_run)
    if replay:
        from cluster.run.job import replay as run_replay

        outcome = run_replay(resolved, replay)
    else:
        from cluster.run.job import train as run_job

        outcome = run_job(resolved, resume=resume, replaces=replaces, rollout_only=rollout_only)
    raise typer.Exit(outcome.status)


def _found(config: RunConfig) -> tuple[RunConfig, Path | None, Path | None]:
    """What --resume-or-start does: the settings, the run to resume, and the run to begin again."""
    from cluster.checks.prompts import without_unused_validation
    from cluster.records.named_run import continued, holds_run, named_run
    from cluster.records.run_directory import holds_checkpoint

    run = named_run(config)
    if not holds_run(run):
        typer.echo(f"--resume-or-start: {run} holds no run, so a new one starts", err=True)
        return config, None, None
    if not holds_checkpoint(run):
        typer.echo(f"--resume-or-start: {run} holds a run without a checkpoint, which begins again", err=True)
        return without_unused_validation(config), None, run
    typer.echo(f"--resume-or-start: {run} holds a checkpoint, so its run continues", err=True)
    return continued(config, run), run, None
