"""Keeping freed memory for the next array instead of giving it back to the system each time.

The join makes and drops many arrays of some megabytes. By default glibc returns such memory at once, and every page of
the next array is a fault again; on virtual machines that costs more than the work itself (measured: a third of the
join's time). Other allocators are left as they are.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let the C library keep up to a gigabyte of freed memory; return whether it agreed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, 1 << 27))
    agreed = [bool(mallopt(ctypes.c_int(name), ctypes.c_int(value))) for name, value in settings]
    return all(agreed)
