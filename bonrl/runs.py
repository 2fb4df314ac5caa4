"""`train` and `evaluate`: the commands `bonrl train` and `bonrl eval`, from Python."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import UsageError
from cluster.exit_status import COMPLETED, INTERRUPTED, REFUSED
from verifiers.user_code import PICKLE, loading

_TAIL_LINES = 40
_Layer = str | Path | Mapping[str, Any]
Config = _Layer | Sequence[_Layer] | None


class RunFailed(RuntimeError):
    """A run failed after it had started. The message is what it printed last.

    Attributes:
        directory: The run directory, with everything recorded so far; None for an evaluation.
    """

    def __init__(self, message: str, directory: Path | None = None) -> None:
        super().__init__(message)
        self.directory = directory


@dataclass(frozen=True)
class TrainedRun:
    """A run that completed: it reached its last step, or stopped early (``evaluation.patience``).

    Attributes:
        directory: The run directory.
        model: The trained model, a Hugging Face directory.
        metrics: The last value of every metric (docs/metrics.md).
        summary: The run's summary.json: evaluations, differences from the base model, warnings.
    """

    directory: Path
    model: Path
    metrics: dict[str, float] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)

    def results(self) -> Any:
        """Curves, groups and samples of the run; see `bonrl.load_run`."""
        from cluster.results import load_run

        return load_run(self.directory)


def train(
    config: Config = None,
    *,
    reward: str | Callable[..., Any] | None = None,
    resume: str | Path | None = None,
    resume_or_start: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> TrainedRun:
    """Train a model, as `bonrl train` does, and wait for the end.

    Args:
        config: A YAML file, a dict of its sections, or a list of them, of which a later one wins, key by key, as with
            repeated ``-c``. None: the defaults.
        reward: Replaces the task's verifier: a function, or a reference as in ``task.reward``. A function of an
            imported module travels by reference; one of the script or notebook itself by value (cloudpickle).
        resume: A run directory to continue; leave `config` out then.
        resume_or_start: Continue the run that ``run.name`` names if it has a checkpoint, and start it otherwise.
        quiet: Whether to print nothing.
        **overrides: Keys of the configuration: ``objective={"k": 8}`` or ``**{"objective.k": 8}``.

    Returns:
        The finished run.

    Raises:
        UsageError: Refused, and nothing was started; the message names the key and the remedy.
        RunFailed: It failed after it had started.
        KeyboardInterrupt: It was interrupted; it has saved a checkpoint if there was time.

    >>> run = bonrl.train("my.yaml", reward=score, objective={"k": 8})   # doctest: +SKIP
    """
    keys = _flat(overrides)
    if resume is not None:
        if config is not None:
            raise UsageError("resume continues a run with its own configuration; leave config out")
        directory = Path(resume).expanduser()
        source = ["--resume", str(directory)]
        layers: list[_Layer] = []
    else:
        layers = _layers(config) or [{}]
        directory = _run_directory(layers, keys)
        source = []
        if not resume_or_start:  # it needs a name that stays the same; the command refuses it without one
            keys["run.name"] = directory.name
    source += ["--resume-or-start"] if resume_or_start else []
    if reward is not None:
        keys["task.reward"] = reward if isinstance(reward, str) else _reference(reward, directory.parent)
    with _config_files(layers) as options:
        _command(["train", *options, *source, *_overrides(keys)], directory, quiet=quiet)
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return TrainedRun(directory, Path(summary.get("model", "")), _last_metrics(directory), summary)


def evaluate(
    checkpoint: str | Path,
    config: Config = None,
    *,
    best: bool = False,
    n: int | None = None,
    temperature: float | Sequence[float] | None = None,
    reward: str | Callable[..., Any] | None = None,
    output: str | Path | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> list[dict[str, float]]:
    """Measure a model on held-out prompts, as `bonrl eval` does.

    Args:
        checkpoint: A run directory, a checkpoint, or a Hugging Face model directory.
        config: As in `train`; None: the run's own.
        best: Whether to use the run's best evaluated checkpoint (``evaluation.keep_best``), not the newest.
        n: Samples of each prompt.
        temperature: Of sampling; several for several evaluations.
        reward: As in `train`.
        output: A directory that gets the graded groups.
        quiet: Whether to print nothing.
        **overrides: As in `train`.

    Returns:
        For each temperature its metrics: ``eval/pass@8``, ``eval/pass@8_low``, ...

    Raises:
        UsageError, RunFailed, KeyboardInterrupt: As `train`.
    """
    keys = _flat(overrides)
    options = ["--best"] if best else []
    options += [] if n is None else ["--n", str(n)]
    given = _plain(temperature)
    several = given if isinstance(given, list) else [] if given is None else [given]
    options += [word for value in several for word in ("--temperature", str(value))]
    with tempfile.TemporaryDirectory(prefix="bonrl-") as scratch:
        if reward is not None:
            keys["task.reward"] = reward if isinstance(reward, str) else _reference(reward, Path(scratch))
        target = Path(output).expanduser() if output is not None else Path(scratch) / "evaluation"
        with _config_files(_layers(config)) as source:
            words = ["eval", "--checkpoint", os.path.expanduser(checkpoint), "--output", str(target), *source, *options]
            _command([*words, *_overrides(keys)], None, quiet=quiet)
        rows: list[dict[str, float]] = json.loads((target / "evaluation.json").read_text(encoding="utf-8"))[
            "evaluations"
        ]
    return rows


def _layers(config: Config) -> list[_Layer]:
    """The configurations, of which a later one wins."""
    if config is None:
        return []
    return [config] if isinstance(config, str | Path | Mapping) else list(config)


def _tree(layer: _Layer) -> Mapping[str, Any]:
    if isinstance(layer, Mapping):
        return layer
    from cluster.config.yaml_reader import read_yaml

    return read_yaml(Path(layer))


def _run_directory(layers: Sequence[_Layer], keys: Mapping[str, Any]) -> Path:
    """Where the run will be: as the configurations and the overrides `keys` say, or with a free name."""
    sections = [_tree(layer).get("run") for layer in layers]
    run: dict[str, Any] = {}
    for section in sections:
        run |= section if isinstance(section, Mapping) else {}  # anything else is refused by the command
    run |= {key.removeprefix("run."): value for key, value in keys.items() if key.startswith("run.")}
    base = os.path.expanduser(str(run.get("directory") or "runs"))
    return Path(base) / str(run.get("name") or _free_name(base))


def _flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sections given as dicts become dotted keys."""
    keys: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping) and "." not in name:
            keys |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            keys[name] = value
    return keys


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    try:
        return [f"{key}={json.dumps(_plain(value))}" for key, value in keys.items()]
    except TypeError as error:
        raise UsageError(f"a value of the configuration is no YAML value: {error}") from error


def _plain(value: Any) -> Any:
    """Paths as text, NumPy's numbers as Python's, sequences and arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


@contextmanager
def _config_files(layers: Sequence[_Layer]) -> Iterator[list[str]]:
    """The options --config: the files among the configurations, and files that hold the others."""
    with ExitStack() as files:
        yield [
            word
            for layer in layers
            for word in ("--config", files.enter_context(_written(layer)) if isinstance(layer, Mapping) else str(layer))
        ]


@contextmanager
def _written(tree: Mapping[str, Any]) -> Iterator[str]:
    """The name of a temporary file that holds `tree`."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="bonrl-", encoding="utf-8") as file:
        try:
            yaml.safe_dump(_plain(tree), file, sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            raise UsageError(f"the configuration holds a value that is no YAML value: {error}") from error
        file.flush()
        yield file.name


def _free_name(directory: str) -> str:
    """A time stamp that no run in the directory has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (stamp if attempt == 0 else f"{stamp}-{attempt}" for attempt in range(1000))
    return next(name for name in names if not (Path(directory) / name).exists())


def _reference(function: Callable[..., Any], directory: Path) -> str:
    """A reference to a function that other processes can load."""
    module = getattr(function, "__module__", "__main__")
    name = getattr(function, "__qualname__", "")
    loaded = sys.modules.get(module)
    found: Any = loaded
    for part in name.split("."):
        found = getattr(found, part, None)
    if module != "__main__" and found is function and name:
        file = inspect.getsourcefile(function)
        return f"{Path(file).resolve()}:{name}" if file else f"{module}:{name}"
    import cloudpickle

    try:
        data = cloudpickle.dumps(function)
    except Exception as error:  # pickling runs the code of every object that the function refers to
        raise UsageError(
            f"the reward {name or function!r} cannot be pickled ({error}); put it into a file and give "
            "reward='path/to/file.py:name'"
        ) from error
    folder = (directory / "rewards").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = (
        folder
        / f"{getattr(function, '__name__', 'reward').strip('<>')}-{hashlib.sha256(data).hexdigest()[:12]}{PICKLE}"
    )
    path.write_bytes(data)
    return f"{path}:reward"


def _command(words: Sequence[str], directory: Path | None, *, quiet: bool) -> None:
    """Run a command of bonrl, and print what it prints.

    Raises:
        UsageError, RunFailed, KeyboardInterrupt: It did not complete.
    """
    if loading:
        raise RuntimeError(
            f"{loading[-1]} starts a run while it is loaded as user code; put the call under "
            "`if __name__ == '__main__':`"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "bonrl.process", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_own_paths()), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C reaches it once, from here
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    status = _wait(process, tail, quiet=quiet)
    if status == INTERRUPTED:
        raise KeyboardInterrupt(tail[-1] if tail else "")
    if status == REFUSED:
        refused = [line.removeprefix("bonrl: ") for line in tail if line.startswith("bonrl: ")]
        raise UsageError("\n".join(refused) or "\n".join(tail))
    if status != COMPLETED:
        raise RunFailed("\n".join(tail), directory if directory is not None and directory.is_dir() else None)


def _wait(process: subprocess.Popen[str], tail: deque[str], *, quiet: bool) -> int:
    """The exit status of a command at its end; its output goes to `tail` and, unless `quiet`, to the terminal.

    Ctrl-C is passed on, and gives INTERRUPTED whatever the command's own status is.
    """
    assert process.stdout is not None
    interrupted = False
    while True:
        try:
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                if not quiet:
                    print(line, end="", flush=True)
            status = process.wait()  # deadline: it has closed its output
            return INTERRUPTED if interrupted else status
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise


def _own_paths() -> list[str]:
    """Import paths of this process that are not of the Python installation: the script's directory, the checkout."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed.append(site.getusersitepackages())
    here = [str(Path(__file__).resolve().parents[1])]  # a checkout, or a directory of installed packages
    paths = [os.path.abspath(path) for path in sys.path if not path.endswith(".zip")]
    # Folders inside the installation too: setuptools adds one with its own old copies of packages.
    own = [path for path in paths if not any(Path(path).is_relative_to(place) for place in installed)]
    return list(dict.fromkeys([*own, *here]))


def _last_metrics(directory: Path) -> dict[str, float]:
    from cluster.records.run_directory import read_metrics

    return {name: value for row in read_metrics(directory) for name, value in row.items()}
