"""Host call stacks in an nsys export: which frames stood behind a CUDA call, where the profile has backtraces.

``--cudabacktrace`` gives a call a class 67 row of its own, tied by correlation id, or a ``callchainId`` in its row;
``CUDA_CALLCHAINS`` holds the frames, innermost first by ``stackDepth``. Python backtraces come in the same form.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.nsys_ids import pid_of
from dsocr_nvtx.ingest.source import NULL, Ints, Source
from dsocr_nvtx.ingest.trace import NO_STACKS, Stacks
from dsocr_nvtx.ingest.words import Names

_RUNTIME, _MOST_FRAMES = "CUPTI_ACTIVITY_KIND_RUNTIME", 64


def read_stacks(report: Source, names: Names) -> Stacks:
    """Return the call stacks of a report; in most there are none."""
    tables = [t for t in ("CUDA_CALLCHAINS", "PYTHON_CALLCHAINS") if report.has(t, "id", "symbol", "stackDepth")]
    if not tables or not report.has(_RUNTIME, "callchainId", "correlationId"):
        return NO_STACKS
    c = report.integers(_RUNTIME, ("globalTid", "correlationId", "callchainId"))
    have = np.flatnonzero(c["callchainId"] != NULL)
    if not len(have):
        return NO_STACKS
    frames: dict[int, tuple[str, ...]] = {}
    for table in tables:
        frames |= _frames(report, table, names)
    return Stacks(pid_of(c["globalTid"][have]), c["correlationId"][have], c["callchainId"][have], frames)


def _frames(report: Source, table: str, names: Names) -> dict[int, tuple[str, ...]]:
    c = report.integers(table, ("id", "stackDepth", "symbol"))
    order = np.lexsort((c["stackDepth"], c["id"]))
    symbols = _symbols(report, table, c["symbol"], names)
    frames: dict[int, list[str]] = {}
    for row in order.tolist():
        chain = frames.setdefault(int(c["id"][row]), [])
        if len(chain) < _MOST_FRAMES:
            chain.append(symbols[row])
    return {number: tuple(chain) for number, chain in frames.items()}


def _symbols(report: Source, table: str, identifiers: Ints, names: Names) -> Sequence[str]:
    """Return each frame's name, as the string its id means; a third party may have written it beside, as text."""
    if report.has(table, "symbolName"):
        beside: pa.Array = report.strings(table, "symbolName")
        texts = beside.to_pylist()
        return [t or n for t, n in zip(texts, names.of(identifiers), strict=True)]
    return names.of(identifiers)
