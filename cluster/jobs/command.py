"""What a submitted job runs: the shell command, the configuration and the files that go with it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.checks.ray_cluster import stated_problems
from cluster.config import RunConfig, apply_override, build_config, load_config
from cluster.config.input_paths import CODE_KEYS, INPUT_KEYS, PLUGINS, output_paths, value_at
from cluster.config.settings import RunSettings
from cluster.config.yaml_reader import read_yaml
from cluster.errors import UsageError
from cluster.jobs.named_files import exists, files_of_entrypoint, named_files, split_words
from cluster.jobs.packaging import CONFIG_NAME
from cluster.launch.demand import requirement
from cluster.records import kept_files
from cluster.records.input_files import keys_with_copies
from cluster.records.model_source import config_of_run, recorded_tree
from cluster.records.named_run import named_run

# Commands of bonrl besides train, with the options that name what they write. Those that read a run take no
# configuration, and those of RECORDED take by default that of the run which an option names.
COMMANDS = {"eval": ("--output", "-o"), "sft": ("--output", "-o"), "train-verifier": ("--output", "-o")}
READING = {
    "report": ("--output", "-o"),
    "samples": ("--json",),
    "compare": ("--json", "--figure"),
    "logs": (),
    "export": ("--to",),
}
RECORDED = {"eval": "--checkpoint", "train-verifier": "--samples"}
_HERE = ("--open", "--live")  # of report: they need a browser on the machine that runs it
_ON_CLUSTER = "cluster.address=auto"  # the driver runs inside the cluster
_OF_SUBMIT = ("--config", "-c", "--address", "-a", "--env")
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=.*", re.DOTALL)
_OPTION = re.compile(r"(--[a-z-]+)=(.*)", re.DOTALL)

# Of the submitter. A key goes with the address of the server that it is for.
FORWARDED = ("WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")
_OF_MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Job:
    """One job to submit.

    Attributes:
        command: shell command. `python` is the cluster's: start Ray from the environment that has the packages.
        config: travels resolved, so that the job cannot resolve it differently. A nested mapping: what is known here
            of the configuration that the job reads there.
        files: relative paths to pack, by their names in messages.
        start_s: seconds for the job to start.
        resources: of Ray, where the command itself computes and not only its actors: `GPU`, and that of a role.
    """

    command: str
    config: RunConfig | Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 300.0
    resources: Mapping[str, float] = field(default_factory=dict)


def make_job(
    config: Sequence[Path] | None,
    default: Path,
    overrides: Sequence[str],
    *,
    dry_run: bool = False,
    entrypoint: str | None = None,
    command: str | None = None,
    resume: Path | None = None,
    replay: Path | None = None,
    resume_or_start: bool = False,
) -> Job:
    """The job that the options of `bonrl submit` mean; `config` is None or empty where the option is not given.

    Raises:
        UsageError: options that exclude each other, a cluster that is stated to be too small for the run, or results
            that would be lost with Ray's copy of the job.
    """
    options = {"--entrypoint": entrypoint, "--command": command, "--resume": resume, "--replay": replay}
    given = [name for name, value in options.items() if value is not None]
    given += ["--resume-or-start"] if resume_or_start else []
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each say what the job runs: give only one of them")
    if dry_run and (command is not None or entrypoint is not None):
        raise UsageError(
            f"--dry-run checks a training run; with {given[0]} the job would really run: leave one of them out"
        )
    if resume or replay:
        if config:
            raise UsageError(f"{given[0]} takes the run's own configuration: leave --config out")
        return _earlier(given[0], resume or replay or Path(), overrides, dry_run=dry_run)
    if command is not None:
        return _bonrl_command(command, config, default, overrides)
    resolved = _on_cluster(load_config(config or default, overrides))
    start_s = resolved.deadlines.start_s
    if entrypoint is not None:
        files = files_of_entrypoint(entrypoint)
        # The script may read them.
        files |= {f"--config {one}": str(one) for one in config or () if not one.is_absolute()}
        return Job(entrypoint, resolved, files, start_s)
    if problems := list(stated_problems(resolved)):
        raise UsageError("\n".join(problems))
    if not dry_run:
        _absolute("run.directory", resolved.run.directory)
    words = ["train", "--config", CONFIG_NAME]
    if resume_or_start:
        named_run(resolved)
        words.append("--resume-or-start")
    return Job(_python(*words, *(["--dry-run"] if dry_run else [])), resolved, {}, start_s)


def _python(*words: str) -> str:
    return shlex.join(["python", "-m", "cluster.cli", *words])


def _earlier(option: str, run: Path, overrides: Sequence[str], *, dry_run: bool) -> Job:
    """Go on with a run, or train on its groups; the configuration is read where the run is."""
    files = {}
    known = _known(_record_of(run), overrides, kept_by=run)
    if option == "--resume" or run.is_absolute():
        _absolute(option, str(run))
    else:
        if not (run / "config.yaml").is_file():
            raise UsageError(
                f"{option} {run}: no config.yaml there, so it is not a run directory; give one like runs/NAME"
            )
        files = {f"{option} {run}": str(run / "config.yaml"), f"groups of {run}": str(run / "groups")}
        files |= {f"{name} of {run}": str(run / name) for name in kept_files.NAMES if (run / name).exists()}
        _absolute("run.directory", str(value_at(known, "run.directory") or RunSettings().directory))
    words = ["train", option, str(run), *overrides, _ON_CLUSTER, *(["--dry-run"] if dry_run else [])]
    return Job(_python(*words), known, files)


def _record_of(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    return read_yaml(file) if file.is_file() else {}


def _known(
    tree: dict[str, Any], overrides: Sequence[str], *, kept_by: Path | None = None, unused: Sequence[str] = ()
) -> dict[str, Any]:
    """The part of a configuration that is known here, although the job reads it on the cluster, with the overrides.

    Args:
        tree: of the record; empty where it cannot be read here.
        kept_by: the run with this record. Its user code stays out of the result, because it has a copy of it; so do
            inputs of which it has a copy, unless they are here.
        unused: keys that the command does not read.
    """
    kept = keys_with_copies(kept_by) if kept_by else ()
    missing = [key for key in kept if not exists(Path(str(value_at(tree, key))))]
    copied = [key for key in INPUT_KEYS if any(f"{each}.".startswith(f"{key}.") for each in missing)]  # whole lists
    for key in (*((PLUGINS, *CODE_KEYS) if kept_by else ()), *copied, *unused):
        _remove(tree, key)
    for override in overrides:
        apply_override(tree, override)
    return tree


def _remove(tree: dict[str, Any], key: str) -> None:
    """Remove a dotted key, if the mapping has it."""
    above, _, name = key.rpartition(".")
    section = value_at(tree, above) if above else tree
    if isinstance(section, dict):
        section.pop(name, None)


def _bonrl_command(command: str, config: Sequence[Path] | None, default: Path, overrides: Sequence[str]) -> Job:
    words = split_words(command)
    outputs = (COMMANDS | READING).get(words[0]) if words else None
    if outputs is None:
        raise UsageError(
            f"--command {command!r}: it must begin with {', '.join(COMMANDS | READING)}; without --command, submit "
            "runs train"
        )
    name, separate = words[0], [part for word in words for part in _option_and_value(word)]
    for option, value in pairwise(separate):
        if option in outputs and value != "-":
            _absolute(f"--command {name}: {option}", value)
    for word in separate[1:]:
        if word in _OF_SUBMIT or _OVERRIDE.fullmatch(word):
            raise UsageError(f"--command {name}: {word} is an option of submit itself; give it outside of --command")
    if name in READING:
        return _reading(words, separate, [*(["--config"] if config else []), *overrides])
    files = named_files("--command", separate)
    if not config and (known := _recorded(separate, overrides)) is not None:
        needs = {"GPU": 1.0} if name == "train-verifier" and value_at(known, "learner.gpus_per_rank") else {}
        return Job(_python(*words, *overrides, _ON_CLUSTER), known, files, resources=needs)
    if name == "sft" and "--resume" in words:  # it reads what it recorded when it started
        if config:
            raise UsageError("--command sft --resume takes its own configuration: leave --config out")
        given: dict[str, Any] = {}
        for override in overrides:
            apply_override(given, override)
        return Job(_python(*words, *overrides), given, files)
    resolved = _on_cluster(load_config(config or default, overrides))
    needs = _own_resources(resolved) if name == "train-verifier" else {}
    return Job(_python(*words, "--config", CONFIG_NAME), resolved, files, resolved.deadlines.start_s, needs)


def _own_resources(config: RunConfig) -> dict[str, float]:
    """The GPU for a command that trains in the job's own process, where the configuration gives the learner GPUs.

    Without it Ray starts the command on the head node, which may have none.
    """
    return {"GPU": 1.0, **requirement(config, "learner")} if config.learner.gpus_per_rank else {}


def _reading(words: Sequence[str], separate: Sequence[str], unused: Sequence[str]) -> Job:
    """A command that reads runs on storage of the cluster."""
    name = words[0]
    if unused:
        raise UsageError(f"--command {name} reads a run and takes no configuration: leave {unused[0]} out")
    if shown := [word for word in _HERE if word in separate]:
        raise UsageError(f"--command {name}: {shown[0]} shows the page where the command runs: leave it out")
    if not any(map(os.path.isabs, separate)):
        raise UsageError(
            f"--command {name} reads runs on the cluster, so give the absolute path of one, such as /shared/runs/NAME; "
            f"a run that this machine sees needs no submit: bonrl {name}"
        )
    return Job(_python(*words), {}, named_files("--command", separate) if name == "compare" else {})


def _recorded(separate: Sequence[str], overrides: Sequence[str]) -> dict[str, Any] | None:
    """What is known of the configuration that an earlier run recorded for the command.

    None if it takes no such configuration: the samples are here, and no run wrote them.
    """
    name = separate[0]
    if name not in RECORDED:
        return None
    source = Path(next((value for option, value in pairwise(separate) if option == RECORDED[name]), ""))
    if not source.name:  # the option is missing, which the command itself says
        return None
    config = config_of_run(source) if source.exists() else None
    run = config.parent if config else None
    if name == "eval":  # --checkpoint is the model
        return _known(_record_of(run) if run else {}, overrides, kept_by=run, unused=["model.path"])
    tree = recorded_tree(source)
    if tree is None and source.exists():
        return None
    unused = ["task.scorer.path", *([] if "--split" in separate else ["task"])]  # --split reads its prompts
    unused += ["model.path"] if {"--backbone", "--refresh"} & set(separate) else []
    return _known(tree or {}, overrides, kept_by=run, unused=unused)


def _option_and_value(word: str) -> list[str]:
    found = _OPTION.fullmatch(word)
    return list(found.groups()) if found else [word]


def _on_cluster(config: RunConfig) -> RunConfig:
    if store := output_paths(config).get("mlflow.tracking_uri"):
        _absolute("mlflow.tracking_uri", store)
    tree = config.to_mapping()
    tree["cluster"]["address"] = "auto"
    return build_config(tree)


def _absolute(what: str, path: str) -> None:
    if not os.path.isabs(path):
        raise UsageError(
            f"{what} = {path}: on a cluster a relative path is in Ray's temporary copy of the job and is lost with it; "
            "give an absolute path on storage that every node sees"
        )


def environment(
    requests: Sequence[str], source: Mapping[str, str] = os.environ, *, tree: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Variables of the job: keys of wandb and Hugging Face that are set here, and `NAME` or `NAME=VALUE` as requested.

    Args:
        tree: what is known here of the configuration. Where it names an MLflow server, the keys of MLflow are sent too.

    Raises:
        UsageError: no name, or a name without a value that is not set here. No message holds a value.
    """
    sent = (*FORWARDED, *(_OF_MLFLOW if value_at(tree or {}, "mlflow.tracking_uri") else ()))
    found = {name: source[name] for name in sent if source.get(name)}
    for request in requests:
        name, equals, value = request.partition("=")
        if not _NAME.fullmatch(name):
            raise UsageError(f"--env: {name!r} is not a variable name; give NAME or NAME=VALUE")
        if not equals and name not in source:
            raise UsageError(f"--env {name}: it is not set here; set it, or give --env {name}=VALUE")
        found[name] = value if equals else source[name]
    return found
