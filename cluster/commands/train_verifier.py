"""`bonrl train-verifier`: train a classifier that scores answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.checks.memory.card import local_gpus
from cluster.commands.options import (
    DEFAULT_CONFIG,
    NO_EVALUATION_IN_TRAINING,
    Overrides,
    VerifierRate,
    config_option,
    load,
)
from cluster.commands.printing import print_refresh, print_verifier
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.config import RunConfig


def train_verifier(
    samples: Annotated[
        list[Path],
        typer.Option(
            "--samples",
            metavar="PATH",
            help="Labeled answers: a run directory, what `bonrl eval --output` wrote, a Parquet file of groups, or a "
            "JSON Lines file; may be repeated.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Verifier directory to write.")],
    overrides: Overrides = None,
    backbone: Annotated[
        Path | None, typer.Option("--backbone", metavar="DIR", help="Hugging Face model to start from [model.path].")
    ] = None,
    refresh: Annotated[
        Path | None,
        typer.Option(
            "--refresh",
            metavar="DIR",
            help="Earlier verifier to train further, instead of --backbone; both are measured on the same answers.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="train|validation|test",
            help="Only answers to prompts of this split of the task, so that the others stay unseen [all].",
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        config_option(f"that of the run or evaluation which wrote the samples, or {DEFAULT_CONFIG}"),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the samples; the best one is kept.")] = 4,
    learning_rate: VerifierRate = None,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=64, help="Tokens per optimizer step.")] = 8192,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            min=8,
            help="Most tokens of prompt and answer together; if there are more, the last ones are kept.",
        ),
    ] = 1024,
) -> None:
    """Train a verifier: a classifier that scores answers, to pick one of N answers at deployment.

    \b
    Fields of a row of JSON Lines: prompt, response, correct (true or false), and id where prompts may repeat.

    \b
    Examples
      bonrl eval --checkpoint models/countdown-base -o samples evaluation.split=train evaluation.prompts=2048 --n 16
      bonrl train-verifier --samples samples --output my-verifier
      bonrl train-verifier --samples runs/NAME --split train --output my-verifier
      bonrl train task.scorer.kind=learned task.scorer.path=my-verifier objective.strategy=best_of_k
      bonrl train-verifier --samples runs/NAME --split train --refresh my-verifier --output my-verifier-2

    The report is about held-out prompts, chosen by a hash of their ids. For Best-of-N only the AUC within prompts
    matters: the overall AUC also rewards separating easy prompts from hard ones, which does not help selection.
    """
    from cluster.commands.verifier_samples import check_exists, recorded_config
    from cluster.commands.verifier_training import check_earlier
    from cluster.commands.verifier_training import train as train_classifier

    if refresh and backbone:
        raise UsageError(
            "--refresh starts from the earlier verifier, so --backbone has no effect: leave one of them out"
        )
    if split not in (None, "train", "validation", "test"):
        raise UsageError(f"--split {split}: choose train, validation or test")
    wanted = [*(overrides or []), *NO_EVALUATION_IN_TRAINING]
    try:
        for source in samples:
            check_exists(source)
    except ValueError as error:
        raise UsageError(str(error)) from error
    recorded = recorded_config(samples, wanted) if not config else None
    resolved = recorded or load(config, wanted, fetch=backbone is None and refresh is None)
    from cluster.config.hub_ids import hub_id
    from cluster.records.hub_models import local_directory
    from verifiers.learned.training import TrainingSettings, measure

    settings = TrainingSettings(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        template=resolved.task.template,
        system_prompt=resolved.task.system_prompt,
        chat_template_kwargs=resolved.task.chat_template_kwargs,
        date=resolved.task.date or (dt.date.today() if resolved.task.template == "chat" else None),
        seed=resolved.run.seed,
    )
    source = refresh or backbone or Path(resolved.model.path)
    if refresh is None and (model := hub_id(str(source))):
        source = local_directory(model, "--backbone")
    if refresh:
        check_earlier(refresh, settings)
    for warning in _cpu_warnings(resolved):
        typer.echo(f"warning: {warning}", err=True)
    trained, selection = train_classifier(resolved, samples, source, settings, output, split=split, report=typer.echo)
    print_verifier(trained, selection)
    if refresh:
        print_refresh(measure(refresh, trained.test, batch_tokens), trained.quality)
    typer.echo(f"wrote {output}")


def _cpu_warnings(config: RunConfig) -> Iterator[str]:
    """A verifier is trained in this process: on a GPU if it sees one, else on the CPU."""
    import torch

    if torch.cuda.is_available():
        return
    if found := local_gpus():
        yield (
            f"the verifier is trained on the CPU: this machine has {found} GPUs, but torch {torch.__version__} sees "
            "none"
        )
    elif config.learner.gpus_per_rank:
        yield (
            "the verifier is trained on the CPU: learner.gpus_per_rank = 1, but this process sees no GPU; run the "
            "command on a machine with one"
        )
