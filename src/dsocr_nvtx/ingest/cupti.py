"""A run directory in which CUPTI recorded the GPU's work, as a `Trace`: ranges and costs are those that the run kept.

``ranges.arrow`` beside ``timings/operations.arrow`` and ``timings/launches.arrow``, all on one clock. Calls of replayed
graphs have no ranges of their own there, since CUPTI does not say where a graph's nodes were captured: what a graph did
belongs to the step that launched it.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Ints
from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS, experts_mark
from dsocr_nvtx.schema.records import DTYPE_BYTES, LayerKind, Level, Stage

TIMINGS = "timings"
_CODES: dict[str, list[str]] = {
    "stage": [str(member) for member in Stage],
    "kind": [str(member) for member in LayerKind],
    "level": [str(member) for member in Level],
    "dtype": list(DTYPE_BYTES),
}


def run_directory(path: Path) -> Path | None:
    """Return the run directory that a path names, itself or its ``timings``; None where CUPTI recorded nothing."""
    for folder in (path, path.parent):
        if (folder / TIMINGS / "operations.arrow").is_file() and path in (folder, folder / TIMINGS):
            return folder
    return None


def read(path: Path) -> Trace:
    """Read a run directory whole."""
    ranges = read_table(path / "ranges.arrow")
    operations, launches = (read_table(path / TIMINGS / f"{name}.arrow") for name in ("operations", "launches"))
    if not len(operations):
        raise Refused(path, "CUPTI recorded no GPU work", "run it again with --timing cupti on a GPU")
    about = operations.schema.metadata or {}
    pid = operations["pid"][0].as_py()
    if "origin" in ranges.column_names:
        ranges = ranges.filter(pc.not_equal(ranges["origin"].cast(pa.string()), "replayed"))
    return Trace(
        nvtx=_nvtx(ranges, pid),
        announcements=_announcements(path, ranges, pid),
        launches=launches,
        operations=operations,
        graph_nodes=tables.GRAPH_NODES.empty_table(),
        devices=_devices(json.loads(about.get(b"devices", b"{}")), pid),
        source={"tool": about.get(b"tool", b"CUPTI").decode(), "sha256": _digest(path)},
    )


def _digest(path: Path) -> str:
    with (path / TIMINGS / "operations.arrow").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _devices(known: dict[str, dict[str, object]], pid: int) -> dict[tuple[int, int], Device]:
    return {(pid, int(o)): Device(ordinal=int(o), **about) for o, about in known.items()}  # type: ignore[arg-type]


def _nvtx(ranges: pa.Table, pid: int) -> pa.Table:
    count = len(ranges)
    return tables.conform(
        {
            "pid": np.full(count, pid),
            "tid": ranges["thread_id"],
            "start_ns": ranges["host_start_ns"],
            "end_ns": ranges["host_end_ns"],
            "path": ranges["path"],
            "stage": ranges["stage"],
            "payload": _payloads(ranges),
            "json": pa.nulls(count, pa.binary()),
        },
        tables.NVTX,
    )


def _payloads(ranges: pa.Table) -> pa.Array:
    """Return each range's record as it would have been on the wire."""
    values = np.column_stack([_numbers(ranges, name) for name in PAYLOAD_FIELDS]).astype("<i8")
    size = values.shape[1] * values.itemsize
    ends = pa.py_buffer(np.arange(len(values) + 1, dtype=np.int32) * size)
    return pa.Array.from_buffers(pa.binary(), len(values), [None, ends, pa.py_buffer(values.tobytes())])


def _numbers(ranges: pa.Table, name: str) -> Ints:
    column = ranges[name].combine_chunks()
    if name in _CODES:
        known = _CODES[name]
        codes = np.array([known.index(word) for word in column.dictionary.to_pylist()], np.int64)
        coded: Ints = codes[column.indices.to_numpy()]
        return coded
    found: Ints = column.fill_null(-1).to_numpy().astype(np.int64)
    return found


def _announcements(path: Path, ranges: pa.Table, pid: int) -> pa.Table:
    """Return what was observed of experts, told as the run would have told a tool."""
    texts: list[str] = []
    if (path / "experts.arrow").is_file():
        grouped: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
        for row in read_table(path / "experts.arrow").to_pylist():
            each = row["observed_weight_bytes"] // max(row["distinct_experts"], 1)
            stage = _CODES["stage"].index(row["stage"])
            key = (stage, row["step"], each, row["expected_weight_bytes"])
            grouped[key].append((row["event_id"], row["distinct_experts"]))
        texts = [experts_mark(*key, hits) for key, hits in grouped.items()]
    last = int(pc.max(ranges["host_end_ns"]).as_py() or 0) if len(ranges) else 0
    tid = ranges["thread_id"][0].as_py() if len(ranges) else 0
    count = len(texts)
    return tables.conform(
        {"pid": np.full(count, pid), "tid": np.full(count, tid), "time_ns": np.full(count, last), "text": texts},
        tables.ANNOUNCEMENTS,
    )
