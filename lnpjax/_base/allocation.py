"""Memory that a program on a CPU has freed, kept for the next one."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _ARENA_MAX: 1}
"""Allocations of up to 1 GB come from the heap, of which up to 2 GB may be free; all threads share
it, since heaps besides the first one hold no more than 64 MB."""


def keep_freed_memory() -> bool:
    """Tell the allocator of this process to keep what is freed, for what is allocated next.

    A compiled program on a CPU allocates its scratch memory at every call. glibc takes more than
    32 MB from the system each time, which zeroes it page by page: up to a fifth of the time of a
    training step. The environment variables ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_``
    and ``MALLOC_ARENA_MAX`` do the same.

    Returns:
        Whether the allocator has been told: False where it is another one than glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    return tell is not None and all(tell(option, value) for option, value in _KEPT.items())
