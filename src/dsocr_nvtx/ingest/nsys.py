"""Nsight Systems' exports (schema 2.9 and later, and those before it had versions) as a `Trace`: what the GPU did.

All knowledge of that format stands here and in `nsys_nvtx`, `nsys_work` and `records` beside it. Tables appear only
when there is data; columns come and go between versions; row order means nothing; ``globalTid`` packs machine (bits 56
to 63), virtual machine (48 to 55), process (24 to 47) and thread (0 to 23); correlation ids are unique within a process
only.
"""

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.announcements import read_costs, read_hits
from dsocr_nvtx.ingest.devices import read_devices
from dsocr_nvtx.ingest.nsys_nvtx import EVENTS, closed, read_announcements, read_events, read_every_range, read_ranges
from dsocr_nvtx.ingest.nsys_work import (
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    RUNTIME,
    read_graph_nodes,
    read_launches,
    read_operations,
)
from dsocr_nvtx.ingest.opening import open_source
from dsocr_nvtx.ingest.records import Records
from dsocr_nvtx.ingest.source import Source, side_by_side, whole
from dsocr_nvtx.ingest.stacks import read_stacks
from dsocr_nvtx.ingest.trace import Projectable, Trace
from dsocr_nvtx.ingest.words import Names, distinct
from dsocr_nvtx.schema.payload import DOMAIN
from dsocr_nvtx.schema.tables import REPLAYS
from dsocr_nvtx.schema.values import values_of

_LAYER_FLAGS = "profile with nsys profile -t cuda,nvtx (nsys_scripts/profile.sh has every flag)"
_OPERATION = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
_NEEDED = {
    KERNEL: (*_OPERATION, "demangledName"),
    MEMCPY: (*_OPERATION, "copyKind", "bytes"),
    MEMSET: (*_OPERATION, "bytes"),
    GRAPH: _OPERATION,
    RUNTIME: ("start", "end", "globalTid", "correlationId", "nameId"),
    EVENTS: ("start", "end", "eventType", "globalTid", "text", "textId", "domainId"),
    "StringIds": ("id", "value"),
}
"""Columns that every known version has, where it has the table; without one, rows would go astray in silence."""


def read(path: Path, domain: str = DOMAIN, later: ExitStack | None = None) -> Trace:
    """Read one export whole. Refused: what is not an nsys export, and one without CUDA work.

    ``later``: a block whose end is soon enough to refuse a file that SQLite finds damaged.
    """
    with open_source(path, later) as report:
        return read_trace(report, domain)


def read_trace(report: Source, domain: str = DOMAIN) -> Trace:
    """Read an open export whole, with the ranges of one NVTX domain."""
    check_export(report)
    if not any(report.has(table) for table in (KERNEL, MEMCPY, MEMSET, GRAPH)):
        raise Refused(report.path, "the report has no CUDA work (no kernel, copy or graph)", _LAYER_FLAGS)
    names, records = Names(report), Records(report)
    with side_by_side(report) as begin:
        # The longest first, so that side by side no thread is left with it when the others are done.
        work = begin(lambda: read_operations(records, names))
        events = begin(lambda: read_events(report))
        ranges = begin(lambda: read_ranges(records, events(), names, domain))
        calls = begin(lambda: read_launches(records, names))
        announcements = begin(lambda: read_announcements(records, events(), names))
        costs = begin(lambda: records.possible_costs(read_costs(announcements())))
        launches, operations = calls(), work()
        return Trace(
            nvtx=closed(ranges(), max(_last(launches, "end_ns"), _last(operations, "end_ns"))),
            announcements=announcements(),
            costs=costs(),
            hits=read_hits(announcements()),
            launches=launches,
            operations=operations,
            graph_nodes=read_graph_nodes(records),
            replays=REPLAYS.empty_table(),
            devices=read_devices(report, zip(*_pairs(operations), strict=True)),
            source=read_source(report),
            stacks=read_stacks(report, names),
            set_apart=records.set_apart(),
        )


def read_projectable(path: Path) -> Projectable:
    """Read the NVTX ranges of every domain and the GPU work of one export; either may be missing.

    Times of GPU work are taken as they are, also where they cannot be: so nsys projects them.
    """
    with open_source(path) as report:
        check_export(report)
        names, records = Names(report), Records(report)
        with side_by_side(report) as begin:
            ranges = begin(lambda: read_every_range(records, read_events(report), names))
            launches = begin(lambda: read_launches(records, names))
            operations = begin(lambda: read_operations(records, names, timed=False))
            return Projectable(
                ranges=ranges(), launches=launches(), operations=operations(), source=read_source(report),
                set_apart=records.set_apart(),
            )  # fmt: skip


_OURS = ("META_DATA_EXPORT", "EXPORT_META_DATA", RUNTIME, "ThreadNames", "ProcessStreams", "TARGET_INFO_GPU")
"""Tables of nsys alone, of which every export has one; those of 2020 and 2021 have no metadata."""


def check_export(report: Source) -> None:
    """Refuse what is not an nsys export, and one whose tables or columns have other names than any known version."""
    if not report.has("StringIds") or not any(map(report.has, _OURS)):
        remedy = "give a report that `nsys export -t sqlite` wrote"
        raise Refused(report.path, "not an Nsight Systems export", remedy)
    for table, needed in _NEEDED.items():
        lacking = [name for name in needed if report.has(table) and not report.has(table, name)]
        found = f"{table} has no column {', '.join(lacking)}"
        if not report.has(table):
            lacking = [name for name in report.columns if name.lower().startswith(table.lower())]
            found = f"no table {table}, but {', '.join(lacking)}"
        if lacking:
            remedy = "upgrade dsocr-nvtx, or export with an nsys that it knows"
            raise Refused(report.path, f"{found} (schema {read_source(report)['nsys_schema']})", remedy)


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
    """Return the distinct (process id, device)s, as two lists."""
    pids, devices = (_found(operations[name]) for name in ("pid", "device"))
    if min(len(pids), len(devices)) <= 1:  # nothing to pair row by row
        return pids * len(devices), devices * len(pids)
    (known, pid), (ordinals, device) = (distinct(values_of(whole(operations[name]))) for name in ("pid", "device"))
    each, _ = distinct(pid * len(ordinals) + device)
    return known[each // len(ordinals)].tolist(), ordinals[each % len(ordinals)].tolist()


def _found(column: pa.ChunkedArray) -> list[int]:
    low, high = pc.min_max(column).as_py().values()
    found: list[int] = [low] if low == high and low is not None else column.unique().to_pylist()
    return found
