"""Registers the `host` weight-transfer back-end in vLLM's worker where bonrl runs from its sources,
uninstalled.

An installed bonrl is found through the entry point group `vllm.general_plugins`. A cluster job that was
shipped as a working directory has no entry points; there vLLM imports this module through
`worker_extension_cls` instead.
"""

from actors.vllm_backend import register_host_backend

register_host_backend()


class WorkerExtension:
    """Adds nothing to vLLM's worker: importing its module is what counts."""
