"""A resume notices other weights under the same model.path, and refuses them where it would use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.checks import earlier, starting_weights
from cluster.checks.starting_weights import FILE, changed_weights, weights_problem, weights_warning
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError


def write(directory: Path, weights: dict[str, Any], shards: int = 1) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    places = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def random_weights() -> dict[str, Any]:
    values = np.random.default_rng(0)
    return {name: values.standard_normal((70, 60)).astype(np.float32) for name in ("b", "a", "c")}


def config_of(directory: Path, **changes: Any) -> RunConfig:
    return build_config({"model": {"path": str(directory)}} | changes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model; the run in `tmp_path` began with it."""
    write(tmp_path / "model", random_weights())
    record = starting_weights.starting_weights(str(tmp_path / "model"))
    (tmp_path / FILE).write_text(json.dumps(record))
    return tmp_path / "model"


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "sampled"])
def test_copies_and_other_shards_are_the_same_weights_and_one_other_value_is_not(
    tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(starting_weights, "_WHOLE_BYTES", 0)
        monkeypatch.setattr(starting_weights, "_BLOCK", 512)
    weights, directory = random_weights(), tmp_path / "model"
    write(directory, weights)
    (tmp_path / FILE).write_text(json.dumps(starting_weights.starting_weights(str(directory))))
    write(directory, weights, shards=2)
    shutil.copytree(directory, tmp_path / "copy")
    assert not changed_weights(tmp_path, config_of(directory))
    assert not changed_weights(tmp_path, config_of(tmp_path / "copy"))
    for place in ((0, 0), (35, 0), (69, 59)):
        changed = {name: value.copy() for name, value in weights.items()}
        changed["c"][place] += 1
        write(directory, changed)
        assert changed_weights(tmp_path, config_of(directory)), place
    write(directory, {("d" if name == "c" else name): value for name, value in weights.items()})
    assert changed_weights(tmp_path, config_of(directory)), "another name"


@pytest.mark.parametrize(
    ("changes", "rollout_only", "use"),
    [
        ({}, False, None),
        ({}, True, "they sample the groups"),
        ({"learner": {"lora": {"rank": 4}}}, False, "learner.lora trains adapters of them"),
        ({"loss": {"kl_coefficient": 0.1}}, False, "the reference of the KL term"),
        ({"loss": {"kl_coefficient": 0.1, "kl_refresh_every": 5}}, False, None),
    ],
)
def test_other_weights_are_refused_where_the_run_needs_them(
    model: Path, changes: dict[str, Any], rollout_only: bool, use: str | None
) -> None:
    run, config = model.parent, config_of(model, **changes)
    assert weights_problem(run, config, rollout_only=rollout_only) is None
    assert weights_warning(run, config, rollout_only=rollout_only) == []
    write(model, {name: value + 1 for name, value in random_weights().items()})
    problem = weights_problem(run, config, rollout_only=rollout_only)
    warning = weights_warning(run, config, rollout_only=rollout_only)
    if use is None:
        assert problem is None and len(warning) == 1 and f"model.path = {model} has other weights" in warning[0]
    else:
        assert problem is not None and use in problem and f"--resume {run}" in problem and warning == []


def test_a_run_of_an_earlier_release_is_resumed_and_a_damaged_record_is_refused(model: Path) -> None:
    (model.parent / FILE).write_text('{"scheme": 1')
    with pytest.raises(UsageError, match="model_weights.json cannot be read"):
        changed_weights(model.parent, config_of(model))
    (model.parent / FILE).unlink()
    assert not changed_weights(model.parent, config_of(model))


def test_the_checks_of_a_resume_include_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(model, loss={"kl_coefficient": 0.1})
    monkeypatch.setattr(earlier, "recorded_config", lambda run: config)
    monkeypatch.setattr(earlier, "usable_checkpoint", lambda *_: None)
    for check in ("step_problems", "waiting_problems", "_engine_problems"):
        monkeypatch.setattr(earlier, check, lambda *_: [])
    assert list(earlier.resume_problems(config, model.parent, rollout_only=False, prompts=False)) == []
    write(model, {name: value + 1 for name, value in random_weights().items()})
    (problem,) = earlier.resume_problems(config, model.parent, rollout_only=False, prompts=False)
    assert "other weights than when the run began" in problem
