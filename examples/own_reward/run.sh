#!/usr/bin/env bash
# About two minutes on two cores. MODEL: a local model; further arguments are overrides of keys.
set -euo pipefail
cd "$(dirname "$0")"
model=${MODEL:-../../models/countdown-base}
bonrl train --config config.yaml "model.path=$model" "$@"
bonrl report runs/own-reward
