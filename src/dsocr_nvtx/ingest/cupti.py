"""A run directory in which CUPTI recorded the GPU's work, as a `Trace`: ranges and costs are those that the run kept.

``ranges.arrow`` beside ``operations.arrow``, ``launches.arrow`` and ``graph_nodes.arrow`` in ``timings``, all on one
clock. Where a run noted no nodes of CUDA graphs, ``graph_nodes.arrow`` is not there: what a graph did then belongs to
the step that launched it, not to layers.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import cattrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.nsys_work import KERNEL, RUNTIME
from dsocr_nvtx.ingest.records import Records, payload_bounds
from dsocr_nvtx.ingest.replays import Replays, no_replays, read_replays
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, Source, whole
from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.checking import digest
from dsocr_nvtx.schema.directories import run_table
from dsocr_nvtx.schema.payload import experts_mark
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.payload_v1 import announcement_v1 as announcement
from dsocr_nvtx.schema.records import DTYPE_BYTES, LayerKind, Level, Stage
from dsocr_nvtx.schema.values import values_of

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
    ranges = run_table(path, "ranges").unify_dictionaries().combine_chunks()
    records_of = Records(cast("Source", _AllColumns()))
    operations = _possible(records_of, "GPU operation", run_table(path, f"{TIMINGS}/operations"))
    launches = _possible(records_of, "call", run_table(path, f"{TIMINGS}/launches"))
    if not len(operations):
        raise Refused(path, "CUPTI recorded no GPU work", "run it again with --timing cupti on a GPU")
    about = operations.schema.metadata or {}
    pid, nodes = operations["pid"][0].as_py(), _graph_nodes(path)
    records = _records(path / "ranges.arrow", ranges)
    replays = read_replays(ranges, records, str(path)) if len(nodes) else no_replays(ranges)
    called = _called(ranges)
    return Trace(
        nvtx=_nvtx(ranges.filter(called), records[called], pid),
        announcements=_announcements(path, ranges, records, replays, pid),
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


def _called(ranges: pa.Table) -> Mask:
    """Return the rows of calls that were made, which a launch of a graph repeats without one."""
    if "origin" not in ranges.column_names:
        return np.ones(len(ranges), bool)
    called: Mask = pc.not_equal(ranges["origin"].cast(pa.string()), "replayed").to_numpy()
    return called


def _digest(path: Path) -> str:
    return digest(path / TIMINGS / "operations.arrow")


def _devices(path: Path, told: bytes, pid: int) -> dict[tuple[int, int], Device]:
    try:
        known = json.loads(told).items()
        return {(pid, int(o)): cattrs.structure({**about, "ordinal": int(o)}, Device) for o, about in known}
    except (ValueError, TypeError, AttributeError, RecursionError, cattrs.BaseValidationError) as cause:
        raise Refused(path, "devices in its metadata that are none", _AS_WRITTEN) from cause


def _nvtx(ranges: pa.Table, records: Ints, pid: int) -> pa.Table:
    count = len(ranges)
    return tables.conform(
        {
            "pid": np.full(count, pid),
            "tid": ranges["thread_id"],
            "start_ns": ranges["host_start_ns"],
            "end_ns": ranges["host_end_ns"],
            "path": ranges["path"],
            "stage": ranges["stage"],
            "payload": pa.StructArray.from_arrays([pa.array(field) for field in records.T], PAYLOAD_FIELDS),
            "json": pa.nulls(count, tables.PAYLOAD),
        },
        tables.NVTX,
    )


def _records(path: Path, ranges: pa.Table) -> Ints:
    """Return `PAYLOAD_FIELDS` of every row, [rows, fields]."""
    records = np.empty((len(ranges), len(PAYLOAD_FIELDS)), "<i8")
    for field, name in enumerate(PAYLOAD_FIELDS):
        if name not in ranges.column_names:
            raise Refused(path, f"no column {name}", _AS_WRITTEN)
        records[:, field] = _numbers(path, ranges, name)
        if payload_bounds(name).broken(records[:, field]) is not None:
            raise Refused(path, f"column {name} holds what no run writes", _AS_WRITTEN)
    return records


def _numbers(path: Path, ranges: pa.Table, name: str) -> Ints:
    column = ranges[name].combine_chunks()
    if name in _CODES:
        codes = np.array([_code(path, name, word) for word in column.dictionary.to_pylist()], np.int64)
        coded: Ints = codes[column.indices.to_numpy()]
        return coded
    found: Ints = column.fill_null(-1).to_numpy().astype(np.int64)
    return found


def _code(path: Path, name: str, word: object) -> int:
    """Return the number of a word of one of the `_CODES`; refuse what is none."""
    if word not in _CODES[name]:
        raise Refused(path, f"column {name} holds {str(word)[:40]!r}", _AS_WRITTEN)
    return _CODES[name].index(str(word))


_AS_WRITTEN = "give a run's directory as it was written"


def _announcements(path: Path, ranges: pa.Table, records: Ints, replays: Replays, pid: int) -> pa.Table:
    """Return the costs that change between replays, and what was observed of experts, as a tool would have heard it."""
    changing = replays.changing
    paths = ranges["path"].take(pa.array(changing)).to_pylist()
    costs = [announcement(*one) for one in zip(paths, records[changing].tolist(), strict=True)]
    experts = _experts(path, dict(zip(*replays.events(ranges), strict=True)))
    thread, start = (ranges[name].to_numpy() for name in ("thread_id", "host_start_ns"))
    last = int(pc.max(ranges["host_end_ns"]).as_py() or 0) if len(ranges) else 0
    columns = {
        "pid": np.full(len(costs) + len(experts), pid),
        "tid": np.concatenate([thread[changing], np.full(len(experts), thread[0] if len(thread) else 0)]),
        "time_ns": np.concatenate([start[changing], np.full(len(experts), last)]),
        "text": costs + experts,
    }
    return tables.conform(columns, tables.ANNOUNCEMENTS)


def _experts(path: Path, captured: Mapping[int, int]) -> list[str]:
    """Return marks of the experts that were observed; of replayed calls they name those that were captured."""
    if not (path / "experts.arrow").is_file():
        return []
    grouped: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for row in run_table(path, "experts").to_pylist():
        each = row["observed_weight_bytes"] // max(row["distinct_experts"], 1)
        stage = _code(path / "experts.arrow", "stage", row["stage"])
        key = (stage, row["step"], each, row["expected_weight_bytes"])
        grouped[key].append((captured.get(row["event_id"], row["event_id"]), row["distinct_experts"]))
    return [experts_mark(*key, hits) for key, hits in grouped.items()]
