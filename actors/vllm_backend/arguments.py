"""The settings of a sampler as arguments of vLLM's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.card_memory import utilization
from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend.environment import EngineError

_GIB = 2**30
# vLLM captures CUDA graphs for batches of up to 512 sequences, larger ones in steps of 16; beyond it decodes without.
_GRAPH_SEQUENCES, _GRAPH_STEP = 512, 16
# Tokens of a batch that vLLM chooses at least for offline inference on a GPU, and those of a batch on the CPU.
_BATCH_TOKENS, _CPU_BATCH_TOKENS = 8192, 4096


def engine_arguments(
    model_path: str, dtype: str, sampler: SamplerSettings, rollout: RolloutSettings, seed: int
) -> dict[str, Any]:
    """vLLM's arguments for the engine, without those of its memory and of weight transfer."""
    arguments: dict[str, Any] = dict(
        model=model_path,
        dtype=dtype,
        load_format=_load_format(model_path),
        seed=seed,
        skip_tokenizer_init=True,
        max_model_len=sampler.max_model_len or rollout.max_sequence_tokens,
        max_num_seqs=sampler.max_num_seqs,
        enforce_eager=sampler.enforce_eager,
        language_model_only=True,  # for multimodal checkpoints, as in the learner
        enable_prefix_caching=True,  # the n samples of a prompt share its prefill; every update clears it
        logprobs_mode="processed_logprobs",  # after applying the temperature
        disable_log_stats=True,  # of vLLM's own loggers
        enable_log_requests=False,
        use_tqdm_on_load=False,
        generation_config="vllm",  # sampling defaults of the model directory must not change the distribution
    )
    arguments["worker_extension_cls"] = "actors.vllm_backend.host_registration.WorkerExtension"
    if sampler.gpus:
        if dtype == "bfloat16":  # the learner's logits are not rounded on a GPU either (learner/chunked_head.py)
            arguments["hf_overrides"] = {"head_dtype": "float32"}
        arguments["tensor_parallel_size"] = sampler.tensor_parallel
        # By default vLLM takes its Ray executor in a placement group, where samplers may run; an engine is on one node.
        arguments["distributed_executor_backend"] = "mp" if sampler.tensor_parallel > 1 else "uni"
        if sampler.max_num_seqs > _BATCH_TOKENS:  # vLLM refuses more sequences than tokens
            arguments["max_num_batched_tokens"] = sampler.max_num_seqs
        if sampler.max_num_seqs > _GRAPH_SEQUENCES and not sampler.enforce_eager:
            arguments["max_cudagraph_capture_size"] = -(-sampler.max_num_seqs // _GRAPH_STEP) * _GRAPH_STEP
    else:
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        arguments["kv_cache_memory_bytes"] = int(sampler.kv_cache_gib * _GIB)
        # Chunked prefill rewinds the request's random generator, which CPU generators cannot do.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(_CPU_BATCH_TOKENS, arguments["max_model_len"], sampler.max_num_seqs)
        # On CPUs vLLM overrides the name "uni", but not the class.
        arguments["distributed_executor_backend"] = UniProcExecutor
    return arguments


def _load_format(model_path: str) -> str:
    """With an index, the files that it names, as the learner reads them.

    By default vLLM prefers `consolidated.safetensors` of Mistral's models, which fine-tuning leaves unchanged.
    """
    return "hf" if (Path(model_path) / "model.safetensors.index.json").is_file() else "auto"


def memory_arguments(sampler: SamplerSettings, reserved: float, card_gib: float | None) -> dict[str, Any]:
    """vLLM's arguments for its share of a GPU; none on the CPU.

    Args:
        reserved, card_gib: see :class:`actors.vllm_backend.engine.VllmEngine`.

    Raises:
        EngineError: a learner rank on the same GPU leaves no memory.
    """
    if not sampler.gpus:
        return {}
    from vllm.platforms import current_platform

    total = float(current_platform.get_device_total_memory())
    usable = total if card_gib is None else min(total, card_gib * _GIB)
    share = utilization(sampler, usable, reserved) * usable / total
    if share <= 0:
        raise EngineError(
            f"the learner rank needs {reserved / _GIB:.1f} GiB of the {usable / _GIB:.1f} GiB of the shared "
            "GPU; set learner.offload = optimizer, or take a smaller model.path"
        )
    return {"gpu_memory_utilization": share, "enable_sleep_mode": sampler.sleep != "none"}


def keeps_states(model_config: Any) -> bool:
    """Whether layers keep a recurrent state (Mamba, linear attention), not only keys and values."""
    return bool(model_config.is_hybrid or model_config.is_attention_free)
