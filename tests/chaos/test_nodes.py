"""A node is lost while the learner publishes its weights, and another while samplers load them; wandb's process dies on
the way, and the disk fills: nothing is lost, nothing is trained twice, and the weights are those of an undisturbed
learner. The long version is ``python -m tests.chaos.nodes``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import SMALL, Campaign, offline
from tests.chaos.disks import small_disk
from tests.chaos.nodes import LAYOUT, NodeCampaign, NodeLoss
from tests.chaos.schedule import Strike

pytestmark = pytest.mark.slow


def test_nodes_are_lost_while_weights_are_on_their_way(tmp_path: Path):
    strikes = [NodeLoss("publish", "learner", whole=False), NodeLoss("load", "sampler", whole=True)]
    campaign = NodeCampaign(tmp_path, [*SMALL, *LAYOUT], seed=0, leaves=True)
    report = campaign.execute(strikes)
    assert not report.problems, report.problems
    assert len(report.blows) == len(strikes)


def test_a_full_disk_ends_the_run_with_the_way_to_go_on_and_wandbs_death_does_not(tmp_path: Path):
    try:
        with small_disk(tmp_path / "disk", 512) as disk:
            campaign = Campaign(tmp_path, [*offline(SMALL), "run.steps=60"], seed=0, disk=disk)
            report = campaign.execute([Strike("wandb-core", "kill"), Strike("disk", "full")])
    except PermissionError as error:
        pytest.skip(str(error))
    assert not report.problems, report.problems
