"""Tiny random models of many architectures, for `benchmarks.model_support` and the tests of weight names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 96
END = 1
_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=END,
    pad_token_id=2,
)
_VISION: dict[str, Any] = dict(
    hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)
_QWEN_VISION: dict[str, Any] = dict(
    depth=2, hidden_size=64, intermediate_size=64, num_heads=2, out_hidden_size=128, patch_size=14
)
_GEMMA: dict[str, Any] = dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=64, tie_word_embeddings=True)
_MLA: dict[str, Any] = dict(
    moe_intermediate_size=64,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    kv_lora_rank=512,  # with 64 the sizes that vLLM's kernels have
    q_lora_rank=None,
    qk_rope_head_dim=64,
    qk_nope_head_dim=32,
    v_head_dim=32,
    num_key_value_heads=4,
)
_LINEAR: dict[str, Any] = dict(  # Qwen3.5: one layer of linear attention, one of full attention
    head_dim=64,
    linear_key_head_dim=128,  # as released; the sizes that vLLM has a kernel for
    linear_value_head_dim=128,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_conv_kernel_dim=4,
    layer_types=["linear_attention", "full_attention"],
)
_EXPERTS: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)


def _text(name: str, **changes: Any) -> Callable[[], Any]:
    """A configuration class of transformers with the tiny sizes."""

    def make() -> Any:
        import transformers

        return getattr(transformers, name)(**(_SIZES | changes))

    return make


def _multimodal(name: str, text: dict[str, Any], vision: dict[str, Any], **changes: Any) -> Callable[[], Any]:
    """A composite configuration. Image tokens are at the end of the vocabulary."""

    def make() -> Any:
        import transformers

        return getattr(transformers, name)(text_config=_SIZES | text, vision_config=vision, **changes)

    return make


_MROPE: dict[str, Any] = dict(rope_type="default", mrope_section=[4, 6, 6], rope_theta=10000.0)
_IMAGE_IDS = dict(
    image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93, tie_word_embeddings=False
)

ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "Llama": _text("LlamaConfig"),
    "Llama, tied": _text("LlamaConfig", tie_word_embeddings=True),
    "Mistral": _text("MistralConfig", sliding_window=None),
    "Qwen2": _text("Qwen2Config"),
    "Qwen3": _text("Qwen3Config", head_dim=32),
    "Gemma 2": _text("Gemma2Config", **_GEMMA),
    "Gemma 3 text": _text("Gemma3TextConfig", **_GEMMA),
    "Phi-3": _text("Phi3Config"),
    "OLMo 2": _text("Olmo2Config"),
    "GLM-4": _text("Glm4Config", head_dim=32),
    "GPT-2": _text("GPT2Config", n_embd=128, n_layer=2, n_head=4, n_positions=256),
    "GPT-NeoX": _text("GPTNeoXConfig", num_attention_heads=2),
    "Falcon-H1": _text(
        "FalconH1Config", mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_d_state=32, mamba_chunk_size=16
    ),
    "Mamba 2": _text(
        "Mamba2Config",
        intermediate_size=256,
        state_size=32,
        num_heads=8,
        head_dim=32,
        expand=2,
        n_groups=1,
        chunk_size=16,
    ),
    "Mixtral": _text("MixtralConfig", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "Qwen3-MoE": _text("Qwen3MoeConfig", head_dim=32, **_EXPERTS),
    "DeepSeek-V2": _text("DeepseekV2Config", **_MLA | {"topk_method": "greedy"}),
    "DeepSeek-V3": _text("DeepseekV3Config", **_MLA, topk_method="noaux_tc", scoring_func="sigmoid"),
    "gpt-oss": _text("GptOssConfig", head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=64),
    "Qwen3.5 text": _text("Qwen3_5TextConfig", **_LINEAR),
    "Qwen3.5": _multimodal("Qwen3_5Config", _LINEAR, _QWEN_VISION, **_IMAGE_IDS),
    "Gemma 3": _multimodal("Gemma3Config", _GEMMA, _VISION, mm_tokens_per_image=4, image_token_index=90),
    "Qwen2.5-VL": _multimodal("Qwen2_5_VLConfig", dict(rope_parameters=_MROPE), _QWEN_VISION, **_IMAGE_IDS),
    "Qwen3-VL": _multimodal(
        "Qwen3VLConfig",
        dict(head_dim=32, rope_parameters=_MROPE),
        _QWEN_VISION | dict(deepstack_visual_indexes=[0]),
        **_IMAGE_IDS,
    ),
}


def tiny_model(architecture: str, seed: int = 0) -> Any:
    """A random float32 model whose log-probabilities are far from uniform, so that a stale weight shows."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = ARCHITECTURES[architecture]()
    text = config.get_text_config()
    auto = AutoModelForCausalLM if text is config else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config).float().eval()
        with torch.no_grad():  # norms start at one and biases at zero, where errors would hide
            for name, parameter in model.named_parameters():
                if parameter.ndim < 2:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif "conv" not in name:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
    return model


def save_tiny_model(architecture: str, directory: Path, seed: int = 0) -> Any:
    """Write a tiny model as a Hugging Face directory, in the checkpoint's names, and return it."""
    model = tiny_model(architecture, seed)
    model.save_pretrained(directory)
    return model
