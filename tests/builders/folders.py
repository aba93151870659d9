"""Writes a report's tables as a directory of files, as ``nsys export -t parquetdir`` and ``-t arrowdir`` do.

Compression, row groups and the types of the columns that are read are those of Nsight Systems 2025.3 (Arrow 17):
integers are ``uint64`` unless named below; texts and blobs alike are ``large_string``, whose bytes need not be UTF-8.
"""

import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsocr_nvtx.ingest.source import NULL
from dsocr_nvtx.ingest.sqlite import SqliteFile

_ROW_GROUP = 1 << 20
_NAMED = {
    pa.int64(): "start end gridId callchainId int64Value",
    pa.int32(): "gridX gridY gridZ blockX blockY blockZ staticSharedMemory dynamicSharedMemory localMemoryPerThread"
    " localMemoryTotal int32Value cuDevice StringIds.id",
    pa.uint32(): "deviceId correlationId eventClass eventType color textId jsonTextId uint32Value returnValue"
    " launchType cacheConfig registersPerThread sharedMemoryExecuted sharedMemoryLimitConfig gpuId cudaId clockRate"
    " smCount l2CacheSize computeMajor computeMinor TARGET_INFO_GPU.id TARGET_INFO_CUDA_DEVICE.pid",
    pa.float64(): "doubleValue",
    pa.float32(): "floatValue",
}
_TYPES = {name: kind for kind, names in _NAMED.items() for name in names.split()}


def as_folder(report: Path, folder: Path, suffix: str) -> Path:
    """Write every table of a SQLite export into a file of its own, ``.parquet`` or ``.arrow``."""
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(f"file:{report}?mode=ro", uri=True)
    with SqliteFile(report) as source:
        for table in source.columns:
            about = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            columns = {name: _column(source, connection, table, name, kind) for _, name, kind, *_ in about}
            write_file(pa.table(columns), folder / f"{table}{suffix}")
    connection.close()
    return folder


def _column(source: SqliteFile, connection: sqlite3.Connection, table: str, name: str, kind: str) -> pa.Array:
    if kind == "INTEGER":
        values = source.integers(table, [name])[name]
        wanted = _TYPES.get(f"{table}.{name}") or _TYPES.get(name, pa.uint64())
        missing = values == NULL
        return pa.array(np.where(missing, 0, values).astype(str(wanted)), wanted, mask=missing)
    if kind == "REAL":
        found = [value for (value,) in connection.execute(f'SELECT "{name}" FROM "{table}" ORDER BY rowid')]
        return pa.array(found, _TYPES.get(name, pa.float64()))
    found = [value for (value,) in connection.execute(f'SELECT CAST("{name}" AS BLOB) FROM "{table}" ORDER BY rowid')]
    return pa.array(found, pa.large_binary()).view(pa.large_string())


def write_file(table: pa.Table, path: Path) -> None:
    """Write one table, as the name's end says: ``.parquet``, or ``.arrow`` for a stream."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=_ROW_GROUP)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
