"""The examples and the table of docs/cluster.md and README.md about one GPU, checked with the dry run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.memory.estimates import derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.model_facts import ModelFacts
from cluster.config import load_config
from tests.conftest import ROOT

PRESET = ROOT / "cluster" / "presets" / "one-gpu.yaml"
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")


def model(parameters: int, layers: int, hidden: int, inner: int, vocabulary: int, kv_heads: int) -> ModelFacts:
    kv_values = 2 * layers * kv_heads * 128
    return ModelFacts(parameters, layers, hidden, vocabulary, kv_values, 32_768, inner=inner)


MODELS = {  # public facts of Qwen3-0.6B and Qwen2.5
    "0.6B": model(596_049_920, 28, 1024, 3072, 151_936, 8),
    "1.5B": model(1_543_714_304, 28, 1536, 8960, 151_936, 2),
    "3B": model(3_085_938_688, 36, 2048, 11_008, 151_936, 2),
    "7B": model(7_615_616_512, 28, 3584, 18_944, 152_064, 4),
    "14B": model(14_770_033_664, 48, 5120, 13_824, 152_064, 8),
    "32B": model(32_763_876_352, 64, 5120, 27_648, 152_064, 8),
}
SETTINGS = [["learner.offload=none"], ["learner.offload=optimizer"], ["learner.offload=all", "learner.zero_stage=3"]]
ROWS = re.findall(r"^\| ([\d.]+B) \| (.+?) \| (.+?) \| (\d*) ?\| (.+?) \| (\d*) ?\|$", PAGE, re.MULTILINE)
CASES = [
    (name, trained, gib, setting, sequences)
    for name, trained, *columns in ROWS
    for gib, setting, sequences in ((24, *columns[:2]), (80, *columns[2:]))
]


def fits(name: str, trained: str, gib: int, setting: list[str]) -> int | None:
    """Sequences in the sampler's cache, or None if the dry run refuses, or warns of too little memory."""
    lora = ["learner.lora.rank=16"] if trained == "LoRA" else []
    config = load_config(PRESET, [f"cluster.gpu_memory_gib={gib}", *lora, *setting])
    figures = derive(config, MODELS[name])
    if memory_problems(config, figures, MODELS[name], available=1e13):
        return None
    if any("may fit all the same" in line for line in memory_warnings(config, figures)):
        return None
    assert figures.kv_cache is not None
    return figures.kv_cache.sequences


@pytest.mark.parametrize(("name", "trained", "gib", "setting", "sequences"), CASES)
def test_what_fits_is_what_the_estimates_say(name: str, trained: str, gib: int, setting: str, sequences: str) -> None:
    """The setting that the table names is the first that fits, from none to the most offload."""
    results = [fits(name, trained, gib, keys) for keys in SETTINGS]
    if setting == "no":
        assert results == [None] * 3
        return
    named = 0 if setting == "as in the preset" else SETTINGS.index(setting.strip("`").split())
    assert [result is not None for result in results[: named + 1]] == [*[False] * named, True]
    assert results[named] == int(sequences)


def test_the_caches_of_a_learner_that_sleeps_are_what_the_estimates_say() -> None:
    text = " ".join(PAGE[PAGE.index("**A learner that sleeps.**") :].split())
    pattern = r"with all weights on 24 GB holds (\d+) sequences \((\d+) with .*? 3B on 80 GB holds (\d+) \((\d+)\)"
    stated = re.search(pattern, text)
    assert stated is not None
    keys = ["learner.zero_stage=2", "learner.sleep=states"]
    found = [
        fits(name, "all weights", gib, setting)
        for name, gib in (("0.6B", 24), ("3B", 80))
        for setting in (keys, keys[:1])
    ]
    assert found == [int(number) for number in stated.groups()]


def test_the_table_is_complete() -> None:
    assert len(ROWS) == 10 and {row[0] for row in ROWS} == set(MODELS)


def block(text: str, language: str, after: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize(
    ("file", "after"),
    [("README.md", "**Your own reward and data.**"), ("docs/cluster.md", "### Own reward on one GPU")],
)
def test_the_example_of_an_own_reward_passes_the_dry_run(
    file: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.commands.printing import print_dry_run

    text = (ROOT / file).read_text("utf-8")
    mine = block(text, "yaml", after)
    if "{path: MODEL}" in mine:
        mine = mine.replace("MODEL", "Qwen/Qwen2.5-0.5B-Instruct")
    (tmp_path / "my.yaml").write_text(mine)
    (tmp_path / "rewards.py").write_text(block(text, "python", after))
    rows: list[dict[str, Any]] = [
        {"problem": f"Name fruit {i} that starts with b.", "answer": "banana"} for i in range(3000)
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    config = load_config([PRESET, Path("my.yaml")], [f"run.directory={tmp_path}"])
    assert config.task.reward == "rewards.py:score" and config.cluster.placement == "colocated"
    print_dry_run(config)
    out = " ".join(capsys.readouterr().out.split())
    assert "train; from problems.jsonl" in out and "GPUs 1" in out
    assert "does not fit" not in out and "one learner rank needs" not in out
