"""The configuration of a run: one typed tree, composed of the sections that each package defines for itself.

`load_config` turns a YAML file and command-line overrides into a `RunConfig` or raises `ConfigError` with every
problem it found: the dotted key, the value, what is wrong with it and the remedy. It starts nothing and imports
neither torch nor Ray nor vLLM, so a wrong key costs a fraction of a second.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from actors.plugins import load_plugins
from actors.settings import (
    ActorsSettings,
    BroadcastSettings,
    DeadlineSettings,
    QueueSettings,
    RolloutSettings,
    SamplerSettings,
    SupervisionSettings,
)
from cluster.config.cluster_settings import ClusterSettings
from cluster.config.layers import Layers
from cluster.config.other_names import OTHER_NAMES, VERL_SECTIONS
from cluster.config.rules import cross_section_problems
from cluster.config.settings import (
    AgreementSettings,
    CheckpointSettings,
    EvaluationSettings,
    MlflowSettings,
    ModelSettings,
    RunSettings,
    WandbSettings,
)
from cluster.config.wording import spelled, wanted
from cluster.config.yaml_reader import ConfigError, apply_override, brief, read_yaml
from learner.objective_settings import ObjectiveSettings
from learner.schedule import ScheduleSettings
from learner.section import Section
from learner.settings import LearnerSettings, LossSettings
from verifiers.credentials import has_credentials
from verifiers.settings import TaskSettings

_MAX_PROBLEMS = 20


class RunConfig(Section):
    """The whole configuration of a run."""

    # First, because the fields are validated in order, and later sections name what plugins register.
    plugins: tuple[str, ...] = Field(
        (),
        description="Your own Python files or modules that register strategies, estimators, tasks or scorers, such "
        "as `[my_strategy.py]`. The driver and the actors load them. See docs/bring-your-own.md.",
    )
    run: RunSettings = Field(default_factory=RunSettings, description="Name, place and length of the run.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The model that is trained.")
    task: TaskSettings = Field(default_factory=TaskSettings, description="Problems and their grader.")
    rollout: RolloutSettings = Field(default_factory=RolloutSettings, description="What one step samples.")
    objective: ObjectiveSettings = Field(
        default_factory=ObjectiveSettings, description="The inference strategy that training optimizes."
    )
    schedule: ScheduleSettings = Field(
        default_factory=ScheduleSettings, description="Values that change during the run: k, n, temperature, KL."
    )
    loss: LossSettings = Field(default_factory=LossSettings, description="The per-token policy loss.")
    learner: LearnerSettings = Field(
        default_factory=LearnerSettings, description="DeepSpeed ranks, AdamW, micro-batches."
    )
    actors: ActorsSettings = Field(default_factory=ActorsSettings, description="How many actors of each kind.")
    sampler: SamplerSettings = Field(default_factory=SamplerSettings, description="One sampler's vLLM engine.")
    queue: QueueSettings = Field(default_factory=QueueSettings, description="How far sampling may run ahead.")
    broadcast: BroadcastSettings = Field(
        default_factory=BroadcastSettings, description="How weights get from the learner to the samplers."
    )
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="pass@k on held-out prompts."
    )
    checkpoint: CheckpointSettings = Field(
        default_factory=CheckpointSettings, description="When to save, how much to keep."
    )
    tracking: tuple[Literal["wandb", "tensorboard", "mlflow"], ...] = Field(
        ("wandb",),
        description="Where metrics are sent, in addition to the terminal and metrics.jsonl: wandb (see wandb.mode), "
        "tensorboard (files in `tensorboard/` of the run), mlflow (see mlflow.tracking_uri); [] for none.",
    )
    wandb: WandbSettings = Field(default_factory=WandbSettings, description="Weights & Biases.")
    mlflow: MlflowSettings = Field(default_factory=MlflowSettings, description="MLflow: where runs are logged.")
    deadlines: DeadlineSettings = Field(
        default_factory=DeadlineSettings, description="Seconds after which a wait ends with a message."
    )
    supervision: SupervisionSettings = Field(
        default_factory=SupervisionSettings, description="Replacing actors that die or hang."
    )
    agreement: AgreementSettings = Field(
        default_factory=AgreementSettings, description="How closely sampler and learner must agree."
    )
    cluster: ClusterSettings = Field(default_factory=ClusterSettings, description="Where the actors run.")

    @field_validator("plugins")
    @classmethod
    def _loaded(cls, plugins: tuple[str, ...]) -> tuple[str, ...]:
        load_plugins(plugins)
        return plugins

    @model_validator(mode="after")
    def _sections_fit(self) -> RunConfig:
        problems = cross_section_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def to_mapping(self) -> dict[str, Any]:
        """The resolved configuration as plain YAML types, every default included."""
        return self.model_dump(mode="json")


def load_config(path: str | Path | Sequence[Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides and validate.

    Args:
        path: of the file; or of several, of which a later one wins, key by key. A value that is a list or a mapping
            (`plugins`, `learner.lora`, `cluster.node_types`) is one value.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, wrong type, value out of range, impossible combination.
            With several files, each line says which of them set the keys that it names.
    """
    from cluster.config.input_paths import expand_home  # late: it imports this module

    paths = [_moved(Path(one)) for one in ([path] if isinstance(path, str | Path) else path)]
    files = Layers(name for name, info in key_paths().items() if section_of(info))
    for one in paths:
        files.add(str(one), read_yaml(one))
    for override in overrides:
        apply_override(files.tree, override)
        files.set_by("an override", override.partition("=")[0].strip())
    expand_home(files.tree)
    try:
        return build_config(files.tree)
    except ConfigError as error:
        if len(paths) == 1:
            raise
        raise ConfigError("\n".join(map(files.with_sources, str(error).split("\n")))) from error


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
    raise ConfigError("\n".join(shortened(_lines(items))))


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


def key_paths() -> dict[str, FieldInfo]:
    """Every dotted key of the schema, sections included, in the order of the schema."""
    return dict(_walk(RunConfig, ""))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        yield prefix + name, info
        section = section_of(info)
        if section:
            yield from _walk(section, f"{prefix}{name}.")


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, else None."""
    annotation = info.annotation
    return annotation if _is_model(annotation) else None


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def nearest_key(key: str) -> str | None:
    """The existing dotted key that the user most likely meant by `key`, or None when nothing is near."""
    paths = list(key_paths())
    leaf = key.rsplit(".", 1)[-1]
    if leaf in OTHER_NAMES:
        return OTHER_NAMES[leaf]
    inside = [path for path in paths if path.rpartition(".")[0] == key.rpartition(".")[0]]
    if near := difflib.get_close_matches(key, inside, n=1, cutoff=0.75) if "." in key else []:
        if difflib.SequenceMatcher(None, leaf, near[0].rsplit(".", 1)[-1]).ratio() >= 0.75:
            return near[0]
    same_leaf = {path.rpartition(".")[0]: path for path in paths if path.rsplit(".", 1)[-1] == leaf}
    section = difflib.get_close_matches(key.rpartition(".")[0], same_leaf, n=1, cutoff=0.6) or list(same_leaf)
    by_leaf = {path.rsplit(".", 1)[-1]: path for path in reversed(paths)}
    close = (
        [same_leaf[name] for name in section[:1]]
        or difflib.get_close_matches(key, paths, n=1, cutoff=0.75)
        or [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)]
        or difflib.get_close_matches(key, paths, n=1, cutoff=0.5)
    )
    return close[0] if close else None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Models that are the annotation, or inside its union, list or mapping."""
    if _is_model(annotation):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def _lines(items: Sequence[Any]) -> list[str]:
    """A line for each problem. Of the forms that a value may have, the one that fits best is reported."""
    by_key: dict[str, Any] = {}
    for item in items:
        key = _key(item)
        # A rule of the form that was meant says more than "no integer" for the other form.
        if key not in by_key or (item["type"] == "value_error" and by_key[key]["type"].endswith("_type")):
            by_key[key] = item
    kept = {
        key: item for key, item in by_key.items() if not any(other.startswith(f"{key}.") for other in by_key if key)
    }
    lines = [line for key, item in kept.items() if key for line in _explain(key, item)]
    rules = [
        line
        for line in (_explain("", kept[""]) if "" in kept else [])
        if not line.startswith(tuple(filter(None, kept)))
    ]
    return [*lines, *rules]


def _key(item: Any) -> str:
    """The dotted key of a pydantic error, without the names of the types that pydantic tried in a union."""
    *above, last = (str(part) for part in item["loc"] or ("",))
    parts = [part for part in above if re.fullmatch(r"[a-z0-9_]+", part)]
    if item["type"] in _UNKNOWN:
        return ".".join([*parts, last])
    parts += [last] if re.fullmatch(r"[a-z0-9_]+", last) else []
    while len(parts) > 1 and parts[-1] in _TYPE_NAMES and ".".join(parts) not in key_paths():
        parts.pop()
    return ".".join(parts)


def _unknown_key(key: str) -> str:
    above, _, name = key.rpartition(".")
    paths = key_paths()
    if key in VERL_SECTIONS:
        return f"{key}: unknown key; docs/configuration.md lists every key, docs/migrate.md those for verl's settings"
    if all(part not in paths or section_of(paths[part]) for part in _prefixes(above)):
        near = nearest_key(key)
    elif OTHER_NAMES.get(name, "").startswith(f"{above}."):
        near = OTHER_NAMES[name]
    else:  # inside a value
        close = difflib.get_close_matches(name, list(_fields_in(above)), n=1)
        near = f"{above}.{close[0]}" if close else None
    return f"{key}: unknown key; " + (f"did you mean {near}?" if near else "docs/configuration.md lists every key")


def _prefixes(key: str) -> list[str]:
    """`a.b.c`, `a.b` and `a`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _fields_in(key: str) -> dict[str, FieldInfo]:
    """Fields of the models that a value may have; positions in lists and keys of mappings are passed over."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in key.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for info in fields for model in models_in(info.annotation)] or models
    return {name: info for model in models for name, info in model.model_fields.items()}


def _description(key: str) -> str | None:
    """The description of a key; that of the nearest key above it where it has none, as positions in lists."""
    for part in _prefixes(key):
        above, _, name = part.rpartition(".")
        if (info := _fields_in(above).get(name)) is not None:
            return info.description
    return None


def _explain(key: str, item: Any) -> list[str]:
    """Lines for one pydantic error: key, value, what is wrong, and the key's description as the remedy."""
    if item["type"] in _UNKNOWN:
        return [_unknown_key(key)]
    paths = key_paths()
    info = paths.get(key)
    if info is not None and (section := section_of(info)) and item["type"] == "model_type":
        example = next(iter(section.model_fields))
        return [f"{key} = {spelled(item['input'])}: is a section; give its keys, for example {key}.{example}"]
    message = str(item["msg"]).removeprefix("Value error, ")
    named = message.split(" ", 1)[0]
    if isinstance(item["input"], Mapping) and named in item["input"]:
        key = f"{key}.{named}"
        return [f"{key} = {brief(item['input'][named])}: {message}"]
    if item["type"] == "value_error" and (info is None or section_of(info)):
        lines = message.split("\n")  # a rule over several keys names them itself
        return [line if not key or "." in line.split(":")[0].split(" ")[0] else f"{key}: {line}" for line in lines]
    described = f" {text}" if (text := _description(key)) else ""
    if item["type"] == "missing":
        return [f"{key}: is required.{described}"]
    example = next(iter(_fields_in(f"{key}.")), "") if item["type"] == "model_type" else ""
    return [f"{key} = {spelled(item['input'])}: {wanted(item, example)}.{described}"]


_TYPE_NAMES = ("int", "float", "str", "bool", "constrained")
_UNKNOWN = ("extra_forbidden", "invalid_key")
