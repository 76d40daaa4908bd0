"""The C library's allocator, for training on a CPU.

XLA's CPU client allocates a program's workspace at each call and frees it afterwards. glibc returns blocks of that size
to the system at once, so that every page is fetched and cleared again at every step.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Parameters of mallopt(3)."""
ACCELERATORS = ("nvidiactl", "kfd", "accel*", "vfio/*")
"""Device files of NVIDIA and AMD GPUs and of TPUs."""
OWN = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
"""Variables by which users set the allocator themselves."""


def keep_heap(devices: Path = Path("/dev"), mallopt: Callable[[int, int], int] | None = None) -> bool:
    """Makes glibc keep freed memory, and returns whether it did.

    To be called before JAX opens its devices, whose threads would otherwise have their own heaps. The process then
    keeps its peak memory. Not changed: other C libraries, machines or choices of platform (JAX_PLATFORMS)
    with an accelerator, where the workspace is not the host's, and users who set the allocator by its own variables.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN):
        return False
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms != "cpu" and (platforms or any(next(devices.glob(name), None) for name in ACCELERATORS)):
        return False
    set_option = mallopt or ctypes.CDLL(None).mallopt
    # No block has its own pages, and the heap shared by all threads never shrinks.
    return all([set_option(ARENA_MAX, 1), set_option(MMAP_MAX, 0), set_option(TRIM_THRESHOLD, -1)])
