"""Keeping freed memory for the next array, in large pages, instead of giving it back to the system each time.

The join makes and drops many arrays of some megabytes. By default glibc returns such memory at once, and every page of
the next array is a fault again; on virtual machines that costs more than the work itself (measured: a third of the
join's time). Large pages take a five-hundredth of the faults. Arrow is told to use the same heap, so that what one
library frees the other takes. Other allocators are left as they are.
"""

import ctypes

import pyarrow as pa

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_NEVER = -1
_LARGE_ARRAY = (1 << 31) - 1  # the most that mallopt takes
_LARGE_PAGE = 1 << 21
_FIRST_BYTES = 1 << 30
_ADVISE_LARGE_PAGES = 14


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, in one heap that Arrow shares; return whether it agreed."""
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_MMAP_THRESHOLD, _LARGE_ARRAY),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, 1 << 27),
        (_ARENA_MAX, 1),  # threads of the reader would keep heaps of their own
    )
    agreed = sum(bool(mallopt(ctypes.c_int(name), ctypes.c_int(value))) for name, value in settings) == len(settings)
    if agreed:
        _ask_for_large_pages(library)
        pa.set_memory_pool(pa.system_memory_pool())
    return agreed


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """Extend the heap once and ask for large pages there; nothing is used before an allocation needs it."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = library.malloc(_FIRST_BYTES)
    if not block:
        return
    start = -(-block // _LARGE_PAGE) * _LARGE_PAGE
    library.madvise(start, (block + _FIRST_BYTES - start) // _LARGE_PAGE * _LARGE_PAGE, _ADVISE_LARGE_PAGES)
    library.free(block)
