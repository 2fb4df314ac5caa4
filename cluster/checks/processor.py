"""What the processor of this machine can compute."""

from __future__ import annotations

from pathlib import Path

# Flags of /proc/cpuinfo with which oneDNN, torch's library for matrix products, supports bfloat16: AVX-512 and its
# successors on x86, the extension of that name on Arm. Without them torch has only a plain loop.
_BFLOAT16 = {"avx512bw", "avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether torch has a fast matrix product in bfloat16 here; True where the flags cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # of the first core: x86, Arm
            return not _BFLOAT16.isdisjoint(value.split())
    return True
