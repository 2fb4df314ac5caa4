"""The configuration of a job that has a learner only: no samplers, no verifiers, nothing is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.settings import ElasticCount
from learner.schedule import ScheduleSettings

if TYPE_CHECKING:
    from cluster.config import RunConfig

_NONE = ElasticCount.model_construct(min=0, max=0)  # the schema allows no run without them


def learner_alone(config: RunConfig, *, batch_size: int) -> RunConfig:
    """`config` for imitation in batches of `batch_size` examples: what the ranks need, and nothing for other actors.

    Estimates, checks and placement then count the learner's ranks only. There is no KL, so no reference model.
    """
    changes = {
        "actors": {"samplers": _NONE, "verifiers": _NONE},
        "sampler": {"sleep": "none"},
        "cluster": {"placement": "separate"},
        "broadcast": {"backend": "host"},
        "queue": {"staleness": 0, "overtake": 0},
        "rollout": {"n": 1, "prompts_per_step": batch_size, "allocation": None},
        "loss": {"kl_coefficient": 0.0, "kl_refresh_every": 0},
    }
    sections = {name: getattr(config, name).model_copy(update=keys) for name, keys in changes.items()}
    return config.model_copy(update={**sections, "schedule": ScheduleSettings()})
