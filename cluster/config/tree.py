"""The configuration of a run: one typed tree, composed of the sections that each package defines for itself.

`load_config` turns a YAML file and command-line overrides into a `RunConfig` or raises `ConfigError` with every
problem it found: the dotted key, the value, what is wrong with it and the remedy. It starts nothing and imports
neither torch nor Ray nor vLLM, so a wrong key costs a fraction of a second.
"""

from __future__ import annotations

import difflib
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml
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
from cluster.config.rules import cross_section_problems
from cluster.config.settings import (
    AgreementSettings,
    CheckpointSettings,
    ClusterSettings,
    EvaluationSettings,
    ModelSettings,
    RunSettings,
    WandbSettings,
)
from cluster.errors import UsageError
from learner.schedule import ScheduleSettings
from learner.section import Section
from learner.settings import LearnerSettings, LossSettings, ObjectiveSettings
from verifiers.settings import TaskSettings

__all__ = [
    "ConfigError",
    "RunConfig",
    "UsageError",
    "build_config",
    "key_paths",
    "load_config",
    "nearest_key",
]


_MOST_PROBLEMS = 20
_MOST_BYTES = 1 << 20  # of a configuration file: more is another file, given by mistake
_MOST_VALUE = 120  # characters of a wrong value that a message repeats


class ConfigError(UsageError):
    """The configuration cannot be run; the message holds one line per problem."""


class RunConfig(Section):
    """The whole configuration of a run."""

    # First, because the fields are validated in order, and later sections name what plugins register.
    plugins: tuple[str, ...] = Field(
        (),
        description="Python files or modules of your own that register strategies, estimators, tasks or scorers, such "
        "as `[my_strategy.py]`. The driver and the actors load them. See docs/bring-your-own.md.",
    )
    run: RunSettings = Field(default_factory=RunSettings, description="Name, place and length of the run.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The model that is trained.")
    task: TaskSettings = Field(default_factory=TaskSettings, description="Problems and their grader.")
    rollout: RolloutSettings = Field(default_factory=RolloutSettings, description="What one step samples.")
    objective: ObjectiveSettings = Field(
        default_factory=ObjectiveSettings, description="The inference strategy that training optimises."
    )
    schedule: ScheduleSettings = Field(
        default_factory=ScheduleSettings, description="Numbers that move during the run: k, n, temperature, KL."
    )
    loss: LossSettings = Field(default_factory=LossSettings, description="The per-token policy loss.")
    learner: LearnerSettings = Field(
        default_factory=LearnerSettings, description="DeepSpeed ranks, AdamW, micro-batches."
    )
    actors: ActorsSettings = Field(default_factory=ActorsSettings, description="How many actors of each kind.")
    sampler: SamplerSettings = Field(default_factory=SamplerSettings, description="One sampler's vLLM engine.")
    queue: QueueSettings = Field(default_factory=QueueSettings, description="How far sampling may run ahead.")
    broadcast: BroadcastSettings = Field(
        default_factory=BroadcastSettings, description="The way of weights from learner to samplers."
    )
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="pass@k on held-out prompts."
    )
    checkpoint: CheckpointSettings = Field(
        default_factory=CheckpointSettings, description="When to save, how much to keep."
    )
    wandb: WandbSettings = Field(default_factory=WandbSettings, description="Weights & Biases.")
    deadlines: DeadlineSettings = Field(
        default_factory=DeadlineSettings, description="Seconds after which a wait ends with a message."
    )
    supervision: SupervisionSettings = Field(
        default_factory=SupervisionSettings, description="What is done about actors that die or hang."
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


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides and validate.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, wrong type, value out of range, impossible combination.
    """
    tree = read_yaml(_moved(Path(path)))
    for override in overrides:
        apply_override(tree, override)
    return build_config(tree)


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
    problems = list(_structure_problems(RunConfig, tree, ""))
    named = tuple(re.split(r"[: ]", problem)[0] for problem in problems)
    try:
        config = RunConfig.model_validate(tree)
        if not problems:
            return config
    except ValidationError as error:
        items = [item for item in error.errors() if not _other_form(item) and item["type"] != "extra_forbidden"]
        lines = dict.fromkeys(line for item in items for line in _explain(item))
        problems += [line for line in lines if not line.startswith(named)] if named else lines
    raise ConfigError("\n".join(shortened(problems)))


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are."""
    more = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a key given twice is an error (the plain loader would keep the last in silence)."""
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes: that is no configuration; give --config another"
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason, remedy = str(error), "save it as UTF-8"
        if isinstance(error, OSError):
            reason, remedy = error.strerror or reason, "give --config an existing YAML file"
        raise ConfigError(f"cannot read the configuration {path}: {reason}; {remedy}") from error
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_reason(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold sections (`run:`, `model:` ...), not a {type(tree).__name__}")
    return tree


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply; write sections and keys only"
    hint = "; indent with spaces, not tabs" if "'\\t'" in str(error) else ""
    return f"{error}{hint}"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases, duplicate keys, and keys that are neither text nor whole numbers (`on:`)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can expand to gigabytes
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor} is not read here; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) and type(key) is not int:  # whole numbers name steps, as in a schedule's `at`
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in `tree`, in place; the value is read as YAML (`null`, `true`, `[a, b]`)."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value, for example objective.k=8")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"override {_brief(override)}: the value is not valid YAML: {_yaml_reason(error)}") from error
    for part in path[:-1]:
        inner = tree.get(part)
        if inner is None:
            inner = tree[part] = {}
        elif not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {part} is a value, not a section")
        tree = inner
    tree[path[-1]] = value


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


def _structure_problems(model: type[BaseModel], tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Unknown keys, sections that are no sections, and true/false where a number is wanted."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        info = model.model_fields.get(str(name))
        if info is None:
            yield _unknown_key(key, nearest_key(key))
            continue
        section = section_of(info)
        if section is None:
            yield from _value_problems(info, value, key)
        elif isinstance(value, Mapping):
            yield from _structure_problems(section, value, f"{key}.")
        else:
            example = next(iter(section.model_fields))
            yield f"{key} = {_brief(value)}: is a section; give its keys, for example {key}.{example}"


def _unknown_key(key: str, near: str | None) -> str:
    hint = f"did you mean {near}?" if near else "docs/configuration.md lists every key"
    return f"{key}: unknown key; {hint}"


def _value_problems(info: FieldInfo, value: Any, key: str) -> Iterator[str]:
    """True or false given for a number (pydantic reads true as 1), and unknown keys inside the value."""
    for choices, inner, path in _within(info.annotation, value, key):
        if isinstance(inner, bool) and not {bool, Any} & set(choices):
            yield f"{path} = {inner}: not {_type_name(info) if path == key else 'a number'}. {info.description}"
        for model in filter(_is_model, choices if isinstance(inner, Mapping) else ()):
            for name in (str(name) for name in inner if name not in model.model_fields):
                near = difflib.get_close_matches(name, model.model_fields, n=1)
                yield _unknown_key(f"{path}.{name}", f"{path}.{near[0]}" if near else None)


def _within(annotation: Any, value: Any, key: str) -> Iterator[tuple[tuple[Any, ...], Any, str]]:
    """The value and all that its lists and mappings hold: the types that it may have, itself, and its key."""
    choices = _choices(annotation)
    yield choices, value, key
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        yield from _within(_of_item(choices, name), inner, f"{key}.{name}")
    for i, inner in enumerate(value) if isinstance(value, list) else ():
        yield from _within(_of_item(choices, i), inner, f"{key}.{i}")


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _of_item(choices: tuple[Any, ...], name: Any) -> Any:
    """The type of a container's item: of a model's field, a mapping's value or a tuple's member; Any if unknown."""
    for choice in choices:
        if _is_model(choice) and name in choice.model_fields:
            return choice.model_fields[name].annotation
        if typing.get_origin(choice) in (dict, tuple, list):
            return typing.get_args(choice)[1 if typing.get_origin(choice) is dict else 0]
    return Any


def _type_name(info: FieldInfo) -> str:
    return {int: "an integer", float: "a number", str: "text"}.get(typing.cast(Any, info.annotation), "of its type")


def _other_form(item: Any) -> bool:
    """Whether pydantic only says that a mapping is no number, or text no mapping, where the key may be either."""
    mapping = isinstance(item["input"], Mapping)
    inside = len(item["loc"]) > 1 and str(item["loc"][-1]) not in item["loc"][-2:-1]
    return inside and ((mapping and item["type"] in ("int_type", "float_type")) or item["type"] == "model_type")


def _explain(item: Any) -> list[str]:
    """Lines for one pydantic error: key, value, what is wrong, and the key's description as the remedy."""
    paths = key_paths()
    # Pydantic puts the tried type's own name into the place of an error inside a union: no user's key.
    parts = [str(part) for part in item["loc"] if isinstance(part, int) or re.fullmatch(r"[a-z][a-z0-9_]*", str(part))]
    while len(parts) > 1 and parts[-1] in _TYPE_NAMES and ".".join(parts) not in paths:
        parts.pop()
    key = ".".join(parts)
    message = str(item["msg"]).removeprefix("Value error, ")
    info = paths.get(key)
    named = message.split(" ", 1)[0]
    if isinstance(item["input"], Mapping) and named in item["input"]:
        key = f"{key}.{named}"
        return [f"{key} = {_brief(item['input'][named])}: {message}"]
    if item["type"] == "value_error" and (info is None or section_of(info)):
        lines = message.split("\n")  # a rule over several keys names them itself
        return [line if not key or "." in line.split(":")[0].split(" ")[0] else f"{key}: {line}" for line in lines]
    message = message[0].lower() + message[1:]
    return [f"{key} = {_brief(item['input'])}: {message}." + (f" {info.description}" if info else "")]


_TYPE_NAMES = ("int", "float", "str", "bool", "constrained")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_VALUE else f"{text[:_MOST_VALUE]}... ({len(text)} characters)"
