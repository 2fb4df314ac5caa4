"""The steps of `bonrl sft` on the driver: when it saves, and what it keeps for ranks that are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.remote_calls import ActorFailure
from actors.workers.imitation_rank import as_examples
from cluster.config import build_config
from cluster.config.learner_alone import learner_alone
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.run import imitation
from cluster.run.imitation import _Course
from cluster.run.shutdown import Shutdown, ShutdownRequested
from learner.batching import TrainingSequence
from learner.checkpoint_identity import ADAPTER, HUGGINGFACE
from learner.imitation import ImitationSettings, as_sequence

SETTINGS = ImitationSettings(steps=7, batch_size=2, report_every=3)


class Learner:
    """Stands for the ranks: notes each step's prompts and each checkpoint; `meanwhile` runs in each step."""

    def __init__(self, meanwhile: Any = lambda step: None) -> None:
        self.steps: list[tuple[int, list[int]]] = []
        self._meanwhile = meanwhile

    async def step(self, examples: Any, step: int) -> dict[str, float]:
        self.steps.append((step, [int(one.prompt_tokens[0]) for batch in examples for one in as_examples(batch)]))
        self._meanwhile(step)
        return {"loss": float(step)}

    async def save(self, directory: str) -> None:
        (Path(directory) / "weights").write_text(str(len(self.steps)))


def batches(count: int, first: int = 0) -> Iterator[list[TrainingSequence]]:
    return ([as_sequence([2 * i + 1], [1]), as_sequence([2 * i + 2], [1])] for i in range(first, count))


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation.ray, "put", lambda value: value)


def course(directory: Path, lines: list[str], source: Iterator[list[TrainingSequence]], first: int = 0) -> _Course:
    config = build_config({"checkpoint": {"every": 3, "keep": 9}})
    alone = learner_alone(config, batch_size=SETTINGS.batch_size)
    return _Course(alone, SETTINGS, Checkpoints(directory), source, first, lines.append)


def test_it_saves_at_intervals_and_at_the_end_and_keeps_the_examples_since(tmp_path: Path) -> None:
    lines: list[str] = []
    kept: list[list[int]] = []
    here = course(tmp_path, lines, batches(7))
    learner = Learner(lambda step: kept.append(sorted(here._since_saved)))
    asyncio.run(here.train(learner, Shutdown(), lambda: False))  # type: ignore[arg-type]
    assert learner.steps == [(step, [2 * step + 1, 2 * step + 2]) for step in range(7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000006", "step-000007"]
    assert kept == [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [6]], "what new ranks would train again"
    assert here.origin()[0] == 7
    assert [line.split("  ")[0] for line in lines] == ["step 3/7", "step 6/7", "step 7/7"]


def test_a_node_that_will_be_lost_and_a_signal_save_at_once(tmp_path: Path) -> None:
    shutdown = Shutdown()
    learner = Learner(lambda step: shutdown._asked_thread.set() if step == 4 else None)
    here = course(tmp_path, [], batches(7))
    with pytest.raises(ShutdownRequested):
        asyncio.run(here.train(learner, shutdown, lambda: len(learner.steps) == 1))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003", "step-000005"]


def test_a_resumed_imitation_begins_after_its_checkpoint(tmp_path: Path) -> None:
    learner = Learner()
    asyncio.run(course(tmp_path, [], batches(7, 5), first=5).train(learner, Shutdown(), lambda: False))  # type: ignore[arg-type]
    assert learner.steps == [(5, [11, 12]), (6, [13, 14])]


def test_a_delivery_that_was_interrupted_is_repeated(tmp_path: Path) -> None:
    """A disk was full, or the process killed, while the adapters were copied; `--resume` gets here again."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = checkpoints.begin(7)
    for name in (
        f"{HUGGINGFACE}/config.json",
        f"{ADAPTER}/adapter_config.json",
        f"{ADAPTER}/adapter_model.safetensors",
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("{}")
    partly = checkpoints.finalise(7).path / HUGGINGFACE / ADAPTER
    partly.mkdir()
    (partly / "adapter_config.json").write_text("")
    imitation._deliver(checkpoints, tmp_path / "model")
    assert (tmp_path / "model" / ADAPTER / "adapter_config.json").read_text() == "{}"
    assert (tmp_path / "model" / ADAPTER / "adapter_model.safetensors").is_file()


def test_a_delivery_that_cannot_be_written_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program made the directory meanwhile."""
    output, runs = tmp_path / "my model", tmp_path / "my model.partial"

    def to_result(config: Any, work: Any, conclude: Any, advice: Any) -> Any:
        checkpoints = Checkpoints(runs / "run" / "checkpoints")
        model = checkpoints.begin(7) / HUGGINGFACE
        model.mkdir()
        (model / "config.json").write_text("{}")
        checkpoints.finalise(7)
        output.write_text("of another program")
        return conclude(None)

    monkeypatch.setattr(imitation, "run_to_result", to_result)
    with RunDirectory.create(runs, "run", {}) as directory:
        result = imitation.imitate(build_config({}), SETTINGS, directory, output, iter(()), print)
    assert result.status == 1 and result.message.startswith(f"all steps are done, but {output} cannot be written: ")
    assert result.message.endswith(f"continue with: bonrl sft --output '{output}' --resume")
    assert Checkpoints(directory.checkpoints).complete() == [7]


def test_a_rank_cannot_be_replaced_if_the_newest_checkpoint_is_damaged(tmp_path: Path) -> None:
    here = course(tmp_path, [], batches(5))
    learner = Learner(lambda step: here.examples_of(step))
    with pytest.raises(ActorFailure, match="ran out after 5 steps"):
        asyncio.run(here.train(learner, Shutdown(), lambda: False))  # type: ignore[arg-type]
    (tmp_path / "step-000003" / "weights").write_text("damaged")
    assert here.origin() == (0, None)
    with pytest.raises(ActorFailure, match=r"the checkpoint of step 3 cannot be read .* continue with --resume"):
        here.examples_of(0)


def test_too_few_examples_end_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ActorFailure, match="ran out after 2 steps of 2; lower --steps or --batch-size"):
        asyncio.run(course(tmp_path, [], batches(2)).train(Learner(), Shutdown(), lambda: False))  # type: ignore[arg-type]
