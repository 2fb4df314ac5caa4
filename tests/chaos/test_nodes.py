"""The learner's node is lost while it publishes its weights, and wandb is killed: every position is trained once.

The long version, which also fills disks and compares the weights, is ``python -m tests.chaos.nodes``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import SMALL, offline
from tests.chaos.nodes import LAYOUT, NodeCampaign, NodeLoss
from tests.chaos.schedule import Strike

pytestmark = pytest.mark.slow


def test_the_learners_node_is_lost_while_weights_are_on_their_way_and_wandb_is_killed(tmp_path: Path):
    strikes = [NodeLoss("publish", "learner", whole=False), Strike("wandb-core", "kill")]
    campaign = NodeCampaign(tmp_path, [*offline(SMALL), *LAYOUT], seed=0, leaves=True, replays=False)
    report = campaign.execute(strikes)
    assert not report.problems, report.problems
    assert len(report.blows) == len(strikes)
