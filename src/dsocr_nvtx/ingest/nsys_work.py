"""The GPU's work and the CUDA calls behind it in an nsys export: OPERATIONS, LAUNCHES and GRAPH_NODES."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.nsys_ids import pid_of, tid_of
from dsocr_nvtx.ingest.records import Records, taken
from dsocr_nvtx.ingest.source import NULL, Ints, mapped
from dsocr_nvtx.ingest.words import Names, constant, words
from dsocr_nvtx.schema.tables import GRAPH_NODES, LAUNCHES, OPERATIONS, conform, repeat

KERNEL, MEMCPY, MEMSET, GRAPH = (
    "CUPTI_ACTIVITY_KIND_KERNEL",
    "CUPTI_ACTIVITY_KIND_MEMCPY",
    "CUPTI_ACTIVITY_KIND_MEMSET",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
)
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_RUNTIME_API, _DRIVER_API = 0, 1
_COPY_KINDS = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}
_CALLS, _OPERATIONS, _NODES = "CUDA call", "GPU operation", "graph node"


def _nullable(values: Ints) -> pa.Array | pa.ChunkedArray | Ints:
    missing = values == NULL
    if missing.all():
        return repeat(pa.scalar(None, pa.int64()), len(values))
    return pa.array(values, pa.int64(), mask=missing) if missing.any() else values


def read_launches(records: Records, names: Names) -> pa.Table:
    """Return LAUNCHES: runtime and driver calls."""
    columns = ("globalTid", "start", "end", "correlationId", "nameId", "eventClass")
    c = records.report.integers(RUNTIME, columns, _SMALL)
    # Class 67 rows repeat a call's correlation id for its host call stack; they are no calls.
    calls = mapped(lambda kind: np.isin(kind, (_RUNTIME_API, _DRIVER_API, NULL)), c["eventClass"])
    if not calls.all():
        c = taken(c, calls)
    c = taken(c, records.possible(_CALLS, RUNTIME, c))
    return conform(
        {
            "pid": pid_of(c["globalTid"]),
            "tid": tid_of(c["globalTid"]),
            "start_ns": c["start"],
            "end_ns": c["end"],
            "correlation_id": c["correlationId"],
            "name": words(c["nameId"], names),
        },
        LAUNCHES,
        narrow=True,
    )


_COMMON = ("globalPid", "deviceId", "streamId", "start", "end", "correlationId", "graphNodeId")
_BLOCKS, _THREADS = "gridX*gridY*gridZ", "blockX*blockY*blockZ"
_SMALL = ("streamId", "correlationId", "nameId", "demangledName", _BLOCKS, _THREADS, "bytes")
"""Columns of the largest tables that mostly fit 32 bits."""


def read_operations(records: Records, names: Names, *, timed: bool = True) -> pa.Table:
    """Return OPERATIONS: kernels, copies, sets, and launches of whole graphs. ``timed``: as `Records.possible`."""
    parts = [part(records, names, timed) for part in (_kernels, _copies, _sets, _graphs)]
    filled = [part for part in parts if len(part)] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    return pa.concat_tables(filled, promote_options="permissive").unify_dictionaries().combine_chunks()


def _read(records: Records, table: str, columns: tuple[str, ...], timed: bool) -> dict[str, Ints]:
    c = records.report.integers(table, (*_COMMON, *columns), _SMALL)
    kept = records.possible(_OPERATIONS, table, c, timed=timed)
    c = taken(c, kept)
    if not timed:
        return c
    c = taken(c, records.not_overlapping(_OPERATIONS, table, c, kept))
    together = float(np.sum(c["end"] - c["start"], dtype=np.float64))
    if together > _MOST_TOGETHER:
        found = f"{table} says that its records last {together / 1e9:,.0f} s together"
        raise Refused(records.report.path, found, "that is more than can be counted; export it again")
    return c


_MOST_TOGETHER = 1 << 60
"""Nanoseconds that operations of one kind may last together: sums of all of them, and idle time beside, fit 64 bits."""


def _kernels(records: Records, names: Names, timed: bool) -> pa.Table:
    c = _read(records, KERNEL, ("demangledName", _BLOCKS, _THREADS), timed)
    return _operation(c, "kernel", words(c["demangledName"], names), blocks=c[_BLOCKS], threads=c[_THREADS])


def _copies(records: Records, _: Names, timed: bool) -> pa.Table:
    c = _read(records, MEMCPY, ("copyKind", "bytes"), timed)
    kinds = {int(k): f"memcpy {_COPY_KINDS.get(int(k), f'kind {k}')}" for k in np.unique(c["copyKind"])}
    return _operation(c, "memcpy", words(c["copyKind"], kinds), size=c["bytes"])


def _sets(records: Records, _: Names, timed: bool) -> pa.Table:
    c = _read(records, MEMSET, ("bytes",), timed)
    return _operation(c, "memset", constant("memset", len(c["start"])), size=c["bytes"])


def _graphs(records: Records, _: Names, timed: bool) -> pa.Table:
    c = _read(records, GRAPH, (), timed)
    return _operation(c, "graph", constant("graph launch", len(c["start"])))


def _operation(
    c: dict[str, Ints], operation: str, name: pa.DictionaryArray | pa.ChunkedArray, *,
    blocks: Ints | None = None, threads: Ints | None = None, size: Ints | None = None,
) -> pa.Table:  # fmt: skip
    nothing: npt.NDArray[Any] = np.broadcast_to(np.int32(0), len(c["start"]))
    return conform(
        {
            "pid": pid_of(c["globalPid"]),
            "device": mapped(_as_int32, c["deviceId"]),
            "stream": c["streamId"],
            "start_ns": c["start"],
            "end_ns": c["end"],
            "correlation_id": _nullable(c["correlationId"]),
            "operation": constant(operation, len(nothing)),
            "name": name,
            "blocks": nothing if blocks is None else _told(blocks),
            "threads": mapped(_as_int32, nothing if threads is None else _told(threads)),
            "bytes": nothing if size is None else _told(size),
            "graph_node_id": _nullable(c["graphNodeId"]),
        },
        OPERATIONS,
        narrow=True,
    )


def _told(values: Ints) -> Ints:
    """Return sizes, 0 where a report has no such column; without a value for one record alone, that was set apart."""
    unknown = len(values) and values.strides == (0,) and values[0] == NULL
    return np.broadcast_to(np.int64(0), len(values)) if unknown else values


def _as_int32(values: Ints) -> npt.NDArray[np.int32]:
    return values.astype(np.int32, copy=False)


def read_graph_nodes(records: Records) -> pa.Table:
    """Return GRAPH_NODES: when and where each node of a CUDA graph was made, or cloned."""
    report = records.report
    # Schema 2.9 called this table CUDA_GRAPH_EVENTS; later that name holds graphs. Columns decide, not names.
    tables = [t for t in ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS") if report.has(t, "graphNodeId")]
    columns = ("globalTid", "start", "graphNodeId", "originalGraphNodeId")
    c = records.read(_NODES, tables[0] if tables else "CUDA_GRAPH_NODE_EVENTS", columns)
    return conform(
        {
            "pid": pid_of(c["globalTid"]),
            "tid": tid_of(c["globalTid"]),
            "time_ns": c["start"],
            "graph_node_id": c["graphNodeId"],
            "original_node_id": _nullable(c["originalGraphNodeId"]),
        },
        GRAPH_NODES,
    )
