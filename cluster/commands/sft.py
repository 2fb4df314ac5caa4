"""`bonrl sft`: imitation of the task's expert solutions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cluster.checks.preflight import check_output, gpu_problems, machine_problems
from cluster.commands.imitation import imitate, resume
from cluster.commands.options import NO_EVALUATION_IN_TRAINING, Config, OptionalRate, Overrides, check_start, load
from cluster.errors import UsageError
from cluster.exit_status import FAILED

if TYPE_CHECKING:
    from cluster.config import RunConfig

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
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps [900].")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Examples per step [256 with --new, else 32].")
    ] = None,
    learning_rate: OptionalRate = None,
    resumes: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the unfinished imitation of --output from its newest checkpoint, with the options and the "
            "configuration that it was started with.",
        ),
    ] = False,
) -> None:
    """Fine-tune on expert solutions of the task (imitation learning). The shipped base model was made this way.

    It runs on learner.ranks ranks, placed as those of `bonrl train`. Checkpoints are in DIR.partial until DIR is
    written. Objective, steps, batch size and learning rate are set by the options, not by overrides.

    \b
    Examples
      bonrl sft --new --output models/mine
      bonrl sft --new --width 256 --layers 6 --output models/larger
      bonrl sft --output models/again model.path=models/countdown-base --steps 100 --learning-rate 1e-4
      bonrl sft --output models/again --resume
      bonrl sft --objective bon_sft --output models/bon --steps 100 --batch-size 24 --learning-rate 1e-4 objective.k=8
    """
    if objective not in ("sft", "bon_sft"):
        raise UsageError(f"--objective {objective}: choose sft or bon_sft")
    fresh = _new_model(new, width, layers)
    if resumes:
        options: dict[str, object] = {
            "--objective": None if objective == "sft" else objective,
            "--config": config or None,
            "--new": fresh,
            "--steps": steps,
            "--batch-size": batch_size,
            "--learning-rate": learning_rate,
        }
        _refuse_with_resume(output, options)
        raise typer.Exit(resume(output, overrides or [], typer.echo))
    _refuse_idle_overrides(overrides, objective)
    check_output("--output", output)
    steps, batch_size = steps or 900, batch_size or (256 if new else 32)
    rate = _learning_rate(learning_rate, new)
    if objective == "bon_sft":
        _bon_sft(output, overrides, config, new, steps, batch_size, rate)
    from cluster.config.learner_alone import NO_SAMPLING, learner_alone

    resolved = load(config, [*(overrides or []), *NO_EVALUATION_IN_TRAINING, *NO_SAMPLING], fetch=not new)
    if new and resolved.learner.lora:
        raise UsageError("--new with learner.lora: adapters of a random model learn little; leave one of them out")
    from learner.imitation import ImitationSettings

    settings = ImitationSettings(steps=steps, batch_size=batch_size, learning_rate=rate, seed=resolved.run.seed)
    alone = learner_alone(resolved, batch_size=batch_size)
    if new:  # there is no model to check yet
        _check_machine(alone)
    else:
        check_start(alone, new_run=False)
    raise typer.Exit(imitate(resolved, output, settings, new=fresh, report=typer.echo))


def _check_machine(config: RunConfig) -> None:
    from cluster.checks.ray_cluster import address_of, stated_problems

    problems = [*machine_problems(config, new_run=False), *stated_problems(config)]
    if address_of(config)[0] == "local":
        problems += gpu_problems(config)
    if problems:
        raise UsageError("\n".join(problems))


def _refuse_with_resume(output: Path, options: Mapping[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if "--objective" in given:
        raise UsageError(
            "--resume continues --objective sft; a run of bon_sft is continued with `bonrl train --resume RUN_DIR`"
        )
    if given:
        raise UsageError(
            f"--resume continues `bonrl sft --output {output}` with the options it was started with: leave "
            f"{given[0]} out"
        )


def _learning_rate(given: float | None, new: bool) -> float:
    """The peak rate: a good one depends on the model, and one for a small new model would ruin a trained one."""
    if given is None and not new:
        raise UsageError(
            "--learning-rate is missing: for a trained model 1e-5 is a usual value with all weights, and 1e-4 with "
            "learner.lora or a model below 0.5 B parameters (1e-3, the default with --new, would destroy what it knows)"
        )
    return given or 1e-3


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
    config: list[Path] | None,
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
    chosen = ["objective.imitation=bon_sft", f"run.steps={steps}", f"rollout.prompts_per_step={batch_size}"]
    # Last, so that an override of a whole section (`objective={k: 4}`) does not undo them.
    resolved = load(config, [*(overrides or []), *chosen, f"learner.learning_rate={learning_rate}"])
    check_start(resolved)
    from cluster.run.job import train as train_job
    from learner.checkpoint_identity import ADAPTER

    outcome = train_job(resolved)
    if outcome.model is not None:
        try:
            shutil.copytree(outcome.model, output)
            if (adapters := outcome.model.parent / ADAPTER).is_dir():
                shutil.copytree(adapters, output / ADAPTER)
        except OSError as error:
            typer.echo(f"--output {output}: cannot be written: {error}; the model is {outcome.model}", err=True)
            raise typer.Exit(FAILED) from error
        typer.echo(f"wrote {output}")
    raise typer.Exit(outcome.status)
