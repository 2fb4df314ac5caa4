"""The learner's engine: one rank that trains, scores, exports weights and saves checkpoints.

The computation is here; the framework that shards the model is behind ``learner.backends.base.LearnerBackend``. Every
rank runs the same number of forward passes, because sharded weights are gathered collectively in each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from learner import losses
from learner.backends.base import LearnerBackend
from learner.backends.checkpoint_layout import NamedTensor, into_buckets
from learner.backends.deepspeed_backend import DeepSpeedBackend
from learner.backends.model_directory import check_model_directory, pad_token_of, write_model_directory
from learner.backends.packing import packed_arguments
from learner.backends.reference_policy import ReferencePolicy
from learner.backends.reproducibility import random_state, restore_random_state, seed_everything
from learner.backends.step_metrics import StepMetrics, StepTotals
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.checkpoint_identity import WEIGHTS, identity_problem, learner_identity
from learner.packing_check import can_pack
from learner.policy_step import PolicyBatch, PolicyStep
from learner.response_logprobs import ResponseTokens
from learner.schedule import Schedule, learning_rate
from learner.settings import LearnerSettings, LossSettings

CHECKPOINT_VERSION = 1
MicroLoss = Callable[[MicroBatch, torch.Tensor, torch.Tensor | None], losses.PolicyLoss]  # of log-probs, entropies


class Engine:
    """A causal LM and its optimizer, in one process per rank.

    All methods are collective: every rank calls them in the same order with the same arguments. `device`
    is "cpu" (gloo) or "cuda" / "cuda:i" (nccl). `temperature` is the sampling temperature of the
    log-probabilities in `train_step` and `score`, unless the call passes another. `reference` keeps the initial model
    for the KL term: a frozen copy, sharded like the model, or, with `learner.lora`, the model without its adapters.
    `rate_schedule` changes `learner.learning_rate` with the step in `train_step`; imitation passes its own rate.
    `timeout_s` bounds every collective. Raises ValueError naming the key for a bad model directory, dtype, device or
    adapter.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        dtype: str = "float32",
        learner: LearnerSettings,
        loss: LossSettings,
        rank: int = 0,
        world_size: int = 1,
        master_address: str = "127.0.0.1",
        master_port: int,
        device: str = "cpu",
        seed: int = 0,
        temperature: float = 1.0,
        reference: bool = False,
        rate_schedule: Schedule | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"rollout.temperature must be > 0 to have a log-probability, got {temperature}")
        self.model_path, self.learner, self.loss = Path(model_path), learner, loss
        self.rank, self.world_size, self.temperature = rank, world_size, temperature
        self._rate_schedule = rate_schedule
        self.device = torch.device(device)
        seed_everything(seed, learner.threads, self.device)
        check_model_directory(model_path)
        self._backend: LearnerBackend = DeepSpeedBackend(
            model_path,
            dtype,
            learner,
            device=self.device,
            rank=rank,
            world_size=world_size,
            master_address=master_address,
            master_port=master_port,
            timeout_s=timeout_s,
        )
        self._layout = self._backend.layout
        self.config = self._backend.config
        self.pad_token = pad_token_of(self.config)
        self._packed = self._backend.packed and self._can_pack()
        self.adapters = self._backend.adapters
        # Under adapters the frozen model is the reference.
        self._reference = ReferencePolicy(self._backend) if reference and self.adapters is None else None

    def _can_pack(self) -> bool:
        self._backend.eval()
        return can_pack(lambda batch: self._logprobs(batch, 1.0)[0], self.config, self.learner, self.pad_token)

    def train_step(
        self, sequences: Sequence[TrainingSequence], normaliser: float, step: int, **options: Any
    ) -> dict[str, float]:
        """One optimizer step: `accumulate` and `update`."""
        return self.update(self.accumulate(sequences, normaliser, step, **options))

    def accumulate(
        self,
        sequences: Sequence[TrainingSequence],
        normaliser: float,
        step: int,
        *,
        temperature: float | None = None,
        kl_coefficient: float | None = None,
        exact_ratios: bool = False,
    ) -> dict[str, float]:
        """The gradient of the whole global batch (the same list on every rank); `update` changes the weights.

        The loss is that of `learner.policy_step` with `normaliser` groups. If no sequence has a gradient, the optimizer
        does not step (momentum and weight decay would change the weights without data) and `optimizer/skipped` is
        1. Returns metrics of the global batch, equal on every rank; without the gap metrics if no token was fresh.
        """
        policy = PolicyStep(self.loss, sequences, normaliser, kl_coefficient=kl_coefficient, exact_ratios=exact_ratios)
        kept = policy.keep(sequences)
        if not policy.uses_every_sample and not any(s.advantage != 0.0 for s in kept):
            return {"optimizer/skipped": 1.0, "batch/sequences": 0.0, "batch/tokens": 0.0}
        temperature = self.temperature if temperature is None else temperature

        def micro_loss(
            batch: MicroBatch, logprobs_BR: torch.Tensor, entropy_BR: torch.Tensor | None
        ) -> losses.PolicyLoss:
            return policy(
                PolicyBatch(
                    logprobs_BR,
                    entropy_BR,
                    self._tensor(batch.behaviour_logprobs_BR),
                    self._tensor(batch.response_mask_BR),
                    self._tensor(batch.advantage_B),
                    self._tensor(batch.sampled_B),
                    self._reference_logprobs(batch, temperature) if policy.kl_coefficient else None,
                )
            )

        rate = learning_rate(step, self.learner.learning_rate, self.learner.warmup_steps, self._rate_schedule)
        batches = self._batches(kept)
        return self._backward(batches, micro_loss, temperature, rate).policy_metrics() | {
            "optimizer/learning_rate": rate,
            "optimizer/skipped": 0.0,
            "batch/sequences": float(len(kept)),
            "batch/tokens": float(sum(len(s) for s in kept)),
            "batch/micro_batches": float(len(batches)),
        }

    def update(self, metrics: dict[str, float]) -> dict[str, float]:
        """The optimizer step after `accumulate`, which returned `metrics`; returns them with the gradient norm. A step
        whose gradient is not finite is skipped too."""
        if metrics["optimizer/skipped"]:
            return metrics
        norm = self._backend.apply()
        return metrics | {"optimizer/gradient_norm": norm, "optimizer/skipped": float(not math.isfinite(norm))}

    def accumulate_imitation(self, sequences: Sequence[TrainingSequence], rate: float) -> dict[str, float]:
        """The gradient of maximum likelihood: mean cross-entropy over the response tokens of the batch, the `loss` in
        nats per token; `update` changes the weights with the learning rate `rate`.

        The temperature is 1; advantages and behavior log-probabilities are ignored.
        """
        normaliser = float(sum(len(s.response_tokens) for s in sequences))

        def micro_loss(batch: MicroBatch, logprobs_BR: torch.Tensor, _: torch.Tensor | None) -> losses.PolicyLoss:
            mask_BR = self._tensor(batch.response_mask_BR)
            loss = losses.negative_log_likelihood(logprobs_BR, mask_BR, normaliser=normaliser)
            return losses.PolicyLoss(loss, {"loss": loss.detach().double(), "tokens": mask_BR.sum().double()}, {})

        totals = self._backward(self._batches(sequences), micro_loss, 1.0, rate)
        return {"loss": totals.loss, "optimizer/learning_rate": rate, "optimizer/skipped": 0.0}

    def _backward(
        self, batches: Sequence[MicroBatch], micro_loss: MicroLoss, temperature: float, rate: float
    ) -> StepTotals:
        """Forward and backward of every micro-batch; leaves the global gradient ready for the back-end to apply."""
        self._backend.set_learning_rate(rate)
        self._backend.train()
        metrics = StepMetrics(self.device)
        for i, batch in enumerate(batches):
            self._backend.begin_micro_batch(last=i == len(batches) - 1)
            logprobs_BR, entropy_BR = self._logprobs(batch, temperature, bool(self.loss.entropy_coefficient))
            result = micro_loss(batch, logprobs_BR, entropy_BR)
            self._backend.backward(result.loss)
            arrays = batch.behaviour_logprobs_BR, batch.response_mask_BR, batch.fresh_B
            metrics.add(batch, result, logprobs_BR.detach(), *map(self._tensor, arrays))
        return metrics.reduce(self.world_size)

    def sleep(self) -> None:
        """Move what only a step needs to host memory (`learner.sleep`), until `wake`."""
        self._backend.sleep()

    def wake(self) -> None:
        """Bring back what `sleep` moved, before `accumulate`."""
        self._backend.wake()

    def score(self, sequences: Sequence[TrainingSequence], temperature: float | None = None) -> list[np.ndarray]:
        """Log-probabilities float32[R] of each response under the current weights, in order, on every rank."""
        self._backend.eval()
        return self._score(sequences, lambda batch, t: self._logprobs(batch, t)[0], temperature)

    def score_reference(
        self, sequences: Sequence[TrainingSequence], temperature: float | None = None
    ) -> list[np.ndarray]:
        """As `score`, under the reference policy; only on an engine created with `reference`."""
        return self._score(sequences, self._reference_logprobs, temperature)

    def refresh_reference(self) -> None:
        """The reference becomes the current policy."""
        if self._reference is None:
            raise ValueError("this engine has no reference policy; set loss.kl_coefficient or schedule.kl")
        self._reference.refresh()

    @torch.no_grad()
    def _score(
        self,
        sequences: Sequence[TrainingSequence],
        logprobs_of: Callable[[MicroBatch, float], torch.Tensor],
        temperature: float | None,
    ) -> list[np.ndarray]:
        mine: dict[int, np.ndarray] = {}
        for batch in self._batches(sequences):
            logprobs = logprobs_of(batch, self.temperature if temperature is None else temperature).cpu().numpy()
            for row, index in enumerate(batch.index_B):
                if index >= 0:
                    mine[int(index)] = logprobs[row, batch.response_mask_BR[row]]
        parts: list[Any] = [mine]
        if self.world_size > 1:
            parts = [None] * self.world_size
            dist.all_gather_object(parts, mine)
        merged = {index: array for part in parts for index, array in part.items()}
        return [merged[i] for i in range(len(sequences))]

    def _batches(self, sequences: Sequence[TrainingSequence]) -> list[MicroBatch]:
        return make_micro_batches(
            sequences,
            self.learner.tokens_per_micro_batch,
            self.rank,
            self.world_size,
            self.pad_token,
            packed=self._packed,
        )

    def _logprobs(
        self, batch: MicroBatch, temperature: float, with_entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and, with `with_entropy`, entropies float32[B, R] of a micro-batch."""
        return self._forward(self._backend.model, batch, temperature, with_entropy)

    @torch.no_grad()
    def _reference_logprobs(self, batch: MicroBatch, temperature: float) -> torch.Tensor:
        if self.adapters is not None:
            with self.adapters.disabled():
                return self._logprobs(batch, temperature)[0]
        assert self._reference is not None
        return self._forward(self._reference.model, batch, temperature, False)[0]

    def _forward(
        self, model: Any, batch: MicroBatch, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One forward pass. Logits are computed for response tokens only, in chunks of `learner.logits_chunk_mib`."""
        mask_BT = batch.attention_mask_BT
        responses = ResponseTokens(
            self._tensor(batch.logit_index_N),
            self._tensor(batch.cell_index_N),
            batch.response_mask_BR.shape,
            packed=mask_BT is None,
            most_logits=batch.most_logits,
            most_cells=batch.most_cells,
        )
        return model(
            input_ids=self._tensor(batch.tokens_BT),
            attention_mask=None if mask_BT is None else self._tensor(mask_BT),
            position_ids=self._tensor(batch.positions_BT),
            **(packed_arguments(self.config, batch.lengths_B, self.device) if mask_BT is None else {}),
            responses=responses,
            temperature=temperature,
            with_entropy=with_entropy,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # from other memory the copy waits for the GPU
        return tensor.to(self.device, non_blocking=True)

    def weight_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """(name, dtype, shape) of every weight as in the checkpoint. A head tied to the embedding is omitted."""
        return self._layout.metadata

    def weight_buckets(
        self, bucket_bytes: int, *, partial: bool = False, copy: bool = True
    ) -> Iterator[list[NamedTensor]]:
        """All weights in `weight_metadata` order, in buckets of at most `bucket_bytes` (or one larger weight). Rank 0
        gets the tensors, the others empty lists; all must iterate to the end. `partial`, under adapters: only what an
        engine with the initial model needs. `copy`: copies on the CPU; otherwise the engine's own tensors on its
        device, valid until the next bucket.

        Under ZeRO-3 one bucket at a time is gathered and released, so rank 0 has at most one bucket in addition to its
        partition. A tensor that the checkpoint splits, such as the experts of a layer, is gathered whole and then
        divided into several buckets.
        """
        wanted = self._layout.units
        if partial and self.adapters is not None:
            wanted = self.adapters.units(wanted)
        for units in into_buckets(wanted, bucket_bytes):
            weights = [tensor for unit in units for _, tensor in unit if isinstance(tensor, torch.nn.Parameter)]
            parameters = weights if self.adapters is None else self.adapters.with_factors(weights)
            with self._backend.gathered(parameters):
                if self.rank != 0:
                    yield []
                    continue
                converted = ([weight] for unit in units for weight in self._layout.convert(self._merged(unit, copy)))
                yield from ([weight for [weight] in bucket] for bucket in into_buckets(converted, bucket_bytes))

    def adapter_buckets(self, bucket_bytes: int) -> Iterator[list[NamedTensor]]:
        """A and B of every adapter, as `weight_buckets` gives weights without `copy`."""
        assert self.adapters is not None
        for units in into_buckets(([factor] for factor in self.adapters.factors(self._layout)), bucket_bytes):
            factors = [factor for unit in units for factor in unit]
            with self._backend.gathered([factor for _, factor in factors]):
                yield [(name, factor.detach()) for name, factor in factors] if self.rank == 0 else []

    def _merged(self, unit: list[NamedTensor], copy: bool) -> list[NamedTensor]:
        """With adapters: in a copy, on this device."""
        merged = unit if self.adapters is None else [(name, self.adapters.merged(tensor)) for name, tensor in unit]
        return [(name, t.detach().to("cpu", copy=True) if copy else t.detach()) for name, t in merged]

    def export_huggingface(self, directory: str | Path) -> None:
        """Write a plain Hugging Face directory like `model_path`: config, safetensors under the same names, and the
        tokenizer files.
        """
        # Parts of a tensor that the checkpoint splits share memory, which safetensors rejects.
        weights = {name: tensor.clone() for bucket in self.weight_buckets(256 << 20) for name, tensor in bucket}
        if self.rank == 0:
            write_model_directory(self.model_path, directory, weights, self._backend.dropped_weights)
        self._barrier()

    def export_adapters(self, directory: str | Path) -> None:
        """Write the adapters as peft does: `adapter_config.json` and `adapter_model.safetensors`."""
        assert self.adapters is not None
        with self._backend.gathered([p for _, p in self.adapters.parameters]):
            if self.rank == 0:
                self.adapters.save(directory, self.model_path)
        self._barrier()

    def save(self, directory: str | Path, extra: dict[str, Any]) -> None:
        """Write all that a bit-exact continuation needs: weights, master weights, AdamW state, RNG states, `extra`.
        Frozen weights are not written.

        `extra` is pickled. The caller must pass a temporary directory and rename it.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._backend.save(directory, extra)
        torch.save(random_state(), directory / f"random_{self.rank}.pt")
        if self._reference is not None and self.loss.kl_refresh_every:
            self._reference.save(directory, self.rank)
        if self.rank == 0:
            (directory / "engine.json").write_text(json.dumps(self._identity(), indent=1))
        self._barrier()

    def load(self, directory: str | Path) -> dict[str, Any]:
        """Restore from `save` on a new engine with the same ranks and stage; returns `extra`.

        Raises ValueError if the directory is not an engine checkpoint or was written with other settings.
        """
        directory = Path(directory)
        try:
            found = json.loads((directory / "engine.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"'{directory}' contains no complete engine checkpoint (engine.json): {error}") from error
        if problem := identity_problem(found, self._identity()):
            raise ValueError(
                f"checkpoint '{directory}' {problem}; resume with the same value, or start from its Hugging Face export"
            )
        extra = self._backend.load(directory)
        if self._reference is not None:
            self._reference.load(directory)
        restore_random_state(torch.load(directory / f"random_{self.rank}.pt", weights_only=False))
        return extra

    def _identity(self) -> dict[str, Any]:
        weights = [[name, str(dtype), list(shape)] for name, dtype, shape in self.weight_metadata()]
        settings = learner_identity(self.learner, self.world_size)
        return {"version": CHECKPOINT_VERSION, **settings, WEIGHTS: weights}

    def _barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def close(self, *, leave_group: bool = True) -> None:
        """Release hooks and leave the process group. The engine cannot be used afterwards. DeepSpeed cannot join a
        second group, so a process that makes another engine stays in the first one (`leave_group` = False)."""
        self._backend.close(leave_group=leave_group)
