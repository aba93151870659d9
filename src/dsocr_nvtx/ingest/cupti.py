"""A run directory in which CUPTI recorded the GPU's work, as a `Trace`: ranges and costs are those that the run kept.

``ranges.arrow`` beside ``operations.arrow``, ``launches.arrow`` and ``graph_nodes.arrow`` in ``timings``, all on one
clock. Where a run noted no nodes of CUDA graphs, ``graph_nodes.arrow`` is not there: what a graph did then belongs to
the step that launched it, not to layers.
"""

import json
from pathlib import Path
from typing import cast

import cattrs
import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.bounds import payload_bounds
from dsocr_nvtx.ingest.devices import possible_device
from dsocr_nvtx.ingest.nsys_work import KERNEL, RUNTIME
from dsocr_nvtx.ingest.records import Records
from dsocr_nvtx.ingest.replays import captured_rows, of_origin
from dsocr_nvtx.ingest.source import NULL, Ints, Source, whole
from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.checking import digest
from dsocr_nvtx.schema.directories import run_table
from dsocr_nvtx.schema.payload import READ_FIELDS, STATE_FLAGS, WIRE
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from dsocr_nvtx.schema.records import DTYPE_BYTES, LayerKind, Level, Stage
from dsocr_nvtx.schema.values import values_of

TIMINGS = "timings"
_CODES: dict[str, dict[str, int]] = {
    "stage": {str(member): code for code, member in enumerate(Stage)},
    "kind": {str(member): code for code, member in enumerate(LayerKind)},
    "level": {str(member): code for code, member in enumerate(Level)},
    "dtype": {name: code for code, name in enumerate(DTYPE_BYTES)},
    "cost_state": {str(state): int(flag) for state, flag in STATE_FLAGS.items()},
}


def run_directory(path: Path) -> Path | None:
    """Return the run directory that a path names, itself or its ``timings``; None where CUPTI recorded nothing."""
    for folder in (path, path.parent):
        if (folder / TIMINGS / "operations.arrow").is_file() and path in (folder, folder / TIMINGS):
            return folder
    return None


def read(path: Path) -> Trace:
    """Read a run directory whole."""
    ranges = run_table(path, "ranges").unify_dictionaries().combine_chunks()
    records_of = Records(cast("Source", _AllColumns()))
    operations = _possible(records_of, "GPU operation", run_table(path, f"{TIMINGS}/operations"))
    launches = _possible(records_of, "call", run_table(path, f"{TIMINGS}/launches"))
    if not len(operations):
        raise Refused(path, "CUPTI recorded no GPU work", "run it again with --timing cupti on a GPU")
    about = operations.schema.metadata or {}
    pid, nodes = operations["pid"][0].as_py(), _graph_nodes(path)
    records = _records(path / "ranges.arrow", ranges)
    payload = pa.StructArray.from_arrays([pa.array(field) for field in records.T], READ_FIELDS)
    called = np.flatnonzero(~of_origin(ranges, "replayed"))
    again = captured_rows(ranges, str(path)) if len(nodes) else np.full(len(ranges), -1)
    return Trace(
        nvtx=_nvtx(ranges.take(pa.array(called)), payload.take(pa.array(called)), pid),
        announcements=tables.ANNOUNCEMENTS.empty_table(),
        costs=tables.COSTS.empty_table(),
        hits=_hits(path, pid),
        replays=_replays(ranges, payload, np.searchsorted(called, again), np.flatnonzero(again >= 0), pid),
        launches=launches,
        operations=operations,
        graph_nodes=nodes,
        devices=_devices(path / TIMINGS / "operations.arrow", about.get(b"devices", b"{}"), pid),
        source={"tool": about.get(b"tool", b"CUPTI").decode(), "sha256": _digest(path)},
        set_apart=records_of.set_apart(),
    )


class _AllColumns:
    """Stands for a report where `Records` asks which columns there are: a table of ours has them all."""

    def has(self, *_: str) -> bool:
        """Return that it has."""
        return True


_AS_TOOL = {
    "start": "start_ns", "end": "end_ns", "deviceId": "device", "streamId": "stream", "correlationId": "correlation_id",
    "gridX*gridY*gridZ": "blocks", "blockX*blockY*blockZ": "threads", "bytes": "bytes",
}  # fmt: skip


def _possible(records: Records, what: str, table: pa.Table) -> pa.Table:
    """Return the possible records of operations or calls, held to what the same columns of a report may hold."""
    c = {theirs: _filled(table, ours) for theirs, ours in _AS_TOOL.items() if ours in table.column_names}
    kept = records.possible(what, KERNEL if "deviceId" in c else RUNTIME, c)
    return table if kept is None else table.filter(pa.array(kept))


def _filled(table: pa.Table, name: str) -> Ints:
    column = whole(table[name])
    # NULL does not fit a narrow column, and those have none that is null.
    return np.asarray(values_of(column.fill_null(NULL) if column.null_count else column), np.int64)


def _graph_nodes(path: Path) -> pa.Table:
    name = f"{TIMINGS}/graph_nodes"
    return run_table(path, name) if (path / f"{name}.arrow").exists() else tables.GRAPH_NODES.empty_table()


def _digest(path: Path) -> str:
    return digest(path / TIMINGS / "operations.arrow")


def _devices(path: Path, told: bytes, pid: int) -> dict[tuple[int, int], Device]:
    try:
        known = json.loads(told).items()
        found = (cattrs.structure({**about, "ordinal": int(o)}, Device) for o, about in known)
        return {(pid, device.ordinal): possible_device(device) for device in found}
    except (ValueError, TypeError, AttributeError, RecursionError, cattrs.BaseValidationError) as cause:
        raise Refused(path, "devices in its metadata that are none", _AS_WRITTEN) from cause


def _nvtx(ranges: pa.Table, payload: pa.StructArray, pid: int) -> pa.Table:
    return tables.conform(
        {
            "pid": np.full(len(ranges), pid),
            "tid": ranges["thread_id"],
            "start_ns": ranges["host_start_ns"],
            "end_ns": ranges["host_end_ns"],
            "path": ranges["path"],
            "stage": ranges["stage"],
            "payload": payload,
            "json": pa.nulls(len(ranges), tables.PAYLOAD),
        },
        tables.NVTX,
    )


def _replays(ranges: pa.Table, payload: pa.StructArray, captured: Ints, rows: Ints, pid: int) -> pa.Table:
    """Return REPLAYS of some rows, of each of which ``captured`` says what it repeats."""
    mine = pa.array(rows)
    columns = {
        "pid": np.full(len(rows), pid),
        "tid": ranges["thread_id"].take(mine),
        "time_ns": ranges["host_start_ns"].take(mine),
        "captured": captured[rows],
        "parent_id": ranges["parent_id"].take(mine),
        "stage": ranges["stage"].take(mine),
        "payload": payload.take(mine),
    }
    return tables.conform(columns, tables.REPLAYS)


_COLUMNS = {"flags": "cost_state", "sequences": "batch"}
"""Columns of RANGES that have another name than the field."""


def _records(path: Path, ranges: pa.Table) -> Ints:
    """Return `READ_FIELDS` of every row, [rows, fields]; a table with own activations is of version 1."""
    wire = WIRE_V1 if "own_activation_bytes" in ranges.column_names else WIRE
    records = np.empty((len(ranges), len(wire.fields)), "<i8")
    for field, name in enumerate(_COLUMNS.get(name, name) for name in wire.fields):
        if name not in ranges.column_names:
            raise Refused(path, f"no column {name}", _AS_WRITTEN)
        records[:, field] = _numbers(path, ranges, name)
        _check_bounds(path, name, records[:, field])
    return wire.read(records)


def _check_bounds(path: Path, name: str, values: Ints) -> None:
    if payload_bounds(name).broken(values) is not None:
        raise Refused(path, f"column {name} holds what no run writes", _AS_WRITTEN)


def _numbers(path: Path, ranges: pa.Table, name: str) -> Ints:
    column = whole(ranges[name])
    if name in _CODES:
        codes = np.array([_code(path, name, word) for word in column.dictionary.to_pylist()], np.int64)
        coded: Ints = codes[values_of(column)]
        return coded
    return np.asarray(values_of(column.fill_null(-1)), np.int64)


def _code(path: Path, name: str, word: object) -> int:
    """Return the number of a word of one of the `_CODES`; refuse what is none."""
    if word not in _CODES[name]:
        raise Refused(path, f"column {name} holds {str(word)[:40]!r}", _AS_WRITTEN)
    return _CODES[name][str(word)]


_AS_WRITTEN = "give a run's directory as it was written"


def _hits(path: Path, pid: int) -> pa.Table:
    """Return HITS, of the calls of experts that were observed."""
    if not (path / "experts.arrow").is_file():
        return tables.HITS.empty_table()
    found = run_table(path, "experts")
    for name in ("event_id", "step", "expected_weight_bytes", "observed_weight_bytes"):
        _check_bounds(path / "experts.arrow", name, values_of(whole(found[name])))
    columns = {
        "pid": np.full(len(found), pid),
        "event_id": found["event_id"],
        "step": found["step"],
        "expected_bytes": found["expected_weight_bytes"],
        "observed_bytes": found["observed_weight_bytes"],
    }
    return tables.conform(columns, tables.HITS)
