"""The configuration of a job that trains nothing, an evaluation or a recording: no learner and no weight updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import RunConfig

_NO_SELECTION = {"keep_best": None, "patience": 0, "min_gain": 0.0}


def without_learner(config: RunConfig) -> RunConfig:
    """`config` for samplers and verifiers alone, which keep the weights of `model.path`.

    Estimates, checks and placement then count no learner rank: ``learner.ranks`` is 0, which no file can set. The other
    settings of the learner have no effect.
    """
    alone = unshared(config)
    learner = alone.learner.model_copy(update={"ranks": 0, "lora": None})
    broadcast = config.broadcast.model_copy(update={"backend": "host"})
    return alone.model_copy(update={"learner": learner, "broadcast": broadcast})


def recording(config: RunConfig) -> RunConfig:
    """`config` without evaluations, because the model is the same before and after, and with GPUs for the samplers."""
    quiet = config.evaluation.model_copy(update={"at_start": False, "at_end": False, "every": 0} | _NO_SELECTION)
    return unshared(config.model_copy(update={"evaluation": quiet}))


def unshared(config: RunConfig) -> RunConfig:
    """`config` for a job with samplers or a learner only, which need not share their GPUs."""
    sampler = config.sampler.model_copy(update={"sleep": "none"})
    learner = config.learner.model_copy(update={"sleep": "none"})
    cluster = config.cluster.model_copy(update={"placement": "separate"})
    return config.model_copy(update={"sampler": sampler, "learner": learner, "cluster": cluster})
