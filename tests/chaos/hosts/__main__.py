"""Lose hosts, unplug cables, degrade the network, fill a disk and set clocks wrong on separate hosts; audit the run.

    python -m tests.chaos.hosts --faults 30 --seed 0 --directory DIRECTORY         # as root

A head and two workers are Linux namespaces with their own addresses, processes, /tmp and /dev/shm; DIRECTORY is their
shared storage. A fourth host submits the run with a token. Each worker holds a learner rank, so gradients cross hosts.
The audit is that of tests.chaos.campaign: every position once, and the weights of an undisturbed learner that trains on
the recorded groups. `--skip 10 --faults 10` runs the second ten faults of the plan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.hosts.campaign import HostCampaign
from tests.chaos.hosts.faults import plan
from tests.chaos.hosts.network import impossible
from tests.chaos.hosts.ray_hosts import ACROSS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=30, help="number of faults")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many faults at the start of the plan")
    parser.add_argument("--seed", type=int, default=0, help="of their order")
    parser.add_argument("--minutes", type=float, default=60.0, help="no fault begins later than this after the first")
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory for the run and the report")
    options = parser.parse_args()
    if reason := impossible():
        print(reason)
        return 2
    options.directory.mkdir(parents=True, exist_ok=True)
    campaign = HostCampaign(options.directory.resolve(), ACROSS, options.seed)
    campaign.minutes = options.minutes
    status = campaign.report_on(plan(options.skip + options.faults, options.seed)[options.skip :])
    print(f"first step {campaign.first_step_s:.0f} s after submit")
    return status


if __name__ == "__main__":
    sys.exit(main())
