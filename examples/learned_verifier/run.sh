#!/usr/bin/env bash
# About four minutes on two cores. MODEL: a local model; PROMPTS: how many prompts the verifier learns from; further
# arguments are overrides of keys of the last command.
set -euo pipefail
cd "$(dirname "$0")"
model=${MODEL:-../../models/countdown-base}
# 1. answers to training prompts, graded by the task
bonrl eval --config config.yaml --checkpoint "$model" --output samples --n 16 \
  task.scorer.kind=verdict evaluation.split=train "evaluation.prompts=${PROMPTS:-512}"
# 2. a classifier that predicts whether an answer is right
bonrl train-verifier --samples samples --output my-verifier --backbone "$model"
# 3. the policy, trained for the answer that this classifier picks of four
bonrl train --config config.yaml "model.path=$model" "$@"
