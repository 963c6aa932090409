"""The C allocator told to keep what it was given back.

By default glibc returns every large buffer to the kernel when it is freed, and each tensor of the next layer
is mapped and zeroed again, page by page: a fifth of the time of a small model's forward pass.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """For this process, where the C library is glibc; changes no number."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 2**26)
