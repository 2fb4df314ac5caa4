"""Typed settings of the learner: policy loss, LoRA, optimizer. `cluster.config` combines them into a run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from learner.section import Section

_MOST_8BIT = 1 << 31  # weights of one tensor that are too many for bitsandbytes


class LossSettings(Section):
    """The per-token policy loss: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), summed over tokens."""

    clip_low: float = Field(
        0.2,
        gt=0,
        le=1,
        description="How far the importance ratio of a token may fall below 1 before its gradient stops "
        "(negative advantages). Dimensionless; 1 disables the lower clip.",
    )
    clip_high: float = Field(
        0.2,
        gt=0,
        description="How far the importance ratio of a token may rise above 1 before its gradient stops "
        "(positive advantages). Dimensionless. At staleness 0 every ratio is 1 and nothing is clipped.",
    )
    dual_clip: float | None = Field(
        None,
        gt=1,
        description="Bound c on the loss of tokens with negative advantage: max(min(r A, clip(r) A), c A), so that a "
        "token whose probability has risen a lot does not dominate (arXiv 1912.09729). Null: off; 3 is usual.",
    )
    ratio: Literal["behaviour", "decoupled"] = Field(
        "behaviour",
        description="`behaviour`: clip the ratio of the current policy to the sampling policy. `decoupled` (for stale "
        "groups, arXiv 2110.00641): weight each token by the ratio of the policy at the start of the step to the "
        "sampling policy, truncated by behaviour_cap, and clip only the change within the step. Each batch is one "
        "optimizer step, so there is no such change and nothing is clipped: clip_low, clip_high and dual_clip are "
        "rejected.",
    )
    behaviour_cap: float | None = Field(
        None,
        gt=0,
        description="Truncates the behavior weight of ratio: decoupled (truncated importance sampling). Null: off.",
    )
    normalisation: Literal["constant", "tokens", "sequence"] = Field(
        "constant",
        description="Divisor of the sum over tokens. `constant`: the number of groups, no length bias. `tokens`: that "
        "times the batch's mean response length. `sequence`: each response's sum is divided by its length, which is "
        "biased towards short right answers and long wrong ones.",
    )
    entropy_coefficient: float = Field(
        0.0, ge=0, description="Weight of the policy's mean entropy per token in the objective."
    )
    kl_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of KL(policy || reference) per response, which is subtracted from the objective. The "
        "reference is the model that the run starts from; the learner keeps a second copy of it, or none with "
        "learner.lora.",
    )
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(
        None,
        description="Estimate of the KL per token, with d = log policy - log reference: k1 = d, k2 = d^2 / 2, "
        "k3 = exp(-d) - 1 + d. In the reward only k1 is allowed. As a loss, on fresh samples, k2 has the gradient of "
        "each token's KL(policy || reference), k3 that of KL(reference || policy), both without the token's effect on "
        "the KL of later tokens, which the reward includes; k1 has no gradient on average and is rejected. Null: k2 "
        "as a loss, k1 in the reward.",
    )
    kl_placement: Literal["loss", "reward"] = Field(
        "loss",
        description="`loss`: differentiate the estimate. `reward`: subtract k1 of the whole response from its reward, "
        "with a separate leave-one-out baseline (none at rollout.n = 1): unbiased, for one more forward pass.",
    )
    kl_refresh_every: int = Field(
        0, ge=0, description="Optimizer steps after which the reference becomes the current policy. 0: frozen."
    )
    skip_zero_advantage: bool = Field(
        True,
        description="Leave samples of zero advantage out of the forward pass. They have no gradient, so "
        "this changes the speed and the tokens behind the diagnostics, never the update. They are kept if KL or "
        "entropy are in the loss.",
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.behaviour_cap is not None and self.ratio != "decoupled":
            raise ValueError("behaviour_cap needs ratio: decoupled; it has no effect with ratio: behaviour")
        if self.ratio == "decoupled" and (changed := self.changed_clips()):
            raise ValueError(
                f"loss.{changed[0]} has no effect with ratio: decoupled, whose clipped ratio is always 1 (one step "
                "per batch); leave it out and bound the update by behaviour_cap, or use ratio: behaviour"
            )
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            raise ValueError("loss.kl_estimator = k1 has no gradient as a loss; use kl_placement: reward, or k2")
        if self.kl_placement == "reward" and self.kl_estimator not in (None, "k1"):
            raise ValueError(
                f"loss.kl_estimator = {self.kl_estimator}: in the reward the KL is estimated by k1; leave it out, or "
                "use kl_placement: loss"
            )
        return self

    @property
    def kl_estimate(self) -> str:
        """The KL estimator that `kl_estimator` and `kl_placement` imply."""
        return self.kl_estimator or ("k1" if self.kl_placement == "reward" else "k2")

    def changed_clips(self) -> list[str]:
        """The keys of the clip that differ from their defaults."""
        clips = ("clip_low", "clip_high", "dual_clip")
        return [key for key in clips if getattr(self, key) != type(self).model_fields[key].default]


ALL_LINEAR = "all-linear"
MAX_SENT_RANK = 512  # of vLLM 0.32


class LoraSettings(Section):
    """Adapters of low rank in a frozen model (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1, le=4096, description="Rank of every adapter, peft's `r`.")
    alpha: float = Field(
        32.0,
        gt=0,
        description="An adapter is multiplied by alpha / rank. Twice the rank is usual; peft's `lora_alpha`.",
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Layers that get an adapter: all-linear (every linear layer except the output head), or a list of "
        "names or ends of names, such as `[q_proj, v_proj]`; peft's `target_modules`. Embeddings and the head stay "
        "frozen and cannot be named.",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout on the inputs of the adapters, for `bonrl sft` only: samplers have none, so in "
        "reinforcement learning no importance ratio would be 1.",
    )
    send: Literal["merged", "adapters"] = Field(
        "merged",
        description="What samplers get after each step. merged: the weights of adapted layers with the adapters added, "
        "rounded to model.dtype; they sample at the speed of the plain model. adapters: the adapters alone, which vLLM "
        "applies as the learner does: far fewer bytes, and in bfloat16 no change is rounded away, for slower sampling.",
    )

    @field_validator("targets")
    @classmethod
    def _some(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets or not all(targets):
            raise ValueError("learner.lora.targets is empty or has an empty name; list linear layers or use all-linear")
        return targets

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.send == "adapters" and self.rank > MAX_SENT_RANK:
            raise ValueError(
                f"learner.lora.rank = {self.rank}: vLLM takes adapters of rank {MAX_SENT_RANK} at most; lower it, or "
                "set learner.lora.send = merged"
            )
        return self


class LearnerSettings(Section):
    """DeepSpeed ranks, AdamW, and the size of a micro-batch."""

    ranks: int = Field(1, ge=1, description="DeepSpeed data-parallel ranks, one Ray actor each.")
    zero_stage: int = Field(
        0,
        ge=0,
        le=3,
        description="DeepSpeed ZeRO stage: 0 replicates everything, 1 partitions the optimizer state over "
        "the ranks, 2 also the gradients, 3 also the weights, and those of the KL's reference model. With one rank, 0 "
        "is the fastest. In bfloat16, 0 runs as 1, because DeepSpeed's stage 0 would sum the gradients of the "
        "micro-batches in bfloat16.",
    )
    learning_rate: float = Field(
        5e-5,
        gt=0,
        le=1,
        description="AdamW learning rate after warm-up, which schedule.learning_rate may change. The default is for "
        "models of a few million parameters; usual for all weights of 0.1 billion or more are 1e-6 to 1e-5, and about "
        "ten times that with learner.lora.",
    )
    warmup_steps: int = Field(
        5,
        ge=0,
        description="Optimizer steps over which the learning rate rises linearly (AdamW's second moment "
        "is unreliable in its first steps). 0 disables warm-up.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Decoupled weight decay, on matrices only (not on norms and biases).",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW decay of the first moment, per step.")
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="AdamW decay of the second moment, per step. RL gradients change scale quickly, hence "
        "a shorter memory than the 0.999 of pre-training.",
    )
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW denominator offset, in units of the gradient.")
    gradient_clip: float = Field(
        1.0,
        ge=0,
        description="Largest global L2 norm of the gradient; a longer one is scaled down. 0: no clipping.",
    )
    tokens_per_micro_batch: int = Field(
        4096,
        ge=16,
        description="Most tokens (prompt, response and padding) in one forward pass of one rank. A larger value is "
        "faster and needs more activation memory. At least the longest sequence.",
    )
    gpus_per_rank: float = Field(
        0,
        ge=0,
        description="GPUs that Ray gives to each rank. 0: train on the CPU with gloo; 1: CUDA with nccl.",
    )
    threads: int = Field(
        2,
        ge=1,
        description="CPU threads of each rank's tensor operations (torch.set_num_threads). Part of what "
        "makes a CPU run reproducible: another number may change the last bits.",
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="adamw_8bit: AdamW whose two moments take one byte each instead of four (the package "
        "bitsandbytes, GPU only). The update is rounded, so runs differ from those of adamw.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="GPU only: what is kept in host memory. optimizer: Adam's moments and the float32 weights, "
        "updated by the CPU (zero_stage 1 or more). all: the weights too, fetched for each pass (zero_stage 3). For "
        "models that do not fit on the GPU; each step takes longer, because it waits for the copies.",
    )
    sleep: Literal["none", "states"] = Field(
        "none",
        description="What a rank keeps in host memory while samplers work. states: Adam's moments and the float32 "
        "weights, 12 bytes for each trained weight; the sampler's cache gets their memory on the GPU, and each step "
        "waits while they move. Needs cluster.placement: colocated, sampler.sleep and zero_stage: 2. Not run on a GPU "
        "yet.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: far less memory, about a third more time.",
    )
    logits_chunk_mib: int | None = Field(
        256,
        ge=1,
        description="Size of the float32 logits that are computed at once, MiB; about three times as much is in use. "
        "The logits of more response tokens are computed in chunks of this size, and again in the backward pass (under "
        "adapters only if loss.entropy_coefficient is set). With larger chunks the gradient of the output head is "
        "added up fewer times (in float32). Null: all logits at once.",
    )
    packing: bool | Literal["auto"] = Field(
        "auto",
        description="Put the sequences of a micro-batch into one row without padding; no sequence attends to another. "
        "`auto` packs if the rank has a GPU with FlashAttention (of flash-attn if it is installed, else of torch), "
        "model.dtype is bfloat16 and the architecture allows it; otherwise it pads. `true` always packs: without "
        "FlashAttention, the sequences are padded inside of the attention only; with sliding windows, the attention "
        "of the whole row is masked, which is slow for many short sequences.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the decoder layers and the passes over the logits with torch.compile: faster steps after "
        "minutes of compilation at the start. Needs a compiler on the learner's node (g++ for a CPU, gcc for a GPU). "
        "The results differ in the last bits, also between a run and its repetition after a restart. With zero_stage 3 "
        "the weights of a whole layer are gathered at a time.",
    )
    lora: LoraSettings | None = Field(
        None,
        description="Train adapters of low rank and keep the model frozen. Null: train all weights. See docs/lora.md.",
    )

    @property
    def sent_adapters(self) -> LoraSettings | None:
        """The adapters, if samplers get these and not merged weights."""
        return self.lora if self.lora is not None and self.lora.send == "adapters" else None

    def stage(self, dtype: str) -> int:
        """The ZeRO stage that DeepSpeed runs for a model in `dtype`.

        DeepSpeed's stage 0 sums the gradients of the micro-batches in the weights' type; in bfloat16 a sum of more than
        256 equal gradients would stop growing. Stage 1 sums in float32.
        """
        return max(1, self.zero_stage) if dtype == "bfloat16" else self.zero_stage

    def too_many_for_8bit(self, dtype: str, weights: int) -> str | None:
        """Why 8-bit AdamW cannot update so many weights in matrices; None where it can.

        bitsandbytes counts a tensor's weights in 32 bits, and at ZeRO-1 and 2 all matrices of a rank are one tensor.
        """
        stage, held = self.stage(dtype), weights // self.ranks
        if stage not in (1, 2) or held < _MOST_8BIT:
            return None
        return (
            f"learner.optimizer = adamw_8bit updates fewer than {_MOST_8BIT} weights at once, but at ZeRO stage "
            f"{stage} a rank has {held}; set learner.zero_stage = 3, also with one rank, or learner.optimizer = adamw "
            "with learner.offload = optimizer"
        )

    @property
    def logits_chunk_bytes(self) -> int | None:
        return None if self.logits_chunk_mib is None else self.logits_chunk_mib << 20
