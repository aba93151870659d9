"""Nsight Systems' exports (schema 2.9 and later, and those before it had versions) as a `Trace`: what the GPU did.

All knowledge of that format stands here and in `dsocr_nvtx.ingest.nsys_nvtx`. Tables appear only when there is data;
columns come and go between versions; row order means nothing; ``globalTid`` packs process (bits 24 to 47) and thread
(bits 0 to 23); correlation ids are unique within a process only.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.devices import read_devices
from dsocr_nvtx.ingest.nsys_ids import pid_of, tid_of
from dsocr_nvtx.ingest.nsys_nvtx import EVENTS, closed, read_announcements, read_events, read_every_range, read_ranges
from dsocr_nvtx.ingest.opening import open_source
from dsocr_nvtx.ingest.source import NULL, Ints, Source, mapped, side_by_side, whole
from dsocr_nvtx.ingest.stacks import read_stacks
from dsocr_nvtx.ingest.trace import Projectable, Trace
from dsocr_nvtx.ingest.words import Names, constant, distinct, words
from dsocr_nvtx.schema.payload import DOMAIN
from dsocr_nvtx.schema.tables import GRAPH_NODES, LAUNCHES, OPERATIONS, conform, repeat
from dsocr_nvtx.schema.values import values_of

_RUNTIME_API, _DRIVER_API = 0, 1
_COPY_KINDS = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}
_KERNEL, _MEMCPY, _MEMSET, _GRAPH = (
    "CUPTI_ACTIVITY_KIND_KERNEL",
    "CUPTI_ACTIVITY_KIND_MEMCPY",
    "CUPTI_ACTIVITY_KIND_MEMSET",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
)
_RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_LAYER_FLAGS = "profile with nsys profile -t cuda,nvtx (nsys_scripts/profile.sh has every flag)"
_REEXPORT = "export it again from the .nsys-rep"
_OPERATION = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
_NEEDED = {
    _KERNEL: (*_OPERATION, "demangledName"),
    _MEMCPY: (*_OPERATION, "copyKind", "bytes"),
    _MEMSET: (*_OPERATION, "bytes"),
    _GRAPH: _OPERATION,
    _RUNTIME: ("start", "end", "globalTid", "correlationId", "nameId"),
    EVENTS: ("start", "end", "eventType", "globalTid", "text", "textId", "domainId"),
    "StringIds": ("id", "value"),
}
"""Columns that every known version has, where it has the table; without one, rows would go astray in silence."""

_FARTHEST = 1 << 61
"""No time of a session is so many nanoseconds from its start; differences of such times still fit 64 bits."""


def read(path: Path, domain: str = DOMAIN) -> Trace:
    """Read one export whole. Refused: what is not an nsys export, and one without CUDA work."""
    with open_source(path) as report:
        return read_trace(report, domain)


def read_trace(report: Source, domain: str = DOMAIN) -> Trace:
    """Read an open export whole, with the ranges of one NVTX domain."""
    check_export(report)
    if not any(report.has(table) for table in (_KERNEL, _MEMCPY, _MEMSET, _GRAPH)):
        raise Refused(report.path, "the report has no CUDA work (no kernel, copy or graph)", _LAYER_FLAGS)
    names = Names(report)
    with side_by_side(report) as begin:
        # The longest first, so that side by side no thread is left with it when the others are done.
        work = begin(lambda: read_operations(report, names))
        events = begin(lambda: read_events(report))
        ranges = begin(lambda: read_ranges(report, events(), names, domain))
        calls = begin(lambda: read_launches(report, names))
        announcements = begin(lambda: read_announcements(report, events(), names))
        launches, operations = calls(), work()
        return Trace(
            nvtx=closed(report, ranges(), max(_last(launches, "end_ns"), _last(operations, "end_ns"))),
            announcements=announcements(),
            launches=launches,
            operations=operations,
            graph_nodes=_graph_nodes(report),
            devices=read_devices(report, zip(*_pairs(operations), strict=True)),
            source=read_source(report),
            stacks=read_stacks(report, names),
        )


def read_projectable(path: Path) -> Projectable:
    """Read the NVTX ranges of every domain and the GPU work of one export; either may be missing."""
    with open_source(path) as report:
        check_export(report)
        names = Names(report)
        with side_by_side(report) as begin:
            ranges = begin(lambda: read_every_range(report, read_events(report), names))
            launches = begin(lambda: read_launches(report, names))
            operations = begin(lambda: read_operations(report, names))
            return Projectable(
                ranges=ranges(), launches=launches(), operations=operations(), source=read_source(report)
            )


def check_export(report: Source) -> None:
    """Refuse what is not an nsys export."""
    if not report.has("StringIds") or not ({"META_DATA_EXPORT", "EXPORT_META_DATA", _RUNTIME} & report.columns.keys()):
        remedy = "give a report that `nsys export -t sqlite` wrote"
        raise Refused(report.path, "not an Nsight Systems export", remedy)
    for table, needed in _NEEDED.items():
        lacking = [name for name in needed if report.has(table) and not report.has(table, name)]
        if lacking:
            found = f"{table} has no column {', '.join(lacking)} (schema {read_source(report)['nsys_schema']})"
            raise Refused(report.path, found, "upgrade dsocr-nvtx, or export with an nsys that it knows")


def read_source(report: Source) -> dict[str, str]:
    """Return the tool that wrote the report and the version of the format."""
    table = "META_DATA_EXPORT" if report.has("META_DATA_EXPORT") else "EXPORT_META_DATA"
    values: dict[str, str] = {}
    if report.has(table, "name", "value"):
        name, value = (report.strings(table, column).to_pylist() for column in ("name", "value"))
        values = {str(n): str(v) for n, v in zip(name, value, strict=True)}
    return {
        "tool": "nsys " + values.get("EXPORT_PRODUCT_VERSION", "of unknown version"),
        "nsys_schema": values.get("EXPORT_SCHEMA_VERSION", "unknown"),
    }


def _last(table: pa.Table, column: str) -> int:
    return int(values_of(whole(table[column])).max()) if len(table) else 0


def _pairs(operations: pa.Table) -> tuple[list[int], list[int]]:
    pids, devices = (_found(operations[name]) for name in ("pid", "device"))
    if min(len(pids), len(devices)) <= 1:  # nothing to pair row by row
        return pids * len(devices), devices * len(pids)
    pid, device = (values_of(whole(operations[name])).astype(np.int64) for name in ("pid", "device"))
    pairs, _ = distinct((pid << 32) | (device & 0xFFFFFFFF))
    return (pairs >> 32).tolist(), pairs.astype(np.int32).tolist()


def _found(column: pa.ChunkedArray) -> list[int]:
    low, high = pc.min_max(column).as_py().values()
    found: list[int] = [low] if low == high and low is not None else column.unique().to_pylist()
    return found


def _nullable(values: Ints) -> pa.Array | pa.ChunkedArray | Ints:
    missing = values == NULL
    if missing.all():
        return repeat(pa.scalar(None, pa.int64()), len(values))
    return pa.array(values, pa.int64(), mask=missing) if missing.any() else values


def _check_times(report: Source, table: str, c: dict[str, Ints]) -> None:
    start, end = c["start"], c["end"]
    if len(start) and ((start > end).any() or int(start.min()) < -_FARTHEST or int(end.max()) > _FARTHEST):
        raise Refused(report.path, f"{table} holds rows without a time, or that end before they start", _REEXPORT)


def read_launches(report: Source, names: Names) -> pa.Table:
    """Return LAUNCHES: runtime and driver calls."""
    columns = ("globalTid", "start", "end", "correlationId", "nameId", "eventClass")
    c = report.integers(_RUNTIME, columns, _SMALL)
    # Class 67 rows repeat a call's correlation id for its host call stack; they are no calls.
    calls = mapped(lambda kind: np.isin(kind, (_RUNTIME_API, _DRIVER_API, NULL)), c["eventClass"])
    if not calls.all():
        c = {name: values[calls] for name, values in c.items()}
    _check_times(report, _RUNTIME, c)
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


def read_operations(report: Source, names: Names) -> pa.Table:
    """Return OPERATIONS: kernels, copies, sets, and launches of whole graphs."""
    parts = [_kernels(report, names), _copies(report), _sets(report), _graphs(report)]
    filled = [part for part in parts if len(part)] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    return pa.concat_tables(filled, promote_options="permissive").unify_dictionaries().combine_chunks()


def _kernels(report: Source, names: Names) -> pa.Table:
    c = report.integers(_KERNEL, (*_COMMON, "demangledName", _BLOCKS, _THREADS), _SMALL)
    name = words(c["demangledName"], names)
    return _operation(report, _KERNEL, c, "kernel", name, blocks=c[_BLOCKS], threads=c[_THREADS])


def _copies(report: Source) -> pa.Table:
    c = report.integers(_MEMCPY, (*_COMMON, "copyKind", "bytes"), _SMALL)
    kinds = {int(k): f"memcpy {_COPY_KINDS.get(int(k), f'kind {k}')}" for k in np.unique(c["copyKind"])}
    return _operation(report, _MEMCPY, c, "memcpy", words(c["copyKind"], kinds), size=c["bytes"])


def _sets(report: Source) -> pa.Table:
    c = report.integers(_MEMSET, (*_COMMON, "bytes"), _SMALL)
    return _operation(report, _MEMSET, c, "memset", constant("memset", len(c["start"])), size=c["bytes"])


def _graphs(report: Source) -> pa.Table:
    c = report.integers(_GRAPH, _COMMON, _SMALL)
    return _operation(report, _GRAPH, c, "graph", constant("graph launch", len(c["start"])))


def _operation(
    report: Source, table: str, c: dict[str, Ints], operation: str, name: pa.DictionaryArray, *,
    blocks: Ints | None = None, threads: Ints | None = None, size: Ints | None = None,
) -> pa.Table:  # fmt: skip
    _check_times(report, table, c)
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
            "blocks": nothing if blocks is None else blocks,
            "threads": mapped(_as_int32, nothing if threads is None else threads),
            "bytes": nothing if size is None else size,
            "graph_node_id": _nullable(c["graphNodeId"]),
        },
        OPERATIONS,
        narrow=True,
    )


def _as_int32(values: Ints) -> npt.NDArray[np.int32]:
    return values.astype(np.int32, copy=False)


def _graph_nodes(report: Source) -> pa.Table:
    # Schema 2.9 called this table CUDA_GRAPH_EVENTS; later that name holds graphs. Columns decide, not names.
    tables = [t for t in ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS") if report.has(t, "graphNodeId")]
    columns = ("globalTid", "start", "graphNodeId", "originalGraphNodeId")
    c = report.integers(tables[0] if tables else "CUDA_GRAPH_NODE_EVENTS", columns)
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
