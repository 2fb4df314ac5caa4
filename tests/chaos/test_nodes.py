"""The learner's node is lost while it publishes its weights, wandb is killed, and every position is trained once.

The long version, which also fills disks and compares the weights, is ``python -m tests.chaos.nodes``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import SMALL, offline
from tests.chaos.nodes import LAYOUT, NodeCampaign, NodeLoss
from tests.chaos.schedule import Fault

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_the_learners_node_is_lost_while_weights_are_on_their_way_and_wandb_is_killed(tmp_path: Path):
    faults = [NodeLoss("publish", "learner", whole=False), Fault("wandb-core", "kill")]
    campaign = NodeCampaign(tmp_path, [*offline(SMALL), *LAYOUT], seed=0, stops=True, replays=False)
    report = campaign.execute(faults)
    assert not report.problems, report.problems
    assert len(report.recoveries) == len(faults)
