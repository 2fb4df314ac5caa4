"""What bonrl adds to vLLM's worker, which imports this module through `worker_extension_cls`.

It registers the `host` weight-transfer back-end: vLLM finds an installed bonrl through the entry point group
`vllm.general_plugins`, but a cluster job shipped as a working directory has no entry points.
"""

from __future__ import annotations

from typing import Any

from actors.vllm_backend import register_host_backend

register_host_backend()


class WorkerExtension:
    """A base class of vLLM's worker; its methods can be called through `collective_rpc`."""

    weight_transfer_engine: Any

    def interrupted_update(self) -> tuple[str, bool]:
        """Why the weights of the running update stopped arriving (empty: they did not), and whether the model has
        changed already. The weight-transfer engine does not raise that error: if one of several workers raised, vLLM
        would take the answers of the others for those of the next call."""
        engine = self.weight_transfer_engine
        return engine.interruption, engine.changed
