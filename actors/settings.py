"""Settings of the actors: rollouts, samplers, the replay queue, weight broadcast and deadlines.

One model per section of the YAML file; `cluster.config` composes them. Every description states unit and
reason, because the reference page and the messages for wrong keys are generated from it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from actors.queue.allocation_settings import AllocationSettings
from actors.sampling import MIN_TEMPERATURE
from learner.section import Section


class RolloutSettings(Section):
    """What is sampled for one optimizer step (section `rollout`)."""

    n: int = Field(
        16,
        ge=1,
        le=4096,
        description="Samples per prompt (N), at least objective.k. They share the prefill of the prompt.",
    )
    prompts_per_step: int = Field(
        16,
        ge=1,
        le=65536,
        description="Prompts (groups) of one optimizer step (P); the batch holds P x n samples.",
    )
    temperature: float = Field(
        1.0,
        ge=MIN_TEMPERATURE,
        le=10.0,
        description=(
            "Softmax temperature of sampling; vLLM would raise a lower one to 0.01. Sampling log-probabilities are "
            "those of the tempered distribution, and the learner applies the same temperature."
        ),
    )
    top_p: float = Field(
        1.0,
        ge=1.0,
        le=1.0,
        description=(
            "Fixed at 1: truncation gives sampler and learner different supports, so that the importance ratio "
            "and the gradient would no longer be exact."
        ),
    )
    top_k: Literal[-1] = Field(-1, description="Fixed at -1 (off), for the reason given at top_p.")
    max_prompt_tokens: int = Field(
        64,
        ge=1,
        le=1_000_000,
        description="Longest prompt in tokens; longer prompts are refused before the start, not truncated (see "
        "task.drop_overlong).",
    )
    max_response_tokens: int = Field(
        24,
        ge=1,
        le=1_000_000,
        description="Longest response in tokens; longer samples are truncated, with finish reason 'length'.",
    )

    allocation: AllocationSettings | None = Field(
        None,
        description="Choose prompts and their numbers of samples by their results in earlier epochs, with rollout.n as "
        "the mean of every step; `{}` for the defaults. Null: all prompts, rollout.n samples each.",
    )

    max_samples_in_flight: int | None = Field(
        None,
        ge=1,
        description="Most samples that are being sampled or verified at the same time. Further groups wait, so slow "
        "verifiers slow down sampling instead of accumulating groups. null: no limit besides the queue's slots.",
    )

    @property
    def max_sequence_tokens(self) -> int:
        """Tokens of the longest prompt and response together: the context length of the sampler."""
        return self.max_prompt_tokens + self.max_response_tokens


class ElasticCount(Section):
    """A number of actors that may change during the run."""

    min: int = Field(
        1, ge=1, le=4096, description="The run starts with this many actors, and fails if it cannot keep them."
    )
    max: int = Field(
        1,
        ge=1,
        le=4096,
        description="More actors join, up to this number, when the cluster has resources for them; an autoscaler "
        "provides them.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ElasticCount:
        if self.max < self.min:
            raise ValueError(f"max = {self.max} is below min = {self.min}: raise max")
        return self


class ActorsSettings(Section):
    """How many actors of each kind (section `actors`)."""

    samplers: int | ElasticCount = Field(
        1,
        description="Sampler actors, each with one vLLM engine and its devices: a number, or {min, max}, where actors "
        "above min join and leave with the cluster's resources.",
    )
    verifiers: int | ElasticCount = Field(
        1, description="Verifier workers; each needs about one CPU core. A number or {min, max}, as for samplers."
    )
    verifier_gpus: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of a GPU of one verifier worker, for a learned verifier (task.scorer.kind: learned), or for "
        "models in your own reward, task or scorer; 0: CPU. The GPU is another one than those of samplers and learner.",
    )

    @field_validator("samplers", "verifiers")
    @classmethod
    def _positive(cls, count: int | ElasticCount) -> int | ElasticCount:
        if isinstance(count, int) and not 1 <= count <= 4096:
            raise ValueError(f"{count} actors: give 1 to 4096, or a mapping of min and max")
        return count

    @property
    def sampler_range(self) -> ElasticCount:
        return _as_range(self.samplers)

    @property
    def verifier_range(self) -> ElasticCount:
        return _as_range(self.verifiers)


def _as_range(count: int | ElasticCount) -> ElasticCount:
    return ElasticCount(min=count, max=count) if isinstance(count, int) else count


class SamplerSettings(Section):
    """One sampler and its vLLM engine (section `sampler`). The number format comes from `model.dtype`."""

    gpus: int = Field(
        0,
        ge=0,
        le=1024,
        description="GPUs of one sampler; 0 samples on the CPU. Must equal tensor_parallel if > 0.",
    )
    tensor_parallel: int = Field(
        1, ge=1, le=1024, description="Devices over which the engine splits each weight matrix; 1 on the CPU."
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="CPU only: OpenMP threads of the engine, at most the physical cores. For models of a few "
        "million parameters 1 is faster, because threads mostly wait for each other, especially next to a learner.",
    )
    kv_cache_gib: float = Field(
        1.0,
        gt=0.0,
        le=4096.0,
        description="CPU only: GiB of memory for keys and values. When it is full, requests wait.",
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="GPU only: share of each GPU's memory that the engine may take for weights, activations and cache. "
        "null: 0.85; with cluster.placement: colocated, what the learner rank leaves of the GPU.",
    )
    sleep: Literal["none", "cache", "weights"] = Field(
        "none",
        description="GPU only, with cluster.placement: colocated and queue.staleness: 0: what the engine frees while "
        "the learner works. cache: keys and values. weights: the weights too; the update that ends each step brings "
        "them back. Larger micro-batches and caches fit; freeing and allocating take time in each step.",
    )
    enforce_eager: bool = Field(
        True,
        description=(
            "Skip torch.compile and CUDA graphs. On the CPU, true starts about 60 s sooner and is as fast for "
            "small models; set false on GPUs."
        ),
    )
    max_num_seqs: int = Field(
        256,
        ge=1,
        le=65536,
        description="Most sequences decoded in one batch; more wait in the engine. Raise it together with the "
        "key-value cache.",
    )
    in_flight: Literal["keep", "finish"] = Field(
        "keep",
        description="Effect of a weight update on running samples. keep: they continue with the new weights; a token "
        "keeps the log-probability of the weights that sampled it, and its version is recorded. finish: the update "
        "waits for them, so that each sample has one version; new requests wait too, and engines idle.",
    )
    max_model_len: int | None = Field(
        None,
        ge=2,
        description=(
            "Context length of the engine in tokens; null: rollout.max_prompt_tokens + rollout.max_response_tokens."
        ),
    )


class QueueSettings(Section):
    """The replay queue (section `queue`)."""

    staleness: int = Field(
        0,
        ge=0,
        le=1024,
        description=(
            "S, in optimizer steps: how far sampling may run ahead of learning. 0 is synchronous and "
            "reproducible; the queue holds (S + 1) x prompts_per_step slots."
        ),
    )
    overtake: int = Field(
        0,
        ge=0,
        le=1024,
        description=(
            "W, in optimizer steps: how far a finished group may overtake an unfinished older one. The "
            "staleness of a trained group never exceeds S + W."
        ),
    )


class BroadcastSettings(Section):
    """How new weights get from the learner to the samplers (section `broadcast`)."""

    backend: Literal["auto", "host", "nccl", "ipc"] = Field(
        "auto",
        description="Weight-transfer back-end; the run's log says which one auto chose. host: through host memory, "
        "for CPUs, GPUs and any mix. nccl: broadcasts from learner rank 0 to all samplers, between GPUs of one or "
        "several nodes (between CPUs with gloo); rank 0 holds the weights once more during an update. ipc: within the "
        "GPU that one sampler and one learner rank share (cluster.placement: colocated), with the memory of the "
        "weights once more during the whole run. nccl and ipc have not run on a GPU yet, so auto chooses host.",
    )

    @property
    def chosen_backend(self) -> str:
        """The back-end that `backend` means."""
        return "host" if self.backend == "auto" else self.backend

    transport: Literal["auto", "shared_memory", "object_store"] = Field(
        "auto",
        description=(
            "shared_memory: files in /dev/shm (learner and samplers on one node); object_store: Ray's store "
            "(across nodes); auto: shared memory for the samplers on the learner's node, the store for "
            "others. Only broadcast.backend = host uses it."
        ),
    )
    bucket_mib: int = Field(
        64,
        ge=1,
        le=4096,
        description=(
            "MiB of weights in one packed bucket. It bounds the memory that ZeRO-3 needs to gather weights. ipc takes "
            "512 if this is less, because an engine maps each bucket in each update."
        ),
    )


class DeadlineSettings(Section):
    """Timeouts in seconds; the error message names what was waited for (section `deadlines`)."""

    start_s: float = Field(
        300.0,
        gt=0,
        description="Start of an actor. Importing vLLM and building an engine takes 20-80 s on two cores.",
    )
    sample_s: float = Field(
        600.0,
        gt=0,
        description="One group: n samples for one prompt, and its wait in the engine for the groups before it. Raise "
        "it for answers of several thousand tokens.",
    )
    verify_s: float = Field(
        600.0,
        gt=0,
        description="Verification of one group: n answers, each within its verifier's own time limit, and its wait in "
        "the worker for the groups before it. With slow verifiers raise it, add workers (actors.verifiers), or limit "
        "what waits (rollout.max_samples_in_flight).",
    )
    learn_s: float = Field(1800.0, gt=0, description="One optimizer step on every learner rank.")
    broadcast_s: float = Field(300.0, gt=0, description="One weight update on every sampler.")
    checkpoint_s: float = Field(600.0, gt=0, description="Writing one checkpoint.")

    @property
    def replacement_s(self) -> float:
        """Longest time to replace lost learner ranks: the supervisor's restarts, and the steps since a checkpoint."""
        return 4 * self.start_s + 10 * self.learn_s

    @property
    def longest_s(self) -> float:
        """Longest deadline of a call to the learner. While rank 0 reads or writes a model, the other ranks wait in a
        collective operation, which must not give up before the call does."""
        return max(self.start_s, self.learn_s, self.broadcast_s, self.checkpoint_s)

    replacement_key: ClassVar[str] = "4 x deadlines.start_s + 10 x deadlines.learn_s"

    def of(self, name: str) -> dict[str, Any]:
        """The arguments of :func:`actors.remote_calls.call` that bound a wait by the setting `name`."""
        return {"deadline_s": getattr(self, name), "key": f"deadlines.{name}"}


class SupervisionSettings(Section):
    """How actors that die or hang are detected and replaced (section `supervision`)."""

    heartbeat_s: float = Field(1.0, gt=0.0, le=60.0, description="Seconds between two checks of an actor.")
    hung_s: float = Field(
        8.0,
        gt=0.0,
        le=3600.0,
        description="Seconds after which an actor is replaced if it is stopped, or neither answers nor uses its "
        "processor. An actor that computes without answering (a compilation) has until busy_s.",
    )
    busy_s: float = Field(
        600.0, gt=0.0, description="Seconds after which an actor that computes but does not answer is replaced."
    )
    max_restarts: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="Restarts of actors of all kinds in one run; the next loss ends the run with a report. 0: the "
        "first loss ends it. Not counted: samplers and verifiers above `min`, losses caused by prompts that were "
        "quarantined, and losses with a node that ended after a notice.",
    )
    backoff_s: float = Field(
        1.0, ge=0.0, description="Seconds before an actor is restarted; doubled with each consecutive failure."
    )
    backoff_max_s: float = Field(60.0, ge=0.0, description="Longest wait before a restart, in seconds.")
    poison_deaths: int = Field(
        3,
        ge=1,
        le=100,
        description="Failures of samplers or verifiers while they process the same prompt, after which the prompt is "
        "retried alone; if that fails too, it is quarantined (quarantine/ in the run directory). The first "
        "poison_deaths losses with a whole node do not count.",
    )
    max_quarantined: int = Field(
        16,
        ge=0,
        le=1_000_000,
        description="Most quarantined training prompts in one run, resumes included, and separately of evaluation "
        "prompts; one more ends the run with a report.",
    )
