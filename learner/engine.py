"""One DeepSpeed rank: sequences in, one optimiser step out; weights out, checkpoints in and out.

The only file that calls DeepSpeed. Facts about it that shape the code:

- It averages gradients over the ranks, while our loss is a *sum* divided by a constant: each rank's loss is
  multiplied by the number of ranks. Its own scaling by gradient_accumulation_steps is kept at 1.
- The number of micro-batches varies from step to step, so the boundary is set by hand before each backward.
- At ZeRO stage 0 in float32 it clips but keeps no gradient norm, so clipping is done here in that case.
- Every rank runs the same number of forward passes, because ZeRO-3 gathers weights collectively in each.
- On CPU it compiles a shared-memory collective at start, used only for inference: half a minute, a
  compiler, and nothing gained. Switched off.
- `reduce_bucket_size` buffers are allocated whole, 2 GB by default; they are sized to the model.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from learner import losses
from learner.batching import MicroBatch, Sequence, make_micro_batches
from learner.deepspeed_config import adamw, deepspeed_config
from learner.model_directory import check_model_directory, copy_companions, load_causal_lm, pad_token_of
from learner.reproducibility import random_state, restore_random_state, seed_everything
from learner.schedule import learning_rate
from learner.settings import LearnerSettings, LossSettings

CHECKPOINT_VERSION = 1
_TAG = "deepspeed"
_SUMS = ("loss", "tokens", "clipped", "ratio", "kl", "entropy", "gap", "fresh_tokens", "all", "padded")
_MAXIMA = ("ratio", "gap")


class Engine:
    """A causal LM under DeepSpeed ZeRO 0-3 with AdamW, in a process of its own per rank.

    All methods are collective: every rank calls them in the same order with the same arguments. `device`
    is "cpu" (gloo) or "cuda" / "cuda:i" (nccl). `temperature` is the sampling temperature whose law the
    log-probabilities of `train_step` and `score` describe. `timeout_s` bounds every collective. Raises
    ValueError naming the key for a bad model directory, dtype or device.
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
        timeout_s: float = 600.0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"rollout.temperature must be > 0 to have a log-probability, got {temperature}")
        self.model_path, self.learner, self.loss = Path(model_path), learner, loss
        self.rank, self.world_size, self.temperature = rank, world_size, temperature
        self.device = torch.device(device)
        self._float32_stage_0 = learner.zero_stage == 0 and dtype == "float32"
        seed_everything(seed, learner.threads)
        check_model_directory(model_path)
        # Before transformers is imported, which imports DeepSpeed on its own and lets it guess the
        # accelerator.
        deepspeed = _start_deepspeed(self.device, rank, world_size, master_address, master_port, timeout_s)
        model = load_causal_lm(model_path, dtype)
        self.pad_token = pad_token_of(model.config)
        self.config = model.config
        self._parameters = list(model.named_parameters())
        size = sum(p.numel() for _, p in self._parameters)
        if learner.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._gathered = deepspeed.zero.GatheredParameters
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=adamw(self._parameters, learner),
            config=deepspeed_config(learner, dtype, self.device, size, self._float32_stage_0),
            dist_init_required=False,
        )

    # ---------------------------------------------------------------- training

    def train_step(self, sequences: Seq[Sequence], normaliser: float, step: int) -> dict[str, float]:
        """One optimiser step on the whole global batch (the same list on every rank).

        loss = -sum over tokens of min(rho A, clip(rho) A) / normaliser. If no sequence has an advantage, the
        optimiser does not step at all (momentum and weight decay would move the weights without evidence) and
        `learn/skipped` is 1. Returns figures of the global batch, equal on every rank; see
        `learner.metrics.LEARN_METRICS`. Gap figures are absent when no token was fresh.
        """
        started = time.perf_counter()
        kept = [s for s in sequences if s.advantage != 0.0 or not self.loss.skip_zero_advantage]
        if not any(s.advantage != 0.0 for s in kept):
            return {
                "learn/skipped": 1.0,
                "learn/sequences": 0.0,
                "learn/tokens": 0.0,
                "learn/seconds": time.perf_counter() - started,
            }

        def micro_loss(batch: MicroBatch, logprobs_BR: torch.Tensor) -> losses.PolicyLoss:
            return losses.clipped_policy_loss(
                logprobs_BR,
                self._tensor(batch.behaviour_logprobs_BR),
                self._tensor(batch.advantage_B),
                self._tensor(batch.response_mask_BR),
                clip_low=self.loss.clip_low,
                clip_high=self.loss.clip_high,
                normaliser=normaliser,
            )

        return self._step(kept, micro_loss, step, self.temperature, started)

    def sft_step(self, sequences: Seq[Sequence], step: int, *, rate: float | None = None) -> dict[str, float]:
        """One step of maximum likelihood on the responses: mean cross-entropy over the batch's response
        tokens.

        The temperature is 1 here, and advantages and behaviour log-probabilities are ignored.
        `rate` is the learning rate of this step; None takes the one of the learner's settings.
        """
        started = time.perf_counter()
        normaliser = float(sum(len(s.response_tokens) for s in sequences))

        def micro_loss(batch: MicroBatch, logprobs_BR: torch.Tensor) -> losses.PolicyLoss:
            mask_BR = self._tensor(batch.response_mask_BR)
            loss = losses.negative_log_likelihood(logprobs_BR, mask_BR, normaliser=normaliser)
            return losses.PolicyLoss(loss, {"loss": loss.detach().double(), "tokens": mask_BR.sum().double()}, {})

        figures = self._step(sequences, micro_loss, step, 1.0, started, rate)
        return {k: v for k, v in figures.items() if k not in _POLICY_ONLY}

    def _step(
        self,
        sequences: Seq[Sequence],
        micro_loss: Callable[[MicroBatch, torch.Tensor], losses.PolicyLoss],
        step: int,
        temperature: float,
        started: float,
        rate: float | None = None,
    ) -> dict[str, float]:
        if rate is None:
            rate = learning_rate(step, self.learner.learning_rate, self.learner.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batches = self._batches(sequences)
        figures = self._accumulate(batches, micro_loss, temperature)
        gradient_norm = self._apply()
        tokens, seconds = float(sum(len(s) for s in sequences)), time.perf_counter() - started
        return figures | {
            "learn/gradient_norm": gradient_norm,
            "learn/learning_rate": rate,
            "learn/sequences": float(len(sequences)),
            "learn/tokens": tokens,
            "learn/micro_batches": float(len(batches)),
            "learn/seconds": seconds,
            "learn/tokens_per_second": tokens / seconds,
            "learn/skipped": 0.0,
        }

    def _accumulate(
        self,
        batches: Seq[MicroBatch],
        micro_loss: Callable[[MicroBatch, torch.Tensor], losses.PolicyLoss],
        temperature: float,
    ) -> dict[str, float]:
        """Forward and backward of every micro-batch; leaves the global gradient ready for `_apply`."""
        self._engine.train()
        sums = {k: torch.zeros((), dtype=torch.float64, device=self.device) for k in _SUMS}
        maxima = {k: torch.zeros((), dtype=torch.float64, device=self.device) for k in _MAXIMA}
        for i, batch in enumerate(batches):
            self._engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
            logprobs_BR, entropy_BR = self._logprobs(batch, temperature)
            result = micro_loss(batch, logprobs_BR)
            self._engine.backward(result.loss * self.world_size, scale_wrt_gas=False)
            mask_BR = self._tensor(batch.response_mask_BR)
            fresh_BR = mask_BR & self._tensor(batch.fresh_B).unsqueeze(1)
            gap, fresh_tokens, gap_max = losses.logprob_gap(
                logprobs_BR.detach(), self._tensor(batch.behaviour_logprobs_BR), fresh_BR
            )
            extra = {
                "entropy": (entropy_BR * mask_BR).sum().double(),
                "gap": gap,
                "fresh_tokens": fresh_tokens,
            }
            sums["all"] += batch.tokens
            sums["padded"] += batch.padded_tokens
            for key, value in (result.sums | extra).items():
                sums[key] += value
            for key, value in (result.maxima | {"gap": gap_max}).items():
                maxima[key] = torch.maximum(maxima[key], value)
        return self._summary(sums, maxima)

    def _summary(self, sums: dict[str, torch.Tensor], maxima: dict[str, torch.Tensor]) -> dict[str, float]:
        sum_vector = torch.stack([sums[k] for k in _SUMS])
        max_vector = torch.stack([maxima[k] for k in _MAXIMA])
        if self.world_size > 1:
            dist.all_reduce(sum_vector, op=dist.ReduceOp.SUM)
            dist.all_reduce(max_vector, op=dist.ReduceOp.MAX)
        total = dict(zip(_SUMS, sum_vector.tolist(), strict=True))
        largest = dict(zip(_MAXIMA, max_vector.tolist(), strict=True))
        tokens = max(total["tokens"], 1.0)
        figures = {
            "learn/loss": total["loss"],
            "learn/response_tokens": total["tokens"],
            "learn/clip_fraction": total["clipped"] / tokens,
            "learn/ratio_mean": total["ratio"] / tokens,
            "learn/ratio_max": largest["ratio"],
            "learn/kl": total["kl"] / tokens,
            "learn/entropy": total["entropy"] / tokens,
            "learn/fresh_tokens": total["fresh_tokens"],
            "learn/padding_share": 1.0 - total["all"] / total["padded"],
        }
        if total["fresh_tokens"]:
            figures["learn/logprob_gap_mean"] = total["gap"] / total["fresh_tokens"]
            figures["learn/logprob_gap_max"] = largest["gap"]
        return figures

    def _apply(self) -> float:
        """The optimiser step. Returns the gradient's global L2 norm before clipping."""
        norm: Any = None
        if self._float32_stage_0:
            limit = self.learner.gradient_clip or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(self._engine.module.parameters(), limit)
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return float(norm)

    # ---------------------------------------------------------------- scoring

    @torch.no_grad()
    def score(self, sequences: Seq[Sequence]) -> list[np.ndarray]:
        """Log-probabilities float32[R] of each response under the current weights, in the order given, on
        every rank."""
        self._engine.eval()
        mine: dict[int, np.ndarray] = {}
        for batch in self._batches(sequences):
            logprobs_BR = self._logprobs(batch, self.temperature)[0].cpu().numpy()
            for row, index in enumerate(batch.index_B):
                if index >= 0:
                    mine[int(index)] = logprobs_BR[row, batch.response_mask_BR[row]]
        parts: list[Any] = [mine]
        if self.world_size > 1:
            parts = [None] * self.world_size
            dist.all_gather_object(parts, mine)
        merged = {index: array for part in parts for index, array in part.items()}
        return [merged[i] for i in range(len(sequences))]

    def _batches(self, sequences: Seq[Sequence], rank: int | None = None) -> list[MicroBatch]:
        return make_micro_batches(
            sequences,
            self.learner.tokens_per_micro_batch,
            self.rank if rank is None else rank,
            self.world_size,
            self.pad_token,
        )

    def _logprobs(self, batch: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies float32[B, R] of a micro-batch; only R + 1 positions meet the
        head.
        """
        tokens_BT = self._tensor(batch.tokens_BT)
        output = self._engine(
            input_ids=tokens_BT,
            attention_mask=self._tensor(batch.attention_mask_BT),
            position_ids=self._tensor(batch.positions_BT),
            logits_to_keep=batch.response_width + 1,
            use_cache=False,
        )
        return losses.token_logprobs(output.logits[:, :-1], tokens_BT[:, -batch.response_width :], temperature)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    # ---------------------------------------------------------------- weights

    def weight_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """(Hugging Face name, dtype, shape) of every weight. A head tied to the embedding is omitted."""
        return [(name, p.dtype, tuple(getattr(p, "ds_shape", p.shape))) for name, p in self._parameters]

    def weight_buckets(self, bucket_bytes: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """CPU copies of all weights in `weight_metadata` order, in buckets of at most `bucket_bytes` (a
        larger weight stands alone). Rank 0 gets the tensors, the others empty lists; all must iterate to
        the end.

        Under ZeRO-3 one bucket at a time is gathered, and copied before it is released, so rank 0 never
        holds more than one bucket beside its own partition.
        """
        for bucket in _cut(self._parameters, bucket_bytes):
            with self._gathered([p for _, p in bucket], enabled=self.learner.zero_stage == 3):
                copies = [(name, p.detach().to("cpu", copy=True)) for name, p in bucket] if self.rank == 0 else []
            yield copies

    def export_huggingface(self, directory: str | Path) -> None:
        """Write a plain Hugging Face directory: config, safetensors, and the tokenizer files of
        `model_path`.
        """
        state = {name: tensor for bucket in self.weight_buckets(256 << 20) for name, tensor in bucket}
        if self.rank == 0:
            module = self._engine.module
            module.config.use_cache = True
            try:
                module.save_pretrained(directory, state_dict=state)
            finally:
                module.config.use_cache = False
            copy_companions(self.model_path, directory)
        self._barrier()

    # ---------------------------------------------------------------- checkpoints

    def save(self, directory: str | Path, extra: dict[str, Any]) -> None:
        """Everything a bit-exact continuation needs: weights, master weights, AdamW state, RNG states,
        `extra`.

        `extra` is pickled. The caller writes to a temporary directory and renames it (this method does not).
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(directory), tag=_TAG, client_state={"extra": extra}, save_latest=False)
        torch.save(random_state(), directory / f"random_{self.rank}.pt")
        if self.rank == 0:
            (directory / "engine.json").write_text(json.dumps(self._identity(), indent=1))
        self._barrier()

    def load(self, directory: str | Path) -> dict[str, Any]:
        """Continue from `save`; returns its `extra`. Only on a fresh engine, and with the same ranks and
        stage.

        Raises ValueError if the directory is no engine checkpoint or was written under other settings.
        """
        directory = Path(directory)
        try:
            found = json.loads((directory / "engine.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"'{directory}' holds no complete engine checkpoint (engine.json): {error}") from error
        for key, value in self._identity().items():
            if found.get(key) != value:
                raise ValueError(
                    f"checkpoint '{directory}' was written with {key} = {found.get(key)}, this run has "
                    f"{value}; resume with the same value, or start from its Hugging Face export"
                )
        path, state = self._engine.load_checkpoint(str(directory), tag=_TAG)
        if path is None:
            raise ValueError(f"DeepSpeed found no checkpoint in '{directory}'")
        restore_random_state(torch.load(directory / f"random_{self.rank}.pt", weights_only=False))
        return state["extra"]

    def _identity(self) -> dict[str, Any]:
        return {
            "version": CHECKPOINT_VERSION,
            "learner.ranks": self.world_size,
            "learner.zero_stage": self.learner.zero_stage,
            "weights": [[name, str(dtype), list(shape)] for name, dtype, shape in self.weight_metadata()],
        }

    def _barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Release hooks and leave the process group. The engine is unusable afterwards."""
        self._engine.destroy()
        if dist.is_initialized():
            dist.destroy_process_group()


_POLICY_ONLY = {
    "learn/clip_fraction",
    "learn/ratio_mean",
    "learn/ratio_max",
    "learn/kl",
    "learn/fresh_tokens",
    "learn/logprob_gap_mean",
    "learn/logprob_gap_max",
}


def _start_deepspeed(
    device: torch.device, rank: int, world_size: int, address: str, port: int, timeout_s: float
) -> Any:
    """Import DeepSpeed for `device` and join the process group. DeepSpeed reads the launcher's variables."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got '{device}'")
    os.environ.update(
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(device.index or 0),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "DS_ACCELERATOR": device.type,
        }
    )
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if device.type == "cpu" else "nccl",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=timeout_s),
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world_size,
    )
    return deepspeed


def _cut(
    parameters: list[tuple[str, torch.nn.Parameter]], bucket_bytes: int
) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
    bucket: list[tuple[str, torch.nn.Parameter]] = []
    used = 0
    for name, p in parameters:
        # Under ZeRO-3 a released parameter has numel() 0; its true size is ds_numel.
        size = int(getattr(p, "ds_numel", p.numel())) * p.element_size()
        if bucket and used + size > bucket_bytes:
            yield bucket
            bucket, used = [], 0
        bucket.append((name, p))
        used += size
    if bucket:
        yield bucket
