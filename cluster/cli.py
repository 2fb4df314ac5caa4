"""The command line: `bonrl train | eval | sft | train-verifier | grade | submit | export | config-reference`.

Every command reads a YAML file, applies `section.key=value` overrides and refuses what cannot work before anything
starts: one message, exit status 2. The installation is checked before bonrl's own modules are imported, and Ray, vLLM
and torch are imported only by the commands that need them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cluster.checks.preflight import check_output, check_packages
from cluster.commands.printing import print_comparisons, print_curves, print_dry_run, print_verifier, version_text
from cluster.errors import UsageError
from cluster.records.model_source import config_of_run, resolve_model

if TYPE_CHECKING:
    from cluster.config import RunConfig

REFUSED = 2  # exit status of everything that the user can fix

app = typer.Typer(
    name="bonrl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Config = Annotated[Path, typer.Option("--config", "-c", metavar="YAML", help="Configuration of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Keys that override the YAML file, e.g. objective.k=8."),
]


def _rate(value: float) -> float:
    """A learning rate that trains; click's own bounds let nan through."""
    if not 0 < value < math.inf:
        raise UsageError(f"--learning-rate {value:g} trains nothing: it must be above 0 and finite")
    return value


Rate = Annotated[float, typer.Option("--learning-rate", callback=_rate, help="Peak rate.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, print the resolved configuration and the figures that follow "
        "from it (batch sizes, memory), and start nothing.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def bonrl(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of bonrl, its git commit, Python and the packages that matter.",
        ),
    ] = False,
) -> None:
    """Reinforcement learning of language models for Best-of-N inference.

    \b
    First steps
      bonrl train                                       train the shipped model on two CPU cores
      bonrl train --config FILE --dry-run               check a configuration; start nothing
      bonrl eval --checkpoint runs/NAME                 pass@k and other curves of what was trained

    \b
    Exit status of every command
      0    done
      1    failed after it had started; the message says what was kept and how to continue
      2    refused: nothing was started; the message names the key or option and what to change
      130  interrupted (Ctrl-C, SIGTERM)
    """


DEFAULT_CONFIG = Path("cluster/presets/local.yaml")

# What `bonrl sft` takes from its options: plain imitation would not read these keys, and bon_sft's are set from them.
SFT_OPTIONS = {
    "objective.imitation": "--objective",
    "run.steps": "--steps",
    "rollout.prompts_per_step": "--batch-size",
    "learner.learning_rate": "--learning-rate",
}

# `bonrl eval` trains nothing, so nothing is evaluated during training, and its curves may end below objective.k.
NO_TRAINING = ("evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false")


@app.command(short_help="Train a model for Best-of-N.")
def train(
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="YAML", help=f"Configuration [{DEFAULT_CONFIG}].")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN_DIR",
            help="Continue that run from its newest usable checkpoint, with its own configuration; overrides are "
            "allowed, e.g. run.steps=400.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="RUN_DIR",
            help="Train a new run on the groups that RUN_DIR recorded, without sampling; its configuration is used, "
            "overrides are allowed.",
        ),
    ] = None,
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
      bonrl train --replay runs/20261123-101500 learner.learning_rate=3e-5

    \b
    Configuration sections
      run, model, task       name, length and seed of the run; the model; the prompts and the verifier
      rollout, objective     samples per prompt (n); the inference strategy and k that training optimises
      schedule               changes of k, n, temperature and KL during the run
      loss, learner          clipping and KL; DeepSpeed ranks, ZeRO stage, AdamW, micro-batches
      actors, sampler        number of samplers and verifiers; settings of the vLLM engines
      queue, broadcast       how far sampling may run ahead of training; how weights reach the samplers
      supervision            replacing actors that die or hang
      evaluation, checkpoint, wandb, deadlines, agreement, cluster
    All keys with type, range, default and reason: docs/configuration.md, or `bonrl config-reference`.

    \b
    Exit status
      0    the run reached its last step
      1    it failed; the message names the cause, the logs, and the checkpoint to resume from
      2    refused; nothing was started
      130  interrupted (Ctrl-C, SIGTERM); a checkpoint was saved if there was time, and --resume continues
    """
    earlier = resume or replay
    if resume is not None and replay is not None:
        raise UsageError("--resume continues a run, --replay starts a new one from its groups: give one of them")
    if rollout_only and replay is not None:
        raise UsageError("--rollout-only records groups, --replay trains on recorded ones: give one of them")
    if earlier is not None and config is not None:
        option = "--resume" if resume else "--replay"
        raise UsageError(f"{option} takes the run's own configuration: leave --config out (overrides are allowed)")
    if resume:
        resolved = _earlier_config("--resume", resume, overrides)
    elif replay:
        resolved = _earlier_config("--replay", replay, ["run.name=null", *(overrides or [])])
    else:
        resolved = _load(config or DEFAULT_CONFIG, overrides)
    from cluster.checks.earlier import earlier_problems

    checks = earlier_problems(resolved, resume=resume, replay=replay, rollout_only=rollout_only, dry_run=dry_run)
    if dry_run:
        print_dry_run(resolved, checks, new_run=resume is None)
        return
    _check(resolved, checks, new_run=resume is None)
    if replay:
        from cluster.run.job import replay as run_replay

        outcome = run_replay(resolved, replay)
    else:
        from cluster.run.job import train as run_job

        outcome = run_job(resolved, resume=resume, rollout_only=rollout_only)
    raise typer.Exit(outcome.status)


@app.command("eval", short_help="Measure a model on held-out prompts.")
def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="A run directory (its newest checkpoint), one of its "
            "checkpoints, or any Hugging Face model directory.",
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="YAML", help=f"Configuration [the run's own, or {DEFAULT_CONFIG}]."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Samples per prompt [evaluation.n].")] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            "-t",
            help="Softmax temperature; repeat it for several curves [evaluation.temperature].",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Also write evaluation.json (with standard errors) and the graded groups (Parquet) there.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="DIR",
            help="What an earlier `bonrl eval --output DIR` wrote: print the differences from it, prompt by prompt.",
        ),
    ] = None,
) -> None:
    """Measure a model on held-out prompts: pass@k and other strategies' curves, with 95 % intervals over prompts.

    With --baseline, also the differences from an earlier evaluation on the same prompts, with paired 95 % intervals.

    \b
    Examples
      bonrl eval --checkpoint models/countdown-base evaluation.split=test --output base
      bonrl eval --checkpoint runs/20261123-101500 evaluation.split=test --baseline base
      bonrl eval --checkpoint runs/20261123-101500 --n 64 -t 0.7 -t 1.0
      bonrl eval --checkpoint models/countdown-base 'evaluation.strategies=[majority_at_k]' --output curves
    """
    extra = [] if n is None else [f"evaluation.n={n}"]
    model = resolve_model(checkpoint)
    source = config or config_of_run(checkpoint) or DEFAULT_CONFIG
    resolved = _load(source, [f"model.path={model}", *(overrides or []), *extra, *NO_TRAINING])
    temperatures = temperature or [resolved.evaluation.temperature]
    if any(not 0 < t <= 10 for t in temperatures):
        raise UsageError(f"--temperature {min(temperatures):g}: must be above 0 and at most 10")
    if len(set(temperatures)) < len(temperatures):
        raise UsageError("--temperature: the same one is given twice; give each once")
    _check(resolved, new_run=False)
    from cluster.run.job import earlier_evaluations, evaluate_checkpoint

    earlier = earlier_evaluations(resolved, baseline, temperatures) if baseline is not None else []
    if output is not None:
        _new_directory(output)

    outcome, evaluations = evaluate_checkpoint(
        resolved, str(model), n=resolved.evaluation.n, temperatures=temperatures, output=output
    )
    print_curves(evaluations)
    print_comparisons(resolved, earlier, evaluations)
    if output is not None and evaluations:
        rows = [{"temperature": e.temperature, **e.row(), **e.standard_errors()} for e in evaluations]
        (output / "evaluation.json").write_text(json.dumps({"model": str(model), "evaluations": rows}, indent=1))
        typer.echo(f"wrote {output}")
    if outcome.status:
        typer.echo(outcome.message, err=True)
    raise typer.Exit(outcome.status)


@app.command(short_help="Imitate expert solutions of the task.")
def sft(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model directory to write.")],
    overrides: Overrides = None,
    config: Config = DEFAULT_CONFIG,
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
            help="Start from a freshly initialised small Llama with a character tokenizer instead of model.path.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 900,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples per step.")] = 256,
    learning_rate: Rate = 1e-3,
) -> None:
    """Fine-tune on expert solutions of the task (imitation learning). The shipped base model was made this way.

    Objective, steps, batch size and learning rate are set by the options, not by overrides.

    \b
    Examples
      bonrl sft --new --output models/mine
      bonrl sft --output models/again model.path=models/countdown-base --steps 100
      bonrl sft --objective bon_sft --output models/bon --steps 100 --batch-size 24 --learning-rate 1e-4 objective.k=8
    """
    if objective not in ("sft", "bon_sft"):
        raise UsageError(f"--objective {objective}: choose sft or bon_sft")
    _refuse_idle_overrides(overrides, objective)
    if objective == "bon_sft":
        _bon_sft(output, overrides, config, new, steps, batch_size, learning_rate)
    resolved = _load(config, overrides)
    if not new:
        _check(resolved, new_run=False)
    from cluster.commands.sft import imitate

    imitate(
        resolved,
        output,
        new=new,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        report=typer.echo,
    )


def _refuse_idle_overrides(overrides: list[str] | None, objective: str) -> None:
    """Overrides that would be ignored in silence: what an option says, and the objective of plain imitation."""
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
            f"override of {section}: plain imitation has none; leave it out, or use --objective bon_sft"
            for section in ("objective", "schedule")
            if section in given
        ]
    if problems:
        raise UsageError("\n".join(problems))


def _bon_sft(
    output: Path,
    overrides: list[str] | None,
    config: Path,
    new: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """BoN-SFT needs samples and verdicts, so it is a run of the main job, whose last model becomes the output."""
    if new:
        raise UsageError("--new goes with --objective sft: Best-of-N of a fresh model has nothing to select from")
    check_output("--output", output)
    chosen = ["objective.imitation=bon_sft", f"run.steps={steps}", f"rollout.prompts_per_step={batch_size}"]
    # Last, so that an override of a whole section (`objective={k: 4}`) does not undo them.
    resolved = _load(config, [*(overrides or []), *chosen, f"learner.learning_rate={learning_rate}"])
    _check(resolved)
    from cluster.run.job import train as train_job

    outcome = train_job(resolved)
    if outcome.model is not None:
        shutil.copytree(outcome.model, output)
        typer.echo(f"wrote {output}")
    raise typer.Exit(outcome.status)


@app.command("train-verifier", short_help="Train a verifier that scores answers.")
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
    resolved = _load(config, overrides)
    from cluster.commands.train_verifier import train as train_classifier
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
    trained, selection = train_classifier(resolved, samples, source, settings, output, report=typer.echo)
    print_verifier(trained, selection)
    typer.echo(f"wrote {output}")


@app.command(short_help="Grade a file of answers.")
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
            help="Seconds for one answer; of a program on stdin and stdout, for each test case.",
        ),
    ] = 5.0,
    parallel: Annotated[int | None, typer.Option("--parallel", min=1, help="Answers at once [one per core].")] = None,
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
    Fields of a row, in addition to its id
      math       prediction (a full response or a bare answer), reference
      gsm8k      prediction, reference (a number)
      code       completion, task: {prompt, test, entry_point}; test defines check(candidate). Without entry_point
                 test holds asserts, or a list of {input, output} for a program that reads stdin. task may also
                 have time_limit, total_time_limit, threads and tolerance, which come before the options
      countdown  prediction, numbers, target
    Fields of the output: id, status, reward, seconds, answer, detail. It is called OUTPUT.partial until it is whole.

    \b
    Examples
      bonrl grade --verifier math --input answers.jsonl --output graded.jsonl
      bonrl grade --verifier code --timeout 10 --input completions.jsonl --output graded.jsonl
    """
    from rich.progress import track

    from cluster.commands.grade import CodeOptions, grade_file

    counts = grade_file(
        source,
        output,
        verifier,
        timeout_s=timeout,
        parallel=parallel,
        code=CodeOptions(total_timeout, threads, tolerance),
        progress=lambda rows, total: track(rows, "grading", total, console=Console(stderr=True)),
        say=lambda line: typer.echo(line, err=True),
    )
    total = counts.total()
    for status, count in counts.most_common():
        typer.echo(f"{status:<15} {count:>7}  {100 * count / total:5.1f} %")
    typer.echo(f"wrote {output}")


@app.command(short_help="Run a job on a Ray cluster.")
def submit(
    address: Annotated[
        str,
        typer.Option(
            "--address",
            "-a",
            metavar="URL",
            help="Dashboard of the cluster's head node, e.g. http://head:8265.",
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="YAML", help=f"Configuration [{DEFAULT_CONFIG}].")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN_DIR", help="Continue that run; a directory that every node sees."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="RUN_DIR", help="Train on the groups that RUN_DIR recorded."),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="Run eval, sft or train-verifier with these options instead of train; overrides are given to submit.",
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
            help="Environment variable of the job; without VALUE the one that is set here. May be repeated. "
            "WANDB_API_KEY and HF_TOKEN go along by themselves.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Submit a job that only prints its derived figures on the cluster."),
    ] = False,
) -> None:
    """Package what the job reads, run it on a Ray cluster, follow its log, return its exit status.

    Relative paths of the configuration travel with the job; absolute ones must exist on the cluster.

    \b
    Examples
      bonrl submit -a http://head:8265 --config cluster/presets/multinode.yaml rollout.n=64
      bonrl submit -a http://head:8265 --resume /shared/runs/20261123-101500
      bonrl submit -a http://head:8265 --command 'eval --checkpoint /shared/runs/20261123-101500 --n 64'
      bonrl submit -a http://head:8265 --entrypoint 'python my.py' --env MY_TOKEN run.directory=/shared/runs

    Ctrl-C stops following, not the job; the message then says how to follow or stop it.
    """
    from cluster.commands.job_command import environment, make_job
    from cluster.commands.submit import submit_job

    job = make_job(
        config,
        DEFAULT_CONFIG,
        overrides or [],
        dry_run=dry_run,
        entrypoint=entrypoint,
        command=command,
        resume=resume,
        replay=replay,
    )
    variables = environment(env or [])
    raise typer.Exit(submit_job(job, address=address, variables=variables, echo=typer.echo))


@app.command(short_help="Write the trained model as a Hugging Face directory.")
def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="A run directory (its newest checkpoint) or one of its checkpoints.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory to make.")],
) -> None:
    """Copy the model of a checkpoint into a plain Hugging Face directory, which any tool can load.

    \b
    Example
      bonrl export --checkpoint runs/20261123-101500 --to my-model
    """
    source = resolve_model(checkpoint)
    from cluster.commands.export import export_model

    export_model(checkpoint, source, to)
    typer.echo(f"{source} -> {to}")


@app.command("config-reference", short_help="Print every configuration key.")
def config_reference() -> None:
    """Print every key with its type, range, default, unit and reason (docs/configuration.md)."""
    from cluster.config.reference import render_reference

    typer.echo(render_reference(), nl=False)


def _load(path: Path, overrides: list[str] | None) -> RunConfig:
    from cluster.config import load_config

    return load_config(path, overrides or [])


def _earlier_config(option: str, run: Path, overrides: list[str] | None) -> RunConfig:
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{option} {run}: no config.yaml there, so it is no run directory; give one like runs/NAME")
    return _load(run / "config.yaml", overrides)


def _check(config: RunConfig, earlier: Callable[[], Iterable[str]] | None = None, *, new_run: bool = True) -> None:
    """Everything that can be refused before the first actor starts."""
    from cluster.checks.refusals import check_start

    for warning in check_start(config, earlier=earlier, new_run=new_run).warnings:
        typer.echo(f"warning: {warning}", err=True)


def _new_directory(path: Path) -> None:
    """Make it before anything runs, so that an evaluation is not lost to a path that cannot be written."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--output {path}: it exists already; name a directory that does not") from None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be made: {error.strerror}") from error


def _refusals() -> tuple[type[Exception], ...]:
    """Error classes of other modules that are also something the user can fix."""
    from cluster.records.checkpoints import CheckpointError
    from cluster.records.run_directory import RunDirectoryError

    return UsageError, RunDirectoryError, CheckpointError, ConnectionError


def main() -> None:
    """Entry point of the console script `bonrl`."""
    try:
        if sys.argv[1:] != ["--version"]:  # which is asked for where the installation is broken
            check_packages()
        app()
    except Exception as error:
        refusals = (UsageError,) if isinstance(error, UsageError) else _refusals()
        if not isinstance(error, refusals):
            raise
        for line in str(error).splitlines():
            typer.echo(f"bonrl: {line}", err=True)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
