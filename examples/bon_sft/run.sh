#!/usr/bin/env bash
# About two minutes on two cores. MODEL: a local model; STEPS: optimizer steps; further arguments are overrides of keys.
set -euo pipefail
cd "$(dirname "$0")"
model=${MODEL:-../../models/countdown-base}
bonrl sft --config config.yaml --objective bon_sft --output bon-sft-model --steps "${STEPS:-30}" --batch-size 16 \
  --learning-rate 1e-4 "model.path=$model" "$@"
bonrl eval --config config.yaml --checkpoint bon-sft-model "$@"
