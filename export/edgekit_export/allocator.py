"""The C library's allocator, told to give back what is freed.

Weights pass through memory one after the other. glibc keeps such pieces for later once a few of them were freed: of a
model of 500 MB, 150 MB of air remained around it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

#: glibc's option: allocations of this size and above are mappings of their own, which end when they are freed.
_M_MMAP_THRESHOLD = -3
_MAPPED_FROM = 1 << 18


def return_large_pieces() -> None:
    """Let allocations of 256 KiB and more go back to the system as soon as they are freed (glibc only)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)


def trim() -> None:
    """Collect garbage and give free memory back to the system (glibc only)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
