"""What bonrl adds to vLLM's worker, which imports this module through `worker_extension_cls`.

It registers the `host` weight-transfer back-end: vLLM finds an installed bonrl through the entry point group
`vllm.general_plugins`, but a cluster job shipped as a working directory has no entry points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.vllm_backend import adapters, register_host_backend

register_host_backend()


class WorkerExtension:
    """A base class of vLLM's worker; its methods can be called through `collective_rpc`."""

    weight_transfer_engine: Any
    model_runner: Any

    def interrupted_update(self) -> tuple[str, bool]:
        """Why the weights of the running update stopped arriving (empty: they did not), and whether the model has
        changed already. The weight-transfer engine does not raise that error: if one of several workers raised, vLLM
        would take the answers of the others for those of the next call."""
        engine = self.weight_transfer_engine
        return engine.interruption, engine.changed

    def prepare_adapter(self, layers: Sequence[str], rank: int) -> None:
        """Sample with an adapter of zeros from now on."""
        adapters.prepare(self.model_runner.lora_manager, layers, rank)

    def load_adapter(
        self, manifests: list[dict[str, Any]], layers: Sequence[str], rank: int, alpha: float
    ) -> tuple[str, bool]:
        """Replace the adapter. Returns why it stopped arriving, as :meth:`interrupted_update` does, and whether it was
        replaced."""
        engine = self.weight_transfer_engine
        tensors = engine.receive_adapter(manifests)
        if not engine.interruption:
            adapters.replace(self.model_runner.lora_manager, tensors, layers, rank, alpha)
            engine.changed = True
        return engine.interruption, engine.changed
