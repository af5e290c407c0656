"""Memory of a process that computes on a CPU: what a step frees, the next step asks for again."""

import ctypes
import sys

# mallopt's names in glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let all that this process frees stay with it, instead of going back to the system.

    glibc gives every block of more than 32 MB back at once, and the system must clear its pages when they are asked for
    again, step after step. The process holds more memory for it; docs/benchmarks.md says how much.

    Returns:
        Whether the system's allocator took the settings: glibc's does, musl's and macOS's do not have them.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)))
