"""DeepSpeed ZeRO 0-3 with AdamW. The only file that calls DeepSpeed. Facts about it that shape the code:

- It averages gradients over the ranks, but the loss is a *sum* divided by a constant, so each rank's loss is multiplied
  by the number of ranks. gradient_accumulation_steps is 1, so that it does not scale the loss.
- The number of micro-batches varies from step to step, so the boundary is set by hand before each.
- At ZeRO stage 0 in float32 it clips but does not report the gradient norm, so clipping is done here in that case.
- It does not step with a gradient that is NaN or infinite, except at stage 0 in float32. With offload it keeps such a
  gradient and adds all later ones to it.
- On CPU it compiles a shared-memory collective at start (half a minute and a compiler), which only inference uses. It
  is switched off.
- `reduce_bucket_size` buffers are allocated in full, 2 GB by default; they are sized to the model.
- `initialize` moves a whole model to the device and broadcasts it from rank 0. Under ZeRO-3 the parameters are
  partitioned before, one at a time, so that a rank never holds more than its part and one parameter.
- `offload_states` moves the optimizer's state at stage 2. In bfloat16 stage 1 is another class, without that method;
  stage 3 asks for DeepSpeed's FusedAdam. A checkpoint that is written meanwhile loads as any other.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from learner.backends.base import LearnerBackend
from learner.backends.checkpoint_layout import CheckpointLayout
from learner.backends.compilation import check_compiler, compile_layers, compiled_passes, decoder_layers
from learner.backends.deepspeed_config import adamw, deepspeed_config, frozen_config
from learner.backends.loading import allocate, load_on_rank_0
from learner.backends.lora import Adapters
from learner.backends.model_directory import DTYPES, load_causal_lm
from learner.backends.packing import prepare_packing
from learner.losses import LogitPasses
from learner.response_logprobs import return_logprobs
from learner.settings import LearnerSettings

_TAG = "deepspeed"


class DeepSpeedBackend(LearnerBackend):
    """See :class:`LearnerBackend`.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl).
        timeout_s: bounds every collective.
    """

    def __init__(
        self,
        model_path: str | Path,
        dtype: str,
        settings: LearnerSettings,
        *,
        device: torch.device,
        rank: int,
        world_size: int,
        master_address: str,
        master_port: int,
        timeout_s: float,
    ) -> None:
        self._path, self._dtype, self._settings, self._device = model_path, dtype, settings, device
        self._rank, self._world_size = rank, world_size
        self._clips_here = settings.zero_stage == 0 and dtype == "float32"
        self._partitions = settings.zero_stage == 3
        self._passes = LogitPasses()
        # Before transformers, which imports DeepSpeed and lets it guess the accelerator.
        self._deepspeed = _start_deepspeed(device, rank, world_size, master_address, master_port, timeout_s)
        model = load_on_rank_0(model_path, dtype, rank, world_size)
        self.config, self.dropped_weights = model.config, model.dropped_weights
        self.layout = CheckpointLayout(model)
        size = sum(p.numel() for p in model.parameters())
        self.adapters = Adapters(model, settings.lora) if settings.lora else None
        self.parameters = self.adapters.parameters if self.adapters else list(model.named_parameters())
        if settings.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.packed = prepare_packing(model, settings.packing, device)
        if settings.torch_compile:
            check_compiler(device)
            self._passes = compiled_passes()
            layers = decoder_layers(model)
            compile_layers(layers)
            if self._partitions:
                self._gather_whole(layers)
        return_logprobs(model, settings.logits_chunk_bytes, self._passes)
        optimizer = adamw(self.parameters, settings, dtype)  # asks for shapes, which partitioned parameters do not have
        config = deepspeed_config(settings, dtype, device, size, self._clips_here)
        self._place(model, config)
        with contextlib.redirect_stdout(io.StringIO()):  # the bfloat16 optimizer prints the memory in use, many times
            self.model, self._optimizer, _, _ = self._deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        self._frozen: list[Any] = []

    def _place(self, model: Any, config: dict[str, Any]) -> None:
        """Under ZeRO-3, partition the parameters of a model that `load_on_rank_0` loaded; else make them whole."""
        if self._partitions:
            _partition(self._deepspeed, model, config, DTYPES[self._dtype], self._device)
        else:
            allocate(model.parameters(), self._device)

    def _gather_whole(self, layers: list[torch.nn.Module]) -> None:
        """Under ZeRO-3, gather the weights of a layer before its graph and not within: hooks of its modules would
        divide the graph, and be compiled again for each module.
        """
        for layer in layers:
            self._deepspeed.utils.set_z3_leaf_module(layer, True)

    def train(self) -> None:
        """See the base class."""
        self.model.train()

    def eval(self) -> None:
        """See the base class."""
        self.model.eval()

    def begin_micro_batch(self, *, last: bool) -> None:
        """See the base class."""
        self.model.set_gradient_accumulation_boundary(last)

    def backward(self, loss: torch.Tensor) -> None:
        """See the base class."""
        self.model.backward(loss * self._world_size, scale_wrt_gas=False)

    def set_learning_rate(self, rate: float) -> None:
        """See the base class."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def apply(self) -> float:
        """See the base class."""
        if self._clips_here:
            limit = self._settings.gradient_clip or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(self.model.module.parameters(), limit))
            if not isfinite(norm):  # AdamW leaves weights without a gradient as they are
                self.model.module.zero_grad(set_to_none=True)
            self.model.step()
            return norm
        self.model.step()
        norm = float(self.model.get_global_grad_norm())
        if not isfinite(norm) and self._settings.offload != "none":
            kept = self._optimizer.averaged_gradients
            kept.update(dict.fromkeys(kept))
        return norm

    def load_frozen(self) -> Any:
        """See the base class."""
        if self._partitions:
            model = load_on_rank_0(self._path, self._dtype, self._rank, self._world_size)
        else:  # mapped from the files, whose pages ranks on CPUs share until a refresh writes to them
            model = load_causal_lm(self._path, self._dtype).to(self._device)
        model.eval().requires_grad_(False)
        if model.config._attn_implementation != self.config._attn_implementation:
            model.set_attn_implementation(self.config._attn_implementation)
        return_logprobs(model, self._settings.logits_chunk_bytes, self._passes)
        if self._partitions:
            size = sum(p.numel() for p in model.parameters())
            config = frozen_config(self._settings, self._dtype, self._device, size)
            self._place(model, config)
            self._frozen.append(self._deepspeed.initialize(model=model, config=config, dist_init_required=False)[0])
        return model

    def gathered(self, parameters: Sequence[torch.Tensor], *, modify: bool = False) -> AbstractContextManager[Any]:
        """See the base class."""
        return self._deepspeed.zero.GatheredParameters(
            list(parameters), modifier_rank=0 if modify else None, enabled=self._partitions
        )

    def save(self, directory: Path, extra: dict[str, Any]) -> None:
        """See the base class."""
        self.model.save_checkpoint(
            str(directory),
            tag=_TAG,
            client_state={"extra": extra},
            save_latest=False,
            exclude_frozen_parameters=self.adapters is not None,
        )

    def load(self, directory: Path) -> dict[str, Any]:
        """See the base class."""
        path, state = self.model.load_checkpoint(str(directory), tag=_TAG, load_module_strict=self.adapters is None)
        if path is None:
            raise ValueError(f"DeepSpeed found no checkpoint in '{directory}'; resume from another checkpoint")
        return state["extra"]

    def sleep(self) -> None:
        """See the base class."""
        kinds = self._deepspeed.runtime.zero.offload_config.OffloadStateTypeEnum
        # The gradients are freed by each update.
        self.model.offload_states(include=[kinds.hp_params, kinds.optim_states], pin_memory=True)

    def wake(self) -> None:
        """See the base class."""
        self.model.reload_states()

    def close(self, *, leave_group: bool) -> None:
        """See the base class."""
        for engine in [self.model, *self._frozen]:
            engine.destroy()
        if leave_group and dist.is_initialized():
            dist.destroy_process_group()


def _partition(
    deepspeed: Any, model: torch.nn.Module, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> None:
    """Partition the parameters of rank 0's model over the ranks, and put the buffers on the device."""
    first: torch.nn.Parameter | None = None
    for parameter in model.parameters():
        allocate([parameter], device)
        parameter.data = parameter.data.to(device, dtype)  # a type that transformers kept is one that DeepSpeed casts
        if first is None:
            first = parameter
            deepspeed.zero.Init(module=torch.nn.ParameterList([parameter]), config_dict_or_path=config)
        else:
            first.convert_to_zero_parameters([parameter])  # type: ignore[attr-defined]  # DeepSpeed's method
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def _start_deepspeed(
    device: torch.device, rank: int, world_size: int, address: str, port: int, timeout_s: float
) -> Any:
    """Import DeepSpeed for `device` and join the process group. DeepSpeed reads the launcher's variables."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got '{device}'")
    os.environ.update(
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(device.index or 0),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "DS_ACCELERATOR": device.type,
        }
    )
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":  # elsewhere nothing asks for the table, which takes a compiler run for each operator
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if device.type == "cpu" else "nccl",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=timeout_s),
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world_size,
    )
    return deepspeed
