"""Reduces an nsys SQLite export to what the join reads, and packs it: `python -m dsocr_nvtx.demo.reduce IN OUT.xz`.

What goes: tables and columns that no reader of ours asks for, NVTX domains of others, strings that nothing refers to.
What stays is copied as it is.
"""

import lzma
import sqlite3
import sys
import tempfile
from pathlib import Path

from dsocr_nvtx.schema.files import replacing

_OURS = "domainId IN (0, (SELECT domainId FROM s.NVTX_EVENTS WHERE eventType = 75 AND text = 'dsocr'))"
_OPERATION = "start, end, deviceId, streamId, correlationId, globalPid, graphNodeId"
_KEPT: dict[str, tuple[str, str]] = {
    "NVTX_EVENTS": (
        "start, end, eventType, category, text, globalTid, endGlobalTid, textId, domainId, jsonText, binaryData",
        _OURS,
    ),
    "NVTX_PAYLOAD_SCHEMAS": ("domainId, schemaId, payloadSize", "1"),
    "NVTX_PAYLOAD_SCHEMA_ENTRIES": ("domainId, schemaId, idx, type, name, offset", "1"),
    "CUPTI_ACTIVITY_KIND_RUNTIME": ("start, end, eventClass, globalTid, correlationId, nameId", "1"),
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        f"{_OPERATION}, demangledName, gridX, gridY, gridZ, blockX, blockY, blockZ",
        "1",
    ),
    "CUPTI_ACTIVITY_KIND_MEMCPY": (f"{_OPERATION}, bytes, copyKind", "1"),
    "CUPTI_ACTIVITY_KIND_MEMSET": (f"{_OPERATION}, bytes", "1"),
    "TARGET_INFO_GPU": ("id, name, cuDevice, smCount, clockRate, l2CacheSize", "1"),
    "TARGET_INFO_CUDA_DEVICE": ("gpuId, cudaId, pid", "1"),
    "META_DATA_EXPORT": ("name, value", "name IN ('EXPORT_PRODUCT_VERSION', 'EXPORT_SCHEMA_VERSION')"),
}
_STRINGS = """CREATE TABLE StringIds AS SELECT id, value FROM s.StringIds WHERE id IN (
    SELECT textId FROM NVTX_EVENTS UNION SELECT nameId FROM CUPTI_ACTIVITY_KIND_RUNTIME
    UNION SELECT demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL)"""


def reduce_export(source: Path, target: Path) -> None:
    """Write the reduced export, xz-packed."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "reduced.sqlite"
        connection = sqlite3.connect(plain.as_uri(), uri=True)
        connection.execute("ATTACH ? AS s", (f"{source.resolve().as_uri()}?mode=ro",))
        present = {name for (name,) in connection.execute("SELECT name FROM s.sqlite_master WHERE type = 'table'")}
        for table, (columns, where) in _KEPT.items():
            if table in present:
                quoted = ", ".join(f'"{name}"' for name in columns.split(", "))
                connection.execute(f"CREATE TABLE {table} AS SELECT {quoted} FROM s.{table} WHERE {where}")  # noqa: S608
        connection.execute(_STRINGS)
        connection.commit()
        connection.execute("DETACH s")
        connection.execute("VACUUM")
        connection.close()
        with replacing(target) as temporary:
            temporary.write_bytes(lzma.compress(plain.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    reduce_export(Path(sys.argv[1]), Path(sys.argv[2]))
