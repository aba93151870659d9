"""How a process that is all ours, a command or a fleet's worker, is set up before it reads a report."""

import sys

import pyarrow as pa

from dsocr_nvtx.ingest.heap import keep_freed_memory


def prepare_process() -> bool:
    """Leave pandas out and let freed memory be kept (`keep_freed_memory`); return whether the latter was agreed to."""
    _leave_pandas_out()
    return keep_freed_memory()


class _NoPandas:
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def _leave_pandas_out() -> None:
    """Let pyarrow look for pandas in vain, which it does once, with the first array that it makes.

    Where pandas is installed, to import it takes a fifth of a second, and nothing of ours is made from its objects.
    Afterwards it can be imported as ever, and Arrow's tables can still become its frames.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([], pa.null())
    finally:
        sys.meta_path.remove(finder)
