"""`bonrl export`: the model of a checkpoint as a plain Hugging Face directory that answers as it was trained."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import UseBest
from cluster.errors import UsageError


def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="A run directory (its newest checkpoint) or one of its checkpoints.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory to create.")],
    best: UseBest = False,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Copy the adapter that learner.lora trained, in peft's format, not the model."),
    ] = False,
) -> None:
    """Copy the model of a checkpoint into a plain Hugging Face directory, which any tool can load.

    \b
    Examples
      bonrl export --checkpoint runs/20261123-101500 --to my-model
      bonrl export --checkpoint runs/20261123-101500 --best --to my-best-model
      bonrl export --checkpoint runs/20261123-101500 --adapter --to my-adapter
    """
    from cluster.records.model_source import resolve_model

    source = resolve_model(checkpoint, best=best)
    if adapter:
        source = _adapter_of(source)
        export_adapter(source, to)
    else:
        export_model(checkpoint, source, to)
    typer.echo(f"{source} -> {to}")


def _adapter_of(model: Path) -> Path:
    """The adapter next to, or below, the merged model of a checkpoint or of `bonrl sft`.

    Raises:
        UsageError: there is none.
    """
    from learner.checkpoint_identity import ADAPTER

    for directory in (model.parent / ADAPTER, model / ADAPTER):
        if (directory / "adapter_config.json").is_file():
            return directory
    raise UsageError(
        f"--adapter: {model} has no adapter, because it was not trained with learner.lora; leave --adapter out"
    )


def export_adapter(source: Path, to: Path) -> None:
    """Copy an adapter's directory.

    Raises:
        UsageError: `to` exists or cannot be written.
    """
    if to.exists():
        raise UsageError(f"--to {to}: it exists already; name a directory that does not")
    try:
        shutil.copytree(source, to)
    except OSError as error:
        shutil.rmtree(to, ignore_errors=True)
        raise UsageError(f"--to {to}: cannot be written: {error}") from error


def export_model(checkpoint: Path, source: Path, to: Path) -> None:
    """Copy the Hugging Face directory `source`, which `checkpoint` names, to `to`.

    Raises:
        UsageError: `to` exists or cannot be written, or the weights are damaged.
    """
    from cluster.checks.weight_files import read_tensors
    from cluster.records.model_source import config_of_run
    from verifiers.text.exported_prompts import RECORD, make_readable

    if to.exists():
        raise UsageError(f"--to {to}: it exists already; name a directory that does not")
    try:
        read_tensors(source)
    except UsageError as error:
        reason = str(error).removeprefix("model.path: ")
        raise UsageError(f"--checkpoint {checkpoint}: {reason}, or export another checkpoint") from error
    try:
        shutil.copytree(source, to)
        run = config_of_run(checkpoint)
        if run is not None and not (to / RECORD).is_file():
            _finish_earlier(run, to)
        make_readable(to)
    except OSError as error:
        shutil.rmtree(to, ignore_errors=True)  # half a copy would refuse the next attempt
        raise UsageError(f"--to {to}: cannot be written: {error}") from error


def _finish_earlier(run: Path, to: Path) -> None:
    """Complete a checkpoint of version 0.1.0; `run` is the run's config.yaml.

    That version put BOS before every plain prompt, and its chat templates read the current date.
    """
    from cluster.config import load_config
    from verifiers.text.exported_prompts import finish_export, put_begin_token
    from verifiers.text.rendering import PromptFormat

    task = load_config(run).task
    settings = PromptFormat(task.template, task.system_prompt, task.chat_template_kwargs, task.date)
    if settings.date is None and settings.template == "chat":
        began = dt.date.fromtimestamp(run.stat().st_mtime)
        settings = dataclasses.replace(settings, date=began)
    finish_export(to, settings)
    if settings.template == "plain":
        put_begin_token(to, _first_tokens(run.parent))


def _first_tokens(run: Path) -> set[int]:
    """The first token of every prompt in the newest groups that a run recorded."""
    import pyarrow.parquet as pq

    files = sorted((run / "groups").glob("step-*.parquet"))
    prompts = pq.read_table(files[-1], columns=["prompt_tokens"])["prompt_tokens"].to_pylist() if files else []
    return {tokens[0] for tokens in prompts if tokens}
