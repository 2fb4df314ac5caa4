"""Whether the sampler (vLLM) and the learner (transformers) can both run a model, judged by its config.json.

The lists of architectures are read from the source of the installed packages: importing vLLM takes ten seconds. Where
a list cannot be read, its check is left out, and the start of sampler or learner reports the error.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_VLLM_TABLES = {
    "_TEXT_GENERATION_MODELS",
    "_MULTIMODAL_MODELS",
    "_TRANSFORMERS_SUPPORTED_MODELS",
    "_TRANSFORMERS_BACKEND_MODELS",
}
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
_VLLM_MODELS = "vllm.model_executor.models"
_CPU_ROTARY_STEP = 16  # 8 of a GPT-NeoX head gave noise (vLLM 0.32), 16 the right log-probabilities
_REMEDY = "set model.path to a causal language model that both support (docs/models.md lists those that were tried)"


def text_settings(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of the language model in a config.json; what it leaves to defaults is asked from transformers.

    Published files leave sizes out (gemma-3 its vocabulary) or have other names for them (GPT-2). A model without
    attention has 0 heads. Where transformers does not know the model, the result is what the file says.
    """
    text: dict[str, Any] = config.get("text_config") or config
    if all(key in text for key in SIZES):
        return text
    try:
        from transformers import AutoConfig

        known = AutoConfig.from_pretrained(directory, local_files_only=True).get_text_config()
    except Exception:  # noqa: BLE001 - whatever the settings raise; cluster.checks.model_loading refuses them
        return text
    resolved = {key: getattr(known, key, None) for key in (*SIZES, "head_dim", "num_key_value_heads")}
    if resolved["num_attention_heads"] is None and "ForCausalLM" in "".join(config.get("architectures") or []):
        resolved["num_attention_heads"] = 0
    resolved["max_position_embeddings"] = getattr(known, "max_position_embeddings", None)
    return {key: value for key, value in resolved.items() if value is not None}


def support_problems(
    directory: str | Path, config: dict[str, Any], *, sampler_gpus: float | None, dtype: str
) -> Iterator[str]:
    """One line for each reason why a run with this model would end at its start.

    Args:
        directory: named in the lines.
        config: the content of config.json.
        sampler_gpus: of one sampler; 0 for a CPU; None where nothing is sampled, so that vLLM is not used.
        dtype: model.dtype.
    """
    place = f"model.path = {directory}"
    name = (config.get("architectures") or [None])[0]
    if name is None:
        yield f"{place}: config.json names no architecture; restore the model's own config.json, or {_REMEDY}"
        return
    if sampler_gpus is not None and (known := vllm_architectures()) and name not in known:
        yield f"{place}: vLLM cannot sample from the architecture {name!r} (config.json); {_REMEDY}"
        return
    yield from _learner_problems(place, config)
    if sampler_gpus == 0:
        yield from _attention_problems(place, config, dtype)


def _learner_problems(place: str, config: dict[str, Any]) -> Iterator[str]:
    """The learner loads by `model_type`: causal language models, and multimodal ones for their language model."""
    model_type, tables = config.get("model_type"), transformers_tables()
    if not tables:
        return
    if model_type is None:
        yield f"{place}: config.json has no model_type, from which the learner chooses the model's class; {_REMEDY}"
    elif model_type not in tables["CONFIG_MAPPING_NAMES"]:
        code = " (it ships its own code, which bonrl does not run)" if "auto_map" in config else ""
        yield f"{place}: the installed transformers does not know the model_type {model_type!r}{code}; {_REMEDY}"
    elif config.get("is_encoder_decoder"):
        yield f"{place}: {model_type!r} has an encoder and a decoder, but bonrl trains decoder-only models; {_REMEDY}"
    else:
        multimodal = bool(config.get("text_config"))
        table = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES" if multimodal else "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
        if model_type not in tables[table]:
            kind = "an image-text model" if multimodal else "a causal language model"
            yield f"{place}: transformers cannot load the model_type {model_type!r} as {kind}; {_REMEDY}"


def _attention_problems(place: str, config: dict[str, Any], dtype: str) -> Iterator[str]:
    """Problems with vLLM's attention on CPUs, which would show at the first token or not at all."""
    text = config.get("text_config") or config
    hidden, heads = text.get("hidden_size"), text.get("num_attention_heads")
    if dtype != "bfloat16" and ("linear_attn_config" in text or "linear_num_value_heads" in text):
        yield (
            f"{place}: vLLM's linear attention (gated delta rule) on CPUs computes in bfloat16 only; set model.dtype: "
            "bfloat16, sample on GPUs (sampler.gpus) or set model.path to another model"
        )
        return
    if text.get("kv_lora_rank"):
        yield (
            f"{place}: vLLM's latent attention (kv_lora_rank) on CPUs does not agree with the learner's; sample on "
            "GPUs (sampler.gpus) or set model.path to another model"
        )
        return
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return
    size, known = text.get("head_dim") or hidden // heads, _cpu_head_sizes()
    rotated = int(size * _rotary_share(text))
    if rotated % _CPU_ROTARY_STEP:
        yield (
            f"{place}: {rotated} dimensions of its heads are rotated by position, and vLLM's CPU kernel is wrong "
            f"unless that is a multiple of {_CPU_ROTARY_STEP}; sample on GPUs (sampler.gpus) or set model.path to "
            "another model"
        )
    elif known and size not in known:
        yield (
            f"{place}: its heads have size {size}, but vLLM's attention on CPUs supports only "
            f"{', '.join(map(str, known))}; sample on GPUs (sampler.gpus) or set model.path to another model"
        )


def _rotary_share(text: dict[str, Any]) -> float:
    """The share of a head that position encoding rotates."""
    places = (text.get("rope_parameters"), text.get("rope_scaling"), text)
    for place in places:
        for key in ("partial_rotary_factor", "rotary_pct"):
            if isinstance(place, dict) and isinstance(value := place.get(key), int | float):
                return float(value)
    return 0.25 if text.get("model_type") == "gpt_neox" else 1.0  # the default of its configuration


def vllm_architectures() -> frozenset[str]:
    """Generative architectures of the installed vLLM; empty when its registry cannot be read."""
    tables = _tables("vllm", "model_executor/models/registry.py")
    return frozenset(key for name in _VLLM_TABLES for key in tables.get(name, ()))


@functools.cache
def vllm_adapts(architecture: str) -> bool | None:
    """Whether vLLM applies LoRA adapters to an architecture; None where its source does not say."""
    for node in ast.walk(_source("vllm", "model_executor/models/registry.py")):
        for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value == architecture and isinstance(value, ast.Tuple):
                module, name = ast.literal_eval(value)
                return _inherits(f"{_VLLM_MODELS}.{module}", name, "SupportsLoRA")
    return None


def _inherits(module: str, name: str, wanted: str) -> bool | None:
    """Whether a class of a module of vLLM has a base class of that name; None where one of its bases is not found."""
    file, package = module.partition(".")[2].replace(".", "/"), module.rpartition(".")[0]
    body = _source("vllm", f"{file}.py").body
    if not body:
        body, package = _source("vllm", f"{file}/__init__.py").body, module
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name: (_absolute(node, package), alias.name)
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if name not in classes:
        return _inherits(*imported[name], wanted) if name in imported else None
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in classes[name].bases]
    names = [base.id for base in bases if isinstance(base, ast.Name)]  # others are those of torch, as nn.Module
    if wanted in names:
        return True
    ours = [base for base in names if base in classes or imported.get(base, ("",))[0].startswith("vllm.")]
    found = {_inherits(module, base, wanted) for base in ours}
    return True if True in found else None if None in found else False


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module from which a file of `package` imports."""
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def transformers_tables() -> dict[str, tuple[str, ...]]:
    """Model types that the installed transformers knows, by table; empty when they cannot be read."""
    tables = {
        **_tables("transformers", "models/auto/auto_mappings.py"),
        **_tables("transformers", "models/auto/modeling_auto.py"),
    }
    wanted = (
        "CONFIG_MAPPING_NAMES",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    )
    return {name: tables[name] for name in wanted} if all(tables.get(name) for name in wanted) else {}


@functools.cache
def _cpu_head_sizes() -> tuple[int, ...]:
    for node in ast.walk(_source("vllm", "v1/attention/backends/cpu_attn.py")):
        if isinstance(node, ast.FunctionDef) and node.name == "get_supported_head_sizes":
            returned = next((n.value for n in ast.walk(node) if isinstance(n, ast.Return)), None)
            if isinstance(returned, ast.List):
                return tuple(e.value for e in returned.elts if isinstance(e, ast.Constant) and isinstance(e.value, int))
    return ()


@functools.cache
def _tables(package: str, file: str) -> dict[str, tuple[str, ...]]:
    """The text keys of every mapping that the file assigns to a name at its top level."""
    found = {}
    for node in _source(package, file).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id] = tuple(_text_keys(node.value))
    return found


def _source(package: str, file: str) -> ast.Module:
    spec = importlib.machinery.PathFinder.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ast.Module([], [])
    try:
        return ast.parse((Path(next(iter(spec.submodule_search_locations))) / file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ast.Module([], [])


def _text_keys(value: ast.expr | None) -> Iterator[str]:
    """Keys of `{"a": ...}` and of `OrderedDict([("a", ...), ...])`."""
    keys: Iterable[ast.expr | None] = ()
    if isinstance(value, ast.Dict):
        keys = value.keys
    elif isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.List):
        keys = (pair.elts[0] for pair in value.args[0].elts if isinstance(pair, ast.Tuple))
    return (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
