"""The one folder that calls vLLM.

Its interfaces move between releases (weight transfer changed at 0.16, 0.22 and 0.29), so every call to it stands here.
vLLM is imported inside functions: importing this package is cheap, and an engine's environment is set first.

    engine            samples token ids, takes new weights
    weight_transfer   our back-end for those weights
    pooling           runs the classifier of a learned verifier
    environment       what both need around them
"""

from actors.vllm_backend.engine import Completion, VllmEngine
from actors.vllm_backend.environment import EngineError
from actors.vllm_backend.weight_transfer import register_host_backend

__all__ = ["Completion", "EngineError", "VllmEngine", "register_host_backend"]
