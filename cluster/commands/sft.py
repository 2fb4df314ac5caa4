"""`bonrl sft`: imitation of the task's expert solutions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cluster.checks.preflight import check_output
from cluster.commands.imitation import imitate
from cluster.commands.options import NO_EVALUATION_IN_TRAINING, Config, Overrides, Rate, check_start, load
from cluster.errors import UsageError

# What `bonrl sft` takes from its options: plain imitation would not read these keys, and bon_sft's are set from them.
SFT_OPTIONS = {
    "objective.imitation": "--objective",
    "run.steps": "--steps",
    "rollout.prompts_per_step": "--batch-size",
    "learner.learning_rate": "--learning-rate",
}


def sft(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model directory to write.")],
    overrides: Overrides = None,
    config: Config = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="sft|bon_sft",
            help="sft: plain imitation. bon_sft: imitation through the Best-of-k policy that will be deployed "
            "(objective.k); it uses samplers and verifiers as `bonrl train` does, --batch-size counts prompts, and the "
            "learning rate is constant.",
        ),
    ] = "sft",
    new: Annotated[
        bool,
        typer.Option(
            "--new",
            help="Start from a freshly initialized small Llama with a character tokenizer instead of model.path.",
        ),
    ] = False,
    width: Annotated[
        int | None,
        typer.Option("--width", min=32, help="With --new: size of the residual stream, a multiple of 32 [192]."),
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", min=1, help="With --new: number of layers [4].")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 900,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples per step.")] = 256,
    learning_rate: Rate = 1e-3,
) -> None:
    """Fine-tune on expert solutions of the task (imitation learning). The shipped base model was made this way.

    Objective, steps, batch size and learning rate are set by the options, not by overrides.

    \b
    Examples
      bonrl sft --new --output models/mine
      bonrl sft --new --width 256 --layers 6 --output models/larger
      bonrl sft --output models/again model.path=models/countdown-base --steps 100
      bonrl sft --objective bon_sft --output models/bon --steps 100 --batch-size 24 --learning-rate 1e-4 objective.k=8
    """
    if objective not in ("sft", "bon_sft"):
        raise UsageError(f"--objective {objective}: choose sft or bon_sft")
    _refuse_idle_overrides(overrides, objective)
    fresh = _new_model(new, width, layers)
    if objective == "bon_sft":
        _bon_sft(output, overrides, config, new, steps, batch_size, learning_rate)
    resolved = load(config, [*(overrides or []), *NO_EVALUATION_IN_TRAINING], fetch=not new)
    if new and resolved.learner.lora:
        raise UsageError("--new with learner.lora: adapters of a random model learn little; leave one of them out")
    if not new:
        check_start(resolved, new_run=False)
    imitate(
        resolved,
        output,
        new=fresh,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        report=typer.echo,
    )


def _new_model(new: bool, width: int | None, layers: int | None) -> dict[str, int] | None:
    """The sizes that were given for a new model; None if an existing one is fine-tuned."""
    sizes = {name: size for name, size in (("width", width), ("layers", layers)) if size is not None}
    if sizes and not new:
        raise UsageError("--width and --layers set the size of a new model; add --new, or leave them out")
    if width is not None and width % 32:
        raise UsageError(f"--width {width}: give a multiple of 32, the size of an attention head")
    return sizes if new else None


def _refuse_idle_overrides(overrides: list[str] | None, objective: str) -> None:
    """Refuse overrides that would be ignored: keys that options set, and the objective of plain imitation."""
    from cluster.config import apply_override

    given: dict[str, Any] = {}
    for override in overrides or []:
        apply_override(given, override)
    problems = []
    for key, option in SFT_OPTIONS.items():
        section, name = key.split(".")
        inner = given.get(section)
        if isinstance(inner, dict) and name in inner:
            problems.append(
                f"override {key} = {inner[name]!r}: `bonrl sft` takes this from {option}; give that instead"
            )
    if objective == "sft" and not problems:
        problems += [
            f"override of {section}: plain imitation does not use this section; leave it out, or use --objective "
            "bon_sft"
            for section in ("objective", "schedule")
            if section in given
        ]
    if problems:
        raise UsageError("\n".join(problems))


def _bon_sft(
    output: Path,
    overrides: list[str] | None,
    config: Path | None,
    new: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> NoReturn:
    """BoN-SFT needs samples and verdicts, so it is a run of the main job, whose last model becomes the output."""
    if new:
        raise UsageError(
            "--new works with --objective sft only: Best-of-N of an untrained model has no right answers to select"
        )
    check_output("--output", output)
    chosen = ["objective.imitation=bon_sft", f"run.steps={steps}", f"rollout.prompts_per_step={batch_size}"]
    # Last, so that an override of a whole section (`objective={k: 4}`) does not undo them.
    resolved = load(config, [*(overrides or []), *chosen, f"learner.learning_rate={learning_rate}"])
    check_start(resolved)
    from cluster.run.job import train as train_job
    from learner.checkpoint_identity import ADAPTER

    outcome = train_job(resolved)
    if outcome.model is not None:
        shutil.copytree(outcome.model, output)
        if (adapters := outcome.model.parent / ADAPTER).is_dir():
            shutil.copytree(adapters, output / ADAPTER)
        typer.echo(f"wrote {output}")
    raise typer.Exit(outcome.status)
