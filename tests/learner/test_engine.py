"""The DeepSpeed engine against plain torch, in processes of their own (engine_cases.py: what each does)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learner.ranks import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.learner.engine_setup import make_model

    directory = tmp_path_factory.mktemp("models")
    make_model(directory / "tied", tied=True)
    make_model(directory / "untied", tied=False, bias=True)
    make_model(directory / "bfloat16", tied=True, dtype=torch.bfloat16)
    return directory


@pytest.mark.parametrize(("world_size", "tied"), [(1, True), (2, False)])
def test_every_zero_stage_equals_plain_torch(models: Path, world_size: int, tied: bool) -> None:
    run_ranks("engine_cases:gradients_and_weights", world_size, models, tied=tied)


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [
        (
            1,
            [
                [0, "float32", "all"],
                [2, "float32", "all"],
                [0, "bfloat16", "all"],
                [3, "bfloat16", "all"],
                [0, "bfloat16", "adapters"],
            ],
        ),
        (
            2,
            [
                [0, "float32", "all"],
                [1, "float32", "all"],
                [2, "bfloat16", "all"],
                [3, "float32", "all"],
                [0, "bfloat16", "all"],
                [2, "float32", "adapters"],
                [3, "float32", "adapters"],
            ],
        ),
    ],
)
def test_resuming_is_bit_equal(models: Path, world_size: int, cases: list[list]) -> None:
    run_ranks("engine_cases:resume", world_size, models, cases=cases)


def test_supervised_steps(models: Path) -> None:
    run_ranks("engine_cases:supervised", 1, models)


@pytest.mark.parametrize(("world_size", "stages"), [(1, [0]), (2, [3])])
def test_kl_entropy_and_decoupled_ratio_equal_plain_torch(models: Path, world_size: int, stages: list[int]) -> None:
    run_ranks("engine_cases:policy_terms", world_size, models, stages=stages)


@pytest.mark.parametrize("world_size", [1, 2])
def test_gradients_of_bfloat16_weights_are_summed_in_float32(models: Path, world_size: int) -> None:
    cases = [[0, "none"], [2, "none"], [3, "none"], [1, "optimizer"], [2, "optimizer"]]
    run_ranks("engine_cases:float32_sums", world_size, models, cases=cases)


def test_offloading_does_not_change_the_update(models: Path) -> None:
    run_ranks("engine_cases:offloaded", 1, models, cases=[[1, "optimizer"], [3, "all"]])


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [(1, [["bfloat16", "all"], ["float32", "all"]]), (2, [["bfloat16", "all"], ["bfloat16", "adapters"]])],
)
def test_sleeping_between_steps_changes_nothing(models: Path, world_size: int, cases: list[list]) -> None:
    run_ranks("engine_cases:sleeping", world_size, models, cases=cases)


@pytest.mark.parametrize(
    ("stage", "dtype", "error"),
    [(1, "bfloat16", "has no attribute 'offload_states'"), (3, "bfloat16", "only for DeepSpeed FusedAdam")],
)
def test_deepspeed_moves_no_states_of_the_refused_stages(models: Path, stage: int, dtype: str, error: str) -> None:
    """When it does, the rule for learner.zero_stage with learner.sleep can go."""
    run_ranks("engine_cases:not_sleeping", 1, models, stage=stage, dtype=dtype, error=error)


def test_adapters_equal_plain_torch(models: Path) -> None:
    run_ranks("engine_cases:adapters", 2, models, stages=[0, 1, 3])


def test_compiled_layers_equal_plain_torch(models: Path) -> None:
    run_ranks("compiled_engine:compiled", 2, models)
