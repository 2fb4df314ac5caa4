"""A worker host is lost without notice while a submitted run trains on three hosts, and every position is trained once.

The long version, with bad networks, full disks and wrong clocks, is ``python -m tests.chaos.hosts``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.hosts.campaign import HostCampaign
from tests.chaos.hosts.faults import KILLED, HostFault
from tests.chaos.hosts.network import impossible
from tests.chaos.hosts.ray_hosts import QUICK, WORKERS

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_a_run_on_three_hosts_survives_the_loss_of_one(tmp_path: Path):
    if reason := impossible():
        pytest.skip(reason)
    campaign = HostCampaign(tmp_path, QUICK, seed=0, replays=False)
    report = campaign.execute([HostFault(KILLED, WORKERS[1])])
    assert not report.problems, report.problems
    (outcome,) = campaign.outcomes
    assert outcome.lost == ["verifier-0"], outcome
