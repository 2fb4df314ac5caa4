"""A very small model that writes Python, and problems for it, so that the campaign's run executes real programs.

    python -m tests.chaos.coder DIRECTORY

Each problem asks for one function, ``x*3+7`` for ``def f(x):\\n return x*3+7``. A Llama of two layers imitates that for
a minute, until it is sometimes right, so that rewards differ within a group and every step has a gradient.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.config import load_config
from learner.imitation import ImitationSettings, as_sequence, batches, cosine_rate
from learner.tiny_model import TinyModelSettings, save_tiny_model
from tests.cluster.running import LOCAL
from verifiers.tasks.mbpp import FILES
from verifiers.tasks.registry import make_task
from verifiers.text.rendering import render

PROBLEMS = 4096
ALPHABET = '0123456789+-*()=:"\n adefnrstux'
IMITATION = ImitationSettings(steps=300, batch_size=64, learning_rate=2e-3)


def overrides(directory: Path) -> list[str]:
    """What makes a run of the local configuration train this model on these problems."""
    return [
        f"model.path={directory / 'model'}",
        "task.name=mbpp",
        f"task.path={directory / 'problems'}",
        "rollout.max_prompt_tokens=48",
        "rollout.max_response_tokens=32",
    ]


def make(directory: Path) -> None:
    """Write `model` and `problems` into `directory`."""
    solutions = _write_problems(directory / "problems")
    fresh = TinyModelSettings(width=64, layers=2, feed_forward=128, context=96, alphabet=ALPHABET)
    config = load_config(LOCAL, overrides(directory))
    save_tiny_model(directory / "fresh", fresh, seed=0)
    from learner.engine import Engine

    engine = Engine(
        directory / "fresh", dtype="float32", learner=config.learner, loss=config.loss, master_port=29555,
        device="cpu", seed=0,
    )  # fmt: skip
    try:
        source = batches(_examples(directory, solutions), IMITATION.batch_size)
        for step, batch in zip(range(IMITATION.steps), source, strict=False):
            loss = engine.update(engine.accumulate_imitation(batch, cosine_rate(step, IMITATION)))["loss"]
        engine.export_huggingface(directory / "model")
    finally:
        engine.close()
    print(f"wrote {directory}: {PROBLEMS} problems, loss {loss:.3f} nats a token")


def _write_problems(directory: Path) -> dict[str, str]:
    """The files of the task mbpp; solution by id of the training problems."""
    directory.mkdir(parents=True, exist_ok=True)
    draw, solutions = random.Random(0), {}
    for name in sorted(set(FILES.values())):
        with (directory / name).open("w") as file:
            for index in range(PROBLEMS):
                problem = f"x*{draw.randint(2, 9)}{draw.choice('+-')}{draw.randint(1, 9)}"
                row = {
                    "id": f"{name}-{index}",
                    "problem": problem,
                    "solution": f"def f(x):\n return {problem}",
                    "tests": [f"assert f({x}) == {eval(problem)}" for x in (0, 3, 11)],
                    "split": "test" if "sanitized" in name else ("train", "validation")[index % 8 == 0],
                }
                file.write(json.dumps(row) + "\n")
                solutions[row["id"]] = row["solution"]
    return solutions


def _examples(directory: Path, solutions: dict[str, str]) -> Iterator:
    from transformers import AutoTokenizer

    config = load_config(LOCAL, overrides(directory))
    tokenizer = AutoTokenizer.from_pretrained(directory / "fresh", local_files_only=True)
    prompts, draw = make_task(config.task).prompts("train"), random.Random(1)
    while True:
        prompt = draw.choice(prompts)
        response = tokenizer.encode(solutions[prompt.id], add_special_tokens=False)
        yield as_sequence(render(prompt, tokenizer, config.task), [*response, tokenizer.eos_token_id])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
