"""Settings of a run as a whole: name and length, model, evaluation, checkpoints, wandb, agreement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from actors.sampling import MIN_TEMPERATURE, Sampling
from cluster.config.keep_best import canonical, parse_metric
from learner.section import Section
from learner.strategies import STRATEGIES, look_up


class RunSettings(Section):
    """What the run is called, where it writes, how long it goes (section `run`)."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the run's directory and of the wandb run; null: the time at which it starts.",
    )
    directory: str = Field("runs", min_length=1, description="Directory in which the run directory is created.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of prompt order, sampling and training. With queue.staleness 0 on CPUs "
        "the same seed gives the same weights, bit by bit.",
    )
    steps: int = Field(160, ge=1, le=10_000_000, description="Optimizer steps of the run.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description="Lowest level of the messages in the log files (logs/ in the run's directory). DEBUG adds a line "
        "for every group that is sampled and graded.",
    )


class ModelSettings(Section):
    """The model that is trained (section `model`)."""

    path: str = Field(
        "models/countdown-base",
        min_length=1,
        description="Hugging Face causal language model: a directory with config.json, safetensors and tokenizer, or "
        "OWNER/NAME[@REVISION] on the hub, which is fetched into the local cache when the run starts.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the weights in sampler and learner. bfloat16 is meant for GPUs and widens the "
        "log-probability gap. On CPUs float32 is the exact one; bfloat16 needs AVX-512 or AMX, without which "
        "it is more than ten times slower.",
    )
    parameters_billions: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="Size of the model in 1e9 parameters, used only by the memory estimate of --dry-run where "
        "model.path is not there (a cluster's directory); null: read from model.path. A later file or override that "
        "sets only model.path removes the value.",
    )


class EvaluationSettings(Section):
    """pass@k on held-out prompts (section `evaluation`)."""

    every: int = Field(50, ge=0, description="Optimizer steps between evaluations; 0: none during training.")
    at_start: bool = Field(True, description="Evaluate the model before the first step, as the baseline.")
    at_end: bool = Field(True, description="Evaluate after the last step.")
    split: Literal["train", "validation", "test"] = Field(
        "validation",
        description="Split of the task. Use validation for tuning, and test for the results that you report.",
    )
    prompts: int = Field(
        256,
        ge=2,
        le=1_000_000,
        description="Number of held-out prompts. Standard errors shrink with its square root.",
    )
    n: int = Field(
        32,
        ge=1,
        le=65536,
        description="Samples per prompt, one pool for all points of the curves: k = 1, 2, 4 ... n, and the k that "
        "training optimizes.",
    )
    temperature: float = Field(
        1.0,
        ge=0.0,
        le=10.0,
        description="Softmax temperature of evaluation samples. 0 is greedy: the most likely token each time; then one "
        "sample per prompt is drawn for any n, and only pass@1 is reported. Otherwise at least 0.01.",
    )
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Evaluation samples only the most likely tokens that together have this probability; 1: all. "
        "Set it as the model is deployed; training always samples from the whole distribution.",
    )
    top_k: int = Field(-1, ge=-1, description="Evaluation samples only this many of the most likely tokens; -1: all.")
    min_p: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Evaluation samples only tokens with at least this share of the most likely token's probability; "
        "0: all.",
    )
    strategies: tuple[str, ...] = Field(
        ("pass_at_k",),
        description="Inference strategies whose curves are reported, of pass_at_k, best_of_k, max_at_k, majority_at_k, "
        "weighted_vote and your own; pass_at_k and those of the objective always are. majority_at_k takes about a "
        "millisecond for each prompt and k.",
    )

    keep_best: str | None = Field(
        None,
        description="Metric of the deployed model by which the best evaluated step is chosen: objective, "
        "reward_mean, or STRATEGY@K (pass_at_k@8, best_of_k@16, majority_at_k@4 ...), which tables call pass@8, bo@16 "
        "and maj@4. Its checkpoint is saved and never deleted by checkpoint.keep, and `--best` of bonrl eval and "
        "bonrl export uses it; null: off.",
    )
    patience: int = Field(
        0,
        ge=0,
        description="End the run after this many consecutive evaluations in which the metric of keep_best has not "
        "improved; 0: never.",
    )
    min_gain: float = Field(
        0.0,
        ge=0.0,
        description="Smallest rise of the metric of keep_best above its best value so far that counts as an "
        "improvement for patience.",
    )

    @property
    def sampling(self) -> Sampling:
        return self.sampling_at(self.temperature)

    def sampling_at(self, temperature: float) -> Sampling:
        """How evaluation samples are drawn at another temperature."""
        return Sampling(1.0, self.top_p, self.top_k, self.min_p).at(temperature)

    @field_validator("temperature")
    @classmethod
    def _sampled(cls, temperature: float) -> float:
        if 0 < temperature < MIN_TEMPERATURE:
            raise ValueError(f"vLLM samples at {MIN_TEMPERATURE:g} or above; use 0 for greedy decoding")
        return temperature

    @field_validator("keep_best")
    @classmethod
    def _measurable(cls, metric: str | None) -> str | None:
        if metric is None:
            return None
        metric = canonical(metric)
        parse_metric(metric)
        return metric

    @field_validator("top_k")
    @classmethod
    def _keeps_tokens(cls, top_k: int) -> int:
        if top_k == 0:
            raise ValueError("0 keeps no token; use -1 for all tokens, or 1 and above")
        return top_k

    @field_validator("strategies")
    @classmethod
    def _known(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        for name in strategies:
            if look_up("strategy", name, STRATEGIES).only_k is not None:
                raise ValueError(
                    f"strategy '{name}' has no curve: its value is eval/reward_mean, which is always there"
                )
        return strategies


class CheckpointSettings(Section):
    """Checkpoints of learner, queue and data cursor together (section `checkpoint`)."""

    every: int = Field(50, ge=0, description="Optimizer steps between checkpoints; 0: only one after the last.")
    keep: int = Field(2, ge=1, le=10_000, description="Newest checkpoints kept on disk; older ones are deleted.")


class WandbSettings(Section):
    """Weights & Biases (section `wandb`)."""

    project: str = Field(
        "bonrl",
        min_length=1,
        max_length=128,
        pattern=r"^[^/\\#?%:]+$",
        description="Project that receives the run. Its name must not have any of / \\ # ? % :",
    )
    entity: str | None = Field(
        None, min_length=1, description="User or team that owns the project; null: your default."
    )
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto",
        description="auto: online if an API key is set, else offline. online: needs an API key. offline: files that "
        "`wandb sync` uploads later. disabled: no wandb.",
    )
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), description="Tags of the wandb run, each of 1 to 64 characters."
    )


class MlflowSettings(Section):
    """MLflow, where `tracking` names it (section `mlflow`)."""

    tracking_uri: str | None = Field(
        None,
        min_length=1,
        description="Tracking server or store, such as http://HOST:5000; null: a store in `mlflow/` of the run. Put a "
        "password or token into MLflow's environment variables, not here.",
    )
    experiment: str = Field("bonrl", min_length=1, max_length=250, description="Experiment that receives the run.")


class AgreementSettings(Section):
    """How closely sampler and learner must agree (section `agreement`)."""

    max_gap: float = Field(
        1e-3,
        gt=0,
        le=10.0,
        description="Largest mean absolute difference, in nats per token, between the behavior log-probabilities "
        "and the learner's at equal weights; beyond it the run stops. float32 on CPUs stays near 1e-6, bfloat16 "
        "on GPUs near 1e-2.",
    )
