"""Which of our kernels a processor runs, from its ``/proc/cpuinfo``."""

from __future__ import annotations

from pathlib import Path

#: Name of an implementation, and the flag that tells of its instructions; the fastest first.
_FLAGS = {"avx512-vnni": "avx512_vnni", "avx2": "avx2"}


def implementations(cpuinfo: str | None = None) -> list[str]:
    """All that it can run, of this processor if none is given; the first is what is used."""
    if cpuinfo is None:
        file = Path("/proc/cpuinfo")
        cpuinfo = file.read_text() if file.exists() else ""
    flags = cpuinfo.split()
    return [name for name, flag in _FLAGS.items() if flag in flags]
