"""What a submitted job runs: the shell command, the configuration and the files that go with it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.checks.preflight import ROOT
from cluster.commands.options import load_earlier
from cluster.commands.packaging import CONFIG_NAME
from cluster.config import RunConfig, build_config, load_config
from cluster.errors import UsageError

COMMANDS = ("eval", "sft", "train-verifier")  # of bonrl, besides train
_ON_CLUSTER = "cluster.address=auto"  # the driver runs inside the cluster
_OUTPUTS = ("--output", "-o")
_OPTION = re.compile(r"(--[a-z-]+)=(.*)", re.DOTALL)
_FILE = re.compile(r"[\w./-]+\.(py|sh|ya?ml|jsonl?|toml|txt|parquet)")

# Of the submitter. A key goes with the address of the server that it is for.
FORWARDED = ("WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN", "HF_ENDPOINT")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Job:
    """One job to submit.

    Attributes:
        command: shell command. `python` is the cluster's: start Ray from the environment that has the packages.
        config: travels resolved, so that the job cannot resolve it differently; None: the job reads one there.
        files: relative paths to pack, by their names in messages.
        start_s: seconds for the job to start.
    """

    command: str
    config: RunConfig | None
    files: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 300.0


def make_job(
    config: Path | None,
    default: Path,
    overrides: Sequence[str],
    *,
    dry_run: bool = False,
    entrypoint: str | None = None,
    command: str | None = None,
    resume: Path | None = None,
    replay: Path | None = None,
) -> Job:
    """The job that the options of `bonrl submit` mean; `config` is None where the option is not given.

    Raises:
        UsageError: options that exclude each other, or results that would be lost with Ray's copy of the job.
    """
    options = {"--entrypoint": entrypoint, "--command": command, "--resume": resume, "--replay": replay}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each say what the job runs: give one of them")
    if resume or replay:
        if config is not None:
            raise UsageError(f"{given[0]} takes the run's own configuration: leave --config out")
        return _earlier(given[0], resume or replay or Path(), overrides, dry_run=dry_run)
    resolved = _on_cluster(load_config(config or default, overrides))
    start_s = resolved.deadlines.start_s
    if entrypoint is not None:
        return Job(entrypoint, resolved, _named_files("--entrypoint", _words(entrypoint)), start_s)
    if command is not None:
        return _bonrl_command(command, config, overrides, resolved)
    if not dry_run:
        _absolute("run.directory", resolved.run.directory)
    return Job(_python("train", "--config", CONFIG_NAME, *(["--dry-run"] if dry_run else [])), resolved, {}, start_s)


def _python(*words: str) -> str:
    return shlex.join(["python", "-m", "cluster.cli", *words])


def _earlier(option: str, run: Path, overrides: Sequence[str], *, dry_run: bool) -> Job:
    """Go on with a run, or train on its groups; the configuration is read where the run is."""
    files = {}
    if option == "--resume" or run.is_absolute():
        _absolute(option, str(run))
    else:
        files = {f"{option} {run}": str(run / "config.yaml"), f"groups of {run}": str(run / "groups")}
        earlier = _on_cluster(load_earlier(option, run, overrides, fetch=False))
        _absolute("run.directory", earlier.run.directory)
    words = ["train", option, str(run), *overrides, _ON_CLUSTER, *(["--dry-run"] if dry_run else [])]
    return Job(_python(*words), None, files)


def _bonrl_command(command: str, config: Path | None, overrides: Sequence[str], resolved: RunConfig) -> Job:
    words = _words(command)
    if not words or words[0] not in COMMANDS:
        raise UsageError(f"--command {command!r}: begin with {', '.join(COMMANDS)}; train is what runs without it")
    separate = [part for word in words for part in _option_and_value(word)]
    for option, value in zip(separate, separate[1:], strict=False):
        if option in _OUTPUTS:
            _absolute(f"--command {words[0]}: {option}", value)
    files = _named_files("--command", separate)
    if words[0] == "eval" and config is None:  # the configuration of the run that is evaluated
        return Job(_python(*words, *overrides, _ON_CLUSTER), None, files, resolved.deadlines.start_s)
    return Job(_python(*words, "--config", CONFIG_NAME), resolved, files, resolved.deadlines.start_s)


def _option_and_value(word: str) -> list[str]:
    found = _OPTION.fullmatch(word)
    return list(found.groups()) if found else [word]


def _on_cluster(config: RunConfig) -> RunConfig:
    tree = config.to_mapping()
    tree["cluster"]["address"] = "auto"
    return build_config(tree)


def _absolute(what: str, path: str) -> None:
    if not os.path.isabs(path):
        raise UsageError(
            f"{what} = {path}: on a cluster a relative path is in Ray's temporary copy of the job and is lost with it; "
            "give an absolute path on storage that every node sees"
        )


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the command {command!r} cannot be split into words: {error}; close its quotes") from error


def _named_files(option: str, words: Sequence[str]) -> dict[str, str]:
    """The words of a command that are existing relative paths, to be packed. What looks like a file must exist."""
    files = {}
    for word in words:
        path = Path(word)
        if os.path.isabs(word) or not path.parts or not word.strip():
            continue
        if _exists(path) or (_FILE.fullmatch(word) and not _exists(ROOT / path) and word != CONFIG_NAME):
            files[f"{option}: {word}"] = word
    return files


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a piece of program text, too long for a name
        return False


def environment(requests: Sequence[str], source: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of the job: keys of wandb and Hugging Face that are set here, and `NAME` or `NAME=VALUE` as requested.

    Raises:
        UsageError: no name, or a name without a value that is not set here. No message holds a value.
    """
    found = {name: source[name] for name in FORWARDED if source.get(name)}
    for request in requests:
        name, equals, value = request.partition("=")
        if not _NAME.fullmatch(name):
            raise UsageError(f"--env: {name!r} is no name of a variable; give NAME or NAME=VALUE")
        if not equals and name not in source:
            raise UsageError(f"--env {name}: it is not set here; set it, or give --env {name}=VALUE")
        found[name] = value if equals else source[name]
    return found
