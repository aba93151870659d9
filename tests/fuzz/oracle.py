"""Sums that a join or a projection must conserve, asked of the report by plain SQL and by Python's own arithmetic."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OPERATIONS = tuple(f"CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE"))
Times = list[tuple[object, object, object]]
"""Start, end and device of every GPU operation of a report, as they stand there."""


def quick_check(path: Path) -> str:
    """Return SQLite's own verdict on a file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except (sqlite3.Error, ValueError) as error:
        return str(error)
    finally:
        connection.close()


def times_of_sqlite(path: Path) -> Times:
    """Return the operations of a SQLite report."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = bytes
    found: Times = []
    for table in OPERATIONS:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE", (table,)).fetchone():
            found += connection.execute(f"SELECT start, end, deviceId FROM {table}").fetchall()
    connection.close()
    return found


def times_of_folder(folder: Path) -> Times:
    """Return the operations of a folder of Parquet or Arrow files."""
    found: Times = []
    for table in OPERATIONS:
        for path in folder.iterdir():
            if path.stem.lower() == table.lower():
                found += zip(*(_folder_column(path, name) for name in ("start", "end", "deviceId")), strict=True)
    return found


def _folder_column(path: Path, name: str) -> list[object]:
    """Return one column: damage to others, which a reader need not read, is no damage to it.

    Nor is damage to the pages of a column of one value, which stands in the file's statistics too: None stands for it.
    """
    if path.suffix == ".arrow":
        return list(_arrow(path)[name].to_pylist())
    file = pq.ParquetFile(path)
    try:
        return list(file.read(columns=[name])[name].to_pylist())
    except (pa.ArrowException, OSError):
        if name != "deviceId":
            raise
        return [None] * file.metadata.num_rows


def _arrow(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def join_faults(times: Times, out: Path) -> Iterator[str]:
    """Yield what of a join's accounting is not what the report says: nothing lost, nothing made up, sums exact."""
    told = json.loads((out / "join.json").read_text())
    apart = [one for one in told["set_apart"] if one["what"] == "GPU operation"]
    left_out = sum(one["records"] for one in apart)
    if told["operations"] + left_out != len(times):
        yield f"{len(times)} operations became {told['operations']} and {left_out} set apart"
    if not apart:
        yield from _sums(times, told)
    if sum(bucket["ns"] for bucket in told["buckets"].values()) != told["total_ns"]:
        yield "buckets do not add up"
    for device in told["devices"]:
        if device["busy_ns"] + sum(device["idle_ns"].values()) != device["wall_ns"]:
            yield f"GPU {device['device']}: busy and idle time do not add up to the wall"
    yield from _tables(told, out)


def _sums(times: Times, told: Mapping[str, object]) -> Iterator[str]:
    total = sum(int(str(end)) - int(str(start)) for start, end, _ in times)
    if told["total_ns"] != total:
        yield f"operations last {total} ns by the report, {told['total_ns']} by the join"
    devices = told["devices"]
    assert isinstance(devices, list)
    known = {device for _, _, device in times}
    # Two numbers may be one GPU, by what the report says of its identity.
    if None not in known and not {device["device"] for device in devices} <= known:
        yield "other GPUs than the report's"


def _tables(told: Mapping[str, object], out: Path) -> Iterator[str]:
    kernels, rows = _read(out / "kernels.arrow"), _read(out / "roofline.arrow")
    if sum(kernels["end_ns"].to_pylist()) - sum(kernels["start_ns"].to_pylist()) != told["total_ns"]:
        yield "kernels.arrow and join.json differ"
    for name in rows.column_names:
        values = [value for value in rows[name].to_pylist() if isinstance(value, int | float)]
        if any(value != value or value in (float("inf"), float("-inf")) for value in values):
            yield f"{name} is not finite"
        if (name.endswith(("_ns", "_flops", "_bytes")) and name != "lost_ns") and any(value < 0 for value in values):
            yield f"{name} is negative"


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


_PROJECTED = """
WITH op AS (
  {operations}
), range AS (
  SELECT rowid, start, globalTid,
    coalesce(end, (SELECT max(end) FROM NVTX_EVENTS WHERE eventType IN (59, 60, 70, 71))) AS end
  FROM NVTX_EVENTS WHERE eventType IN (59, 60, 70, 71) AND endGlobalTid IS NULL
), api AS (
  SELECT start, end, globalTid, correlationId FROM CUPTI_ACTIVITY_KIND_RUNTIME
  WHERE eventClass IS NULL OR eventClass IN (0, 1)
)
SELECT range.start, range.end - range.start, min(op.start), max(op.end) - min(op.start),
  count(DISTINCT op.correlationId)
FROM range JOIN api ON api.globalTid = range.globalTid AND range.start <= api.start AND api.end <= range.end
JOIN op ON op.correlationId = api.correlationId AND op.globalPid >> 24 = api.globalTid >> 24
GROUP BY range.rowid
"""

_TWICE = """
SELECT 1 FROM CUPTI_ACTIVITY_KIND_RUNTIME WHERE eventClass IS NULL OR eventClass IN (0, 1)
GROUP BY globalTid >> 24, correlationId HAVING count(*) > 1
"""


def projection_faults(path: Path, out: Path) -> Iterator[str]:
    """Yield how a projection differs from the same rules in SQL, which know nothing of two calls with one id."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = bytes
    if connection.execute(_TWICE).fetchone():
        connection.close()
        return
    tables = [name for name in OPERATIONS[:3] if connection.execute(f"PRAGMA table_info({name})").fetchall()]
    asked = " UNION ALL ".join(f"SELECT start, end, correlationId, globalPid FROM {table}" for table in tables)
    rows = connection.execute(_PROJECTED.format(operations=asked)).fetchall()
    connection.close()
    names = ("start_ns", "duration_ns", "projected_start_ns", "projected_duration_ns", "gpu_ops")
    found = [tuple(row[name] for name in names) for row in _read(out).to_pylist()]
    if sorted(found) != sorted(rows):
        yield f"projected: {len(found)} rows, by SQL {len(rows)}, or other values"
