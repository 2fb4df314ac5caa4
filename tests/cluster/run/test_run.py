"""What a run asks its samplers for, as its schedules move; and when a disagreement stops it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from actors.queue.prompt_stream import PromptStream
from actors.queue.state import Ticket
from cluster.config import build_config
from cluster.run.live_groups import LiveGroups, allocation_of
from cluster.run.run import AgreementError, Run
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt


def test_samples_and_temperature_follow_their_schedules_by_the_step_of_the_prompt() -> None:
    """By the position's own step, not by when it is sampled: groups of a step agree at any staleness."""
    config = build_config(
        {
            "rollout": {"n": 16, "prompts_per_step": 3},
            "queue": {"staleness": 2},
            "schedule": {
                "n": {"shape": "steps", "at": {2: 12}},
                "temperature": {"start": 1.2, "end": 0.8, "after": 1, "over": 2},
            },
        }
    )
    prompts = [TokenizedPrompt(Prompt(f"p{i}", "?", {}, "all"), np.array([1], np.int32)) for i in range(5)]
    nothing = cast(Any, None)
    source = LiveGroups(config, prompts, pool=nothing, queue=nothing)
    asked = [source.request(Ticket(sequence=i, admitted_version=0))[0] for i in range(15)]
    assert [r.n for r in asked] == [16] * 6 + [12] * 9
    assert [r.sampling.temperature for r in asked[::3]] == pytest.approx([1.2, 1.2, 1.0, 0.8, 0.8])
    for step in range(5):
        assert len({(r.n, r.sampling.temperature) for r in asked[3 * step : 3 * step + 3]}) == 1


def test_a_chosen_prompt_is_asked_with_its_weight_and_the_epoch_of_its_place() -> None:
    config = build_config(
        {"rollout": {"n": 4, "prompts_per_step": 2, "allocation": {"candidates": 2}}, "objective": {"k": 1}}
    )
    prompts = [TokenizedPrompt(Prompt(f"p{i}", "?", {}, "all"), np.array([1], np.int32)) for i in range(3)]
    nothing = cast(Any, None)
    source = LiveGroups(config, prompts, pool=nothing, queue=nothing)
    asked = [source.request(Ticket(sequence=i, admitted_version=0)) for i in range(2)]
    plan = allocation_of(config, 3, None)
    assert plan is not None
    for i, (request, prompt) in enumerate(asked):
        place = plan.planned(i).place
        epoch, index = PromptStream(3, config.run.seed).locate(place)
        assert (request.sequence, request.epoch, request.prompt_id, prompt.id) == (i, epoch, f"p{index}", f"p{index}")
        assert (request.n, request.weight) == (plan.planned(i).n, plan.planned(i).weight)
    assert asked[1][0].epoch == 1 or plan.planned(1).place < 3


@pytest.mark.parametrize(("gap", "part"), [(0.2, "differ from the learner's by 2.00e-01"), (float("nan"), "are NaN")])
def test_a_gap_between_sampler_and_learner_stops_a_run_that_samples(gap: float, part: str) -> None:
    """Recorded groups may come from another policy, so a replay continues."""
    nothing = cast(Any, None)
    directory = SimpleNamespace(elapsed_s=lambda: 0.0)
    context = cast(Any, SimpleNamespace(config=build_config({}), directory=directory, checkpoints=None, first_step=0))

    def run(pool: Any) -> Run:
        return Run(context, nothing, nothing, nothing, pool, nothing, nothing, nothing)

    row = {"train/step": 3, "logprob_gap/mean": gap}
    with pytest.raises(AgreementError, match=part):
        run(pool=object()).check_agreement(row)
    run(pool=object()).check_agreement({"train/step": 3})
    run(pool=None).check_agreement(row)


@pytest.mark.parametrize("due", [True, False])
def test_a_checkpoint_is_saved_while_groups_are_awaited_if_the_learners_node_will_be_lost(due: bool) -> None:
    order: list[str] = []
    arrived = asyncio.Event()

    async def lease(step: int) -> str:
        await arrived.wait()
        order.append(f"groups of step {step}")
        return "groups"

    async def until_due() -> None:
        await asyncio.sleep(0 if due else 60)

    async def save() -> None:
        order.append("saved")
        arrived.set()

    run = SimpleNamespace(
        source=SimpleNamespace(lease=lease),
        supervisor=SimpleNamespace(checkpoint_due=due, until_checkpoint_due=until_due),
        checkpoint_if_new=save,
    )

    async def scenario() -> None:
        if not due:
            arrived.set()
        assert await asyncio.wait_for(Run.lease(cast(Any, run), 3), 10) == "groups"

    asyncio.run(scenario())
    assert order == (["saved"] if due else []) + ["groups of step 3"]
