"""The configuration of a job that has a learner only, a replay or imitation: no samplers, no verifiers, no updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    "learner.sleep=none",
)
_NONE = ElasticCount.model_construct(min=0, max=0)  # the schema allows no run without them


def without_sampling(config: RunConfig) -> RunConfig:
    """`config` for a replay: the learner trains as in the run, on recorded groups, and there are no other actors.

    Estimates, checks and placement then count the learner's ranks only, and the groups of one step.
    """
    return _changed(
        config,
        actors={"samplers": _NONE, "verifiers": _NONE},
        sampler={"sleep": "none", "max_model_len": None},
        learner={"sleep": "none"},
        cluster={"placement": "separate"},
        broadcast={"backend": "host"},
        queue={"staleness": 0, "overtake": 0},
    )


def learner_alone(config: RunConfig, *, batch_size: int) -> RunConfig:
    """`config` for imitation in batches of `batch_size` examples: what the ranks need, and nothing for other actors.

    There is no KL, so no reference model.
    """
    alone = _changed(
        without_sampling(config),
        rollout={"n": 1, "prompts_per_step": batch_size, "allocation": None},
        loss={"kl_coefficient": 0.0, "kl_refresh_every": 0},
    )
    return alone.model_copy(update={"schedule": ScheduleSettings()})


def _changed(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    changes = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    return config.model_copy(update=changes)
