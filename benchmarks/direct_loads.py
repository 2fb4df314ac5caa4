"""Seconds of an update in vLLM's model: its layer-wise reload ÷ repeated copies (actors/vllm_backend/direct_loads.py).

    python -m benchmarks.direct_loads [--layers 36] [--hidden 128] [--repeats 15]

A random model of Qwen3's form with small matrices, so that calls and not bytes decide; both sides load the same bucket
and alternate. The models are not processed for the CPU, so that their parameters are the checkpoint's values, as on a
GPU. Prints one Markdown table row.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from actors.vllm_backend.direct_loads import DirectLoads
from actors.weights import buckets
from benchmarks.markdown import markdown

LIMIT_TOKENS = 64


def vllm_models(directories: list[Path], group: Path, copies: int = 1) -> Iterator[tuple[Any, list[Any]]]:
    """For each Hugging Face model its configuration in vLLM, and as many instances of it in this process, not loaded.

    What happens between two of them is done with the first one's configuration.

    Args:
        directories: of models; the first has experts if any has, because vLLM makes their process group only then.
        group: a new file, where torch.distributed starts its group of one.
    """
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    for directory in directories:
        arguments = EngineArgs(model=str(directory), dtype="float32", max_model_len=LIMIT_TOKENS)
        configs = [arguments.create_engine_config() for _ in range(copies)]  # each has the names of its layers
        with set_current_vllm_config(configs[0]), torch.no_grad():
            if not torch.distributed.is_initialized():
                init_distributed_environment(1, 0, f"file://{group}", 0, "gloo")
                initialize_model_parallel(1, 1)
            yield configs[0], [initialize_model(config) for config in configs]


def write_random_model(directory: Path, layers: int, hidden: int) -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=LIMIT_TOKENS,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).float().save_pretrained(directory)


def reload(model: Any, config: Any, tensors: Any) -> None:
    """As an update without direct loads."""
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

    initialize_layerwise_reload(model)
    model.load_weights(tensors)
    finalize_layerwise_reload(model, config.model_config)


def measure(directory: Path, repeats: int) -> tuple[list[float], list[float], int]:
    """Seconds of each reload and of each direct load, and the number of tensors."""
    from safetensors.torch import load_file
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.model_executor.model_loader.reload.layerwise import record_metadata_for_reloading

    for method in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
        method.process_weights_after_loading = lambda self, layer: None  # type: ignore[method-assign]  # as on a GPU
    tensors = list(load_file(directory / "model.safetensors").items())
    manifest, flat = buckets.flatten(tensors)
    config, (model,) = next(vllm_models([directory], directory / "group"))
    record_metadata_for_reloading(model)
    direct = DirectLoads(model)
    reload(model, config, buckets.views(manifest, flat))
    direct.reloaded([manifest])

    def load() -> None:
        assert direct.begin([manifest])
        direct.load(buckets.views(manifest, flat))
        direct.finish(complete=True)

    load()  # records
    reloads, loads = [], []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        reload(model, config, buckets.views(manifest, flat))
        middle = time.perf_counter()
        load()
        if repeat:
            reloads.append(middle - begin)
            loads.append(time.perf_counter() - middle)
    return reloads, loads, len(tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--hidden", type=int, default=128, help="width of the model")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)  # other threads only wait for tensors of this size
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        write_random_model(directory, options.layers, options.hidden)
        reloads, loads, tensors = measure(directory, options.repeats)
    shown = {
        "tensors": f"{tensors}",
        "layer-wise reload": f"{1000 * statistics.median(reloads):.1f} ms",
        "repeated copies": f"{1000 * statistics.median(loads):.1f} ms",
        "ratio": f"{statistics.median(reloads) / statistics.median(loads):.1f}",
    }
    print(markdown([list(shown), list(shown.values())]))


if __name__ == "__main__":
    main()
