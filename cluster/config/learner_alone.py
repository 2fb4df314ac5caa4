"""The configuration of a job that has a learner only: no samplers, no verifiers, nothing is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.settings import ElasticCount
from learner.schedule import ScheduleSettings

if TYPE_CHECKING:
    from cluster.config import RunConfig

# Overrides under which the rules over several sections count and compare no samplers: what a preset or an override says
# about them must not forbid a learner alone.
NO_SAMPLING = (
    *("actors.samplers=1", "actors.verifiers=1", "actors.verifier_gpus=0", "rollout.allocation=null"),
    *("sampler.gpus=0", "sampler.tensor_parallel=1", "sampler.sleep=none", "sampler.max_model_len=null"),
    *("cluster.placement=separate", "broadcast.backend=host", "queue.staleness=0", "queue.overtake=0"),
)
_NONE = ElasticCount.model_construct(min=0, max=0)  # the schema allows no run without them


def learner_alone(config: RunConfig, *, batch_size: int) -> RunConfig:
    """`config` for imitation in batches of `batch_size` examples: what the ranks need, and nothing for other actors.

    Estimates, checks and placement then count the learner's ranks only. There is no KL, so no reference model.
    """
    changes = {
        "actors": {"samplers": _NONE, "verifiers": _NONE},
        "sampler": {"sleep": "none", "max_model_len": None},
        "cluster": {"placement": "separate"},
        "broadcast": {"backend": "host"},
        "queue": {"staleness": 0, "overtake": 0},
        "rollout": {"n": 1, "prompts_per_step": batch_size, "allocation": None},
        "loss": {"kl_coefficient": 0.0, "kl_refresh_every": 0},
    }
    sections = {name: getattr(config, name).model_copy(update=keys) for name, keys in changes.items()}
    return config.model_copy(update={**sections, "schedule": ScheduleSettings()})
