"""How the C library hands out memory: large tensors are asked for anew at every step of a training."""

import ctypes

LARGE, TRIM = -3, -1
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's mallopt(3)."""
LARGEST = 2**30
"""Bytes of a tensor that is kept for the next one when it is freed."""
MOST = 2**31 - 1
"""Bytes of free memory that are kept, the largest number that mallopt takes."""


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors, instead of handing it back and fetching it again page by page.

    Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(LARGE, LARGEST)
        library.mallopt(TRIM, MOST)
