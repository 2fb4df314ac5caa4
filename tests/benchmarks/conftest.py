"""What the tests of the evidence share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.frontier.plan import Plan


@pytest.fixture(scope="module")
def evidence(repository: Path) -> Path:
    return repository / "docs" / "evidence"


@pytest.fixture
def plan() -> Plan:
    return Plan.model_validate(
        {
            "title": "A small plan",
            "config": "config.yaml",
            "model": "base-model",
            "common": ["rollout.prompts_per_step=2", "rollout.n=4"],
            "contenders": {
                "mean": {"title": "the mean", "overrides": ["objective.strategy=mean"]},
                "pass4": {"title": "pass@4", "overrides": ["objective.strategy=pass_at_k"]},
            },
            "rates": [1e-5, 3e-5],
            "seeds": [0, 1, 2],
            "steps": 6,
            "every": 2,
            "ks": [1, 4],
            "temperatures": [0.6, 1.0],
            "validation": {"prompts": 24, "n": 8},
            "test": {"prompts": 40, "n": 8},
            "primary": [
                {"contender": "pass4", "against": "mean", "k": 4},
                {"contender": "pass4", "against": "mean", "k": 1},
            ],
            "costs": {"start": 1, "step": 1, "thousand_samples": 1, "jobs": 2},
        }
    )
