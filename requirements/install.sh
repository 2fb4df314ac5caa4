#!/usr/bin/env bash
# Make a virtual environment with the pinned packages and check it:  requirements/install.sh VENV
# Environment: PYTHON (default python3.11), PIP_TORCH_ARGS (extra pip arguments for the torch wheel only).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: requirements/install.sh VENV}

fail() { printf 'install: %s\n' "$1" >&2; exit 2; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
      python=$candidate; break
    fi
  done
fi
[ -n "$python" ] || fail "needs Python 3.11 (the lock holds wheels of that version): install python3.11, or set PYTHON=/path/to/it"

if [ ! -x "$venv/bin/python" ]; then
  # Debian splits ensurepip into python3-venv; without it the pip outside installs into the environment (--python).
  if "$python" -c 'import ensurepip' 2>/dev/null; then "$python" -m venv "$venv"
  else "$python" -m venv --without-pip "$venv"; fi
fi
if "$venv/bin/python" -c 'import pip' 2>/dev/null; then pip=("$venv/bin/python" -m pip)
else pip=("$python" -m pip --python "$venv/bin/python"); fi
# The Makefile's stamp holds the lock, so pip need not compare itself. It would compile bytecode on one core: see below.
pip_install=("${pip[@]}" install -qq --disable-pip-version-check --no-compile)

echo "install: torch into $venv"
# shellcheck disable=SC2086  # PIP_TORCH_ARGS is a list of arguments
"${pip_install[@]}" ${PIP_TORCH_ARGS:-} -c requirements/cpu.txt -r requirements/torch.txt
echo "install: the pinned packages into $venv"
"${pip_install[@]}" --no-deps -r requirements/cpu.txt -r requirements/dev.txt
"${pip_install[@]}" --no-deps --no-build-isolation -e .
# A job starts ten processes that import most of this. Where PYTHONDONTWRITEBYTECODE is set none of them would ever keep
# what it compiled: a third of the time that a run takes to start. One file of torch is for newer Pythons.
echo "install: compiling bytecode"
"$venv/bin/python" -m compileall -q -j 0 -x py312_intrinsics \
  "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
echo "install: checking"
"$venv/bin/python" -m cluster.checks.preflight
"$venv/bin/python" -c '
from vllm.platforms import current_platform
if not current_platform.is_cpu():
    raise SystemExit(f"install: vLLM sees the platform {current_platform.device_type}, but this lock is for the CPU: "
                     "was the CPU build of torch installed? See requirements/torch.txt")'
