"""`bonrl train-verifier`: train a classifier that scores answers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import DEFAULT_CONFIG, Config, Overrides, Rate, load
from cluster.commands.printing import print_verifier
from cluster.config.hub_ids import hub_id
from cluster.records.hub_models import local_directory


def train_verifier(
    samples: Annotated[
        list[Path],
        typer.Option(
            "--samples",
            metavar="PATH",
            help="Labelled answers: a JSON Lines file, or groups as Parquet (file or directory); may be repeated.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Verifier directory to write.")],
    overrides: Overrides = None,
    backbone: Annotated[
        Path | None, typer.Option("--backbone", metavar="DIR", help="Hugging Face model to start from [model.path].")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the samples; the best one is kept.")] = 4,
    learning_rate: Rate = 3e-4,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=64, help="Tokens per optimiser step.")] = 8192,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", min=8, help="Of prompt and answer together; of longer ones the end is kept."),
    ] = 1024,
) -> None:
    """Train a verifier: a classifier that scores answers, to select among N answers where the truth is not known.

    \b
    Fields of a row of JSON Lines: prompt, response, correct (true or false), and id where prompts may repeat.

    \b
    Examples
      bonrl eval --checkpoint models/countdown-base -o samples evaluation.split=train evaluation.prompts=2048 --n 16
      bonrl train-verifier --samples samples --output my-verifier
      bonrl train task.scorer.kind=learned task.scorer.path=my-verifier objective.strategy=best_of_k

    The report is on prompts held out by a hash of their ids. For Best-of-N only the AUC within prompts matters: the
    overall AUC also rewards telling easy prompts from hard ones, which does not help to select an answer.
    """
    resolved = load(config, overrides, fetch=backbone is None)
    from cluster.commands.verifier_training import train as train_classifier
    from verifiers.learned.training import TrainingSettings

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
    source = backbone or Path(resolved.model.path)
    if model := hub_id(str(source)):
        source = local_directory(model, "--backbone")
    trained, selection = train_classifier(resolved, samples, source, settings, output, report=typer.echo)
    print_verifier(trained, selection)
    typer.echo(f"wrote {output}")
