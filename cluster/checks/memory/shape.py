"""The sizes of the model that memory depends on, read or assumed; and what else the estimates share."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.checks.adapters import AdapterSizes
from cluster.checks.model_facts import ModelFacts
from cluster.config import RunConfig

GIB = 2**30
MIB = 2**20

# The shape of a model of which only the size is known: a dense decoder with 12 hidden^2 weights a layer and
# hidden = 80 x layers (public models lie between 40 and 130), the largest vocabulary in common use, 8 KV heads of 128.
_HIDDEN_PER_LAYER = 80
_INNER_PER_HIDDEN = 4  # also where config.json does not give the width of the feed-forward part
_ASSUMED_VOCABULARY = 262_144
_ASSUMED_KV_PER_LAYER = 2 * 8 * 128
# Widths in and out of a layer's linear layers, in units of hidden: q, k, v, o and two of the 4 x hidden wide ones.
_ADAPTED_PER_LAYER = 18


@dataclass(frozen=True)
class Shape:
    """What memory depends on. `mapped`: weights whose files have `model.dtype`, which need not be copied to be read.
    `inner`: width of the feed-forward part that one token passes through.
    `assumed`: guessed from the number of parameters, because the model is not here.
    `trained`, `sent`: weights that have a gradient, and those of one update; all without `learner.lora`.
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    kv_values_per_token: int
    mapped: int
    assumed: bool
    trained: int
    sent: int


def shape_of(config: RunConfig, model: ModelFacts | None, adapters: AdapterSizes | None = None) -> Shape | None:
    """The model's own shape, or one assumed from `model.parameters_billions`, or None."""
    if model is not None:
        parameters, layers, hidden, vocabulary = model.parameters, model.layers, model.hidden, model.vocabulary
        kv_values, mapped = model.kv_values_per_token, model.mapped.get(config.model.dtype, 0)
        inner = model.inner or _INNER_PER_HIDDEN * hidden
    elif config.model.parameters_billions is not None:
        parameters, mapped = round(config.model.parameters_billions * 1e9), 0
        layers = max(1, round((parameters / (12 * _HIDDEN_PER_LAYER**2)) ** (1 / 3)))
        hidden, vocabulary, kv_values = _HIDDEN_PER_LAYER * layers, _ASSUMED_VOCABULARY, _ASSUMED_KV_PER_LAYER * layers
        inner = _INNER_PER_HIDDEN * hidden
    else:
        return None
    trained = sent = parameters
    if config.learner.lora:
        trained, sent = adapters or (
            _ADAPTED_PER_LAYER * hidden * layers * config.learner.lora.rank,
            max(parameters - vocabulary * hidden, parameters // 2),
        )
        sent = trained if config.learner.sent_adapters else sent
        sent = parameters if config.sampler.sleep == "weights" else sent  # the sampler has discarded its weights
    return Shape(parameters, layers, hidden, inner, vocabulary, kv_values, mapped, model is None, trained, sent)


def has_samplers(config: RunConfig) -> bool:
    """False for imitation, which has a learner only."""
    return config.actors.sampler_range.max > 0


def has_learner(config: RunConfig) -> bool:
    """False for an evaluation and for a recording, which train nothing."""
    return config.learner.ranks > 0


def weight_bytes(config: RunConfig) -> int:
    """Bytes of one weight, and of one number in the key-value cache."""
    return 2 if config.model.dtype == "bfloat16" else 4


def keeps_reference(config: RunConfig) -> bool:
    """Whether every learner rank keeps a frozen copy of the model for the KL term, in the loss or in the reward.

    With `learner.lora` the frozen model itself is the reference.
    """
    return bool(config.loss.kl_coefficient or config.schedule.kl) and config.learner.lora is None


def sequence_tokens(config: RunConfig) -> int:
    """The context that a sampler's engine is built for."""
    return config.sampler.max_model_len or config.rollout.max_sequence_tokens


def size_text(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
