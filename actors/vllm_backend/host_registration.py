"""Registers the `host` weight-transfer back-end in vLLM's worker if bonrl is not installed.

An installed bonrl is found through the entry point group `vllm.general_plugins`. A cluster job shipped as a working
directory has no entry points; there vLLM imports this module through `worker_extension_cls`.
"""

from actors.vllm_backend import register_host_backend

register_host_backend()


class WorkerExtension:
    """Adds nothing to vLLM's worker; importing this module registers the back-end."""
