"""A configuration with node types, for the tests of the planner and the renderers."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.config import RunConfig, apply_override, build_config
from cluster.launch.demand import Sizes

TREE = """
run: {directory: /shared/runs}
model: {path: /shared/models/large, dtype: bfloat16, parameters_billions: 27.0}
task: {name: countdown}
rollout: {n: 16, prompts_per_step: 128, max_prompt_tokens: 512, max_response_tokens: 3584}
objective: {k: 8}
learner: {ranks: 8, gpus_per_rank: 1, zero_stage: 3, tokens_per_micro_batch: 8192, activation_checkpointing: true}
actors: {samplers: 1, verifiers: 40}
sampler: {gpus: 8, tensor_parallel: 8}
agreement: {max_gap: 0.05}
cluster:
  address: auto
  name: tuner
  image: registry.example.com/bonrl:gpu
  environment: {NCCL_SOCKET_IFNAME: eth0}
  storage: {path: /shared}
  node_types:
    head: {cpus: 16, memory_gib: 60, roles: [], hosts: [10.0.0.1], instance: {aws: m7i.4xlarge, gcp: n2-standard-16}}
    gpu:
      gpus: 8
      cpus: 192
      memory_gib: 1800
      roles: [learner, sampler]
      instance: {aws: p5.48xlarge, gcp: a3-highgpu-8g}
      hosts: [10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5]
      partition: h100
    cpu:
      cpus: 32
      memory_gib: 120
      roles: [verifier]
      spot: true
      instance: {aws: m7i.8xlarge, gcp: n2-standard-32}
      hosts: [10.0.0.6, 10.0.0.7]
  gcp: {project: my-project, source_image: projects/p/global/images/family/f}
"""
SIZES = Sizes(sampler=14.4, learner=51.2, verifier=0.33, groups=0.33, stored_weights=50.3, shared_weights=50.3)


def configuration(*overrides: str, **sections: Any) -> RunConfig:
    tree = yaml.safe_load(TREE) | sections
    for override in overrides:
        apply_override(tree, override)
    return build_config(tree)
