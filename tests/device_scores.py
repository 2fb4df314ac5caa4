"""`python -m tests.device_scores DEVICE MODEL LEARNER FILE`: log-probabilities after one training step on a device.

A process of its own for each device: DeepSpeed chooses its accelerator once.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from benchmarks.learner import free_port, make_sequences
from learner.engine import Engine
from learner.settings import LearnerSettings, LossSettings


def main(device: str, model: str, options: str, file: str) -> None:
    """`options`: JSON of changes to the section `learner`. `file`: .npz of the scores of each sequence."""
    sequences = make_sequences(8, 12, 12, 500)
    fixed = {"learning_rate": 1e-4, "warmup_steps": 0, "tokens_per_micro_batch": 64}
    learner = LearnerSettings(**(fixed | json.loads(options)))
    engine = Engine(model, learner=learner, loss=LossSettings(), master_port=free_port(), device=device)
    engine.train_step(sequences, 8.0, 0)
    np.savez(file, *engine.score(sequences))
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
