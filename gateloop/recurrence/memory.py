"""The C library's allocator, told to keep what is freed for the next call."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_pages() -> bool:
    """Ask glibc to hand no freed memory back to the system; False where that cannot be.

    Large tensors otherwise get fresh pages at every call, and the system clears each of them: more
    than the fused recurrence takes in all. GATELOOP_KEEP_PAGES=off leaves the process as it is.
    """
    if os.environ.get("GATELOOP_KEEP_PAGES") == "off":
        return False
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(adjust(M_MMAP_MAX, 0) and adjust(M_TRIM_THRESHOLD, LARGEST))
