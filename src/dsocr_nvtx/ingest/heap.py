"""Keeping freed memory for the next array instead of giving it back to the system each time.

The join makes and drops many arrays of some megabytes. By default glibc returns such memory at once, and every page of
the next array is a fault again and cleared again; on virtual machines that costs more than the work itself (measured:
a third of the join's time). Arrow is told to use the same heap, so that what one library frees the other takes. Large
pages are left to numpy, which asks for them for large arrays: asked for everywhere, they were cleared more slowly than
small ones where a host takes free memory back. Other allocators are left as they are.
"""

import ctypes

import pyarrow as pa

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_NEVER, _LARGEST = -1, (1 << 31) - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, in one heap that Arrow shares; return whether it agreed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_MMAP_THRESHOLD, _LARGEST),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, 1 << 27),
        (_ARENA_MAX, 1),  # threads of the reader would keep heaps of their own
    )
    agreed = sum(bool(mallopt(ctypes.c_int(name), ctypes.c_int(value))) for name, value in settings) == len(settings)
    if agreed:
        pa.set_memory_pool(pa.system_memory_pool())
    return agreed
