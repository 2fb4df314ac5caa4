#!/usr/bin/env bash
# About eight minutes on two cores. MODEL: a local model; SEEDS: seeds of each objective; further arguments are overrides.
set -euo pipefail
cd "$(dirname "$0")"
model=${MODEL:-../../models/countdown-base}
for seed in ${SEEDS:-0 1}; do
  bonrl train --config config.yaml "model.path=$model" "run.seed=$seed" "run.name=mean-$seed" \
    objective.strategy=mean objective.k=1 "$@"
  bonrl train --config config.yaml "model.path=$model" "run.seed=$seed" "run.name=pass8-$seed" "$@"
done
bonrl compare runs/mean-* runs/pass8-* --figure compare.html
bonrl report runs/pass8-0
