"""The configuration of a run: one typed tree, composed of the sections that each package defines for itself.

It imports neither torch nor Ray nor vLLM.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, Field, field_validator, model_validator
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
from learner.objective_settings import ObjectiveSettings
from learner.schedule import ScheduleSettings
from learner.section import Section
from learner.settings import LearnerSettings, LossSettings
from verifiers.settings import TaskSettings


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
        default_factory=ScheduleSettings,
        description="Values that change during the run: k, n, temperature, KL, learning rate.",
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


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Models that are the annotation, or inside its union, list or mapping."""
    if _is_model(annotation):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]
