"""Every example runs from a copy of its folder outside the repository, as a user would run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.running import environment
from tests.conftest import ROOT

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir())
SMALL = ("evaluation.prompts=8", "evaluation.n=8", "evaluation.every=0", "rollout.prompts_per_step=4")
# Overrides and environment that make each example short, and files that it leaves.
SHORT: dict[str, tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]] = {
    "own_reward": (("run.steps=2", *SMALL), {}, ("runs/own-reward/summary.json", "runs/own-reward/report.html")),
    "own_strategy": (("run.steps=2", *SMALL), {}, ("runs/own-strategy/summary.json",)),
    "learned_verifier": (
        ("run.steps=2", *SMALL),
        {"PROMPTS": "64"},
        ("my-verifier/verifier.json", "runs/learned-verifier/summary.json"),
    ),
    "bon_sft": (("evaluation.prompts=8", "evaluation.n=8"), {"STEPS": "2"}, ("bon-sft-model/config.json",)),
    "compare_objectives": (
        ("run.steps=2", "evaluation.prompts=8", "rollout.prompts_per_step=4"),
        {"SEEDS": "0"},
        ("compare.html", "runs/pass8-0/report.html"),
    ),
}


def test_every_example_is_listed_and_tested() -> None:
    page = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert set(EXAMPLES) == set(SHORT)
    assert not [name for name in EXAMPLES if f"({name}/)" not in page]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_from_a_copy(name: str, tmp_path: Path) -> None:
    overrides, variables, results = SHORT[name]
    folder = shutil.copytree(ROOT / "examples" / name, tmp_path / name)
    programs = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    variables = {**environment(), **variables, "PATH": programs, "MODEL": str(ROOT / "models" / "countdown-base")}
    done = subprocess.run(
        ["./run.sh", *overrides], cwd=folder, env=variables, capture_output=True, text=True, timeout=840, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert not [path for path in results if not (folder / path).exists()]
