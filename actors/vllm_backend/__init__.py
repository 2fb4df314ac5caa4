"""All code that calls vLLM.

Its interfaces change between releases (weight transfer at 0.16, 0.22 and 0.29), so every call to vLLM is here.
vLLM is imported inside functions: importing this package is cheap, and the environment is set before vLLM reads it.

    engine              samples token ids and loads new weights
    arguments           the settings as vLLM's arguments
    weight_transfer     our back-end for loading weights
    adapters            loads adapters instead of weights
    host_registration   registers that back-end in the processes of an engine
    text_models         loads multimodal checkpoints as text models without torchvision
    liveness            ends waits for an engine that died
    stats               how loaded the engine is
    sleep               frees GPU memory for a learner on the same GPU
    pooling             runs the classifier of a learned verifier
    environment         errors and environment variables of engine and pooling
"""

from actors.vllm_backend.engine import Completion, VllmEngine
from actors.vllm_backend.environment import EngineError, UpdateInterrupted
from actors.vllm_backend.weight_transfer import register_host_backend

__all__ = ["Completion", "EngineError", "UpdateInterrupted", "VllmEngine", "register_host_backend"]
