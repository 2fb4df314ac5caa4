"""Reads a configuration: a YAML file and overrides of the command line become a `RunConfig`.

`load_config` raises `ConfigError` with every problem it found. It starts nothing and imports neither torch nor Ray nor
vLLM, so a wrong key costs a fraction of a second.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.config.explanations import problem_lines
from cluster.config.layers import Layers
from cluster.config.tree import RunConfig, key_paths, section_of
from cluster.config.yaml_reader import ConfigError, apply_override, read_yaml
from verifiers.credentials import has_credentials

_MAX_PROBLEMS = 20


def load_config(path: str | Path | Sequence[Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides and validate.

    Args:
        path: of the file; or of several, of which a later one wins, key by key. A value that is a list or a mapping
            (`plugins`, `learner.lora`, `cluster.node_types`) is one value.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, wrong type, value out of range, impossible combination.
            With several files, each line says which of them set the keys that it names.
    """
    from cluster.config.input_paths import expand_home, unexpanded_variables  # late: it imports this module

    paths = [_moved(Path(one)) for one in ([path] if isinstance(path, str | Path) else path)]
    files = Layers(name for name, info in key_paths().items() if section_of(info))
    for one in paths:
        layer, earlier = read_yaml(one), _model_path(files.tree)
        files.add(str(one), layer)
        _forget_size(files.tree, earlier, {key for key, _ in dotted_keys(layer)})
    earlier = _model_path(files.tree)
    for override in overrides:
        apply_override(files.tree, override)
        files.set_by("an override", override.partition("=")[0].strip())
    _forget_size(files.tree, earlier, {override.partition("=")[0].strip() for override in overrides})
    expand_home(files.tree)
    try:
        if problems := list(unexpanded_variables(files.tree)):
            raise ConfigError("\n".join(problems))
        return build_config(files.tree)
    except ConfigError as error:
        if len(paths) == 1:
            raise
        raise ConfigError("\n".join(map(files.with_sources, str(error).split("\n")))) from error


def _model_path(tree: Mapping[str, Any]) -> str | None:
    """`model.path` in the form in which equal paths are equal."""
    model = tree.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    return None if path is None else os.path.normpath(os.path.expanduser(str(path)))


def _forget_size(tree: Mapping[str, Any], earlier: str | None, keys: Collection[str]) -> None:
    """Remove the model's size, which earlier layers set, if the last layer names another model without its size.

    Args:
        earlier: `_model_path` before the last layer.
        keys: that the last layer sets.
    """
    model = tree.get("model")
    own = not {"model", "model.parameters_billions"}.isdisjoint(keys)  # an override may set the whole section
    if isinstance(model, dict) and _model_path(tree) != earlier and not own:
        model.pop("parameters_billions", None)


def _moved(path: Path) -> Path:
    """Where a configuration that came with bonrl is now: until 0.1 the presets were in cluster/ itself."""
    now = path.parent / "presets" / path.name
    if path.exists() or path.parent.name != "cluster" or not now.is_file():
        return path
    print(f"{path} has moved: reading {now}", file=sys.stderr)
    return now


def build_config(tree: Mapping[str, Any]) -> RunConfig:
    """Validate a nested mapping; every problem of the same kind is reported at once.

    Raises:
        ConfigError: as `load_config`.
    """
    tree = {name: value for name, value in tree.items() if value is not None}  # `run:` with nothing below it
    if problems := _credentials(tree):  # first, so that no other message repeats them
        raise ConfigError("\n".join(shortened(problems)))
    config: RunConfig | None = None
    items: list[Any] = _flags_for_numbers(tree)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        items += error.errors()
    if config is not None and not items:
        return config
    raise ConfigError("\n".join(shortened(problem_lines(items))))


def _flags_for_numbers(tree: Mapping[str, Any]) -> list[Any]:
    """Errors for true and false where a number or text is wanted, which only strict validation refuses.

    The values themselves are validated less strictly, because YAML 1.1 reads 1e-4 as text. JSON is the mode in which
    strict validation takes a list for a tuple.
    """
    try:
        RunConfig.model_validate_json(json.dumps(tree, default=str, skipkeys=True), strict=True)
    except ValidationError as error:
        return [item for item in error.errors() if isinstance(item["input"], bool)]
    return []


def _credentials(tree: Mapping[str, Any]) -> list[str]:
    """A line for each key whose value has an address with credentials: every record of the run would hold them."""
    return [
        f"{key}: holds an address with a user's name, a password or a token, which would be copied into every record "
        f"of the run; leave it out, and {_WHERE_CREDENTIALS_GO.get(key, 'put it into an environment variable')}"
        for key, value in dotted_keys(tree)
        if has_credentials(value)
    ]


_WHERE_CREDENTIALS_GO = {
    "mlflow.tracking_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "task.reward": "put a token into an environment variable, which task.reward_token_variable names",
}


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are."""
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested mapping with their values; an empty mapping is a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
