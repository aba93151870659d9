"""Writes SQLite files shaped as Nsight Systems' exports, with its own CREATE TABLE statements."""

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import define, field

from dsocr_nvtx.schema.payload import DOMAIN
from dsocr_nvtx.schema.payload_v1 import WIRES
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.wire import Wire

DOMAIN_ID = 1
SCHEMA_ID = (1 << 32) + 1
SCALAR_ID = 1 << 32

TABLES = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT);
CREATE TABLE TARGET_INFO_GPU (
    vmId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT, busLocation TEXT, isDiscrete INTEGER, l2CacheSize INTEGER,
    totalMemory INTEGER, memoryBandwidth INTEGER, clockRate INTEGER, smCount INTEGER, pwGpuId INTEGER, uuid TEXT,
    luid INTEGER, chipName TEXT, cuDevice INTEGER, computeMajor INTEGER, computeMinor INTEGER
);
CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId INTEGER NOT NULL, cudaId INTEGER NOT NULL, pid INTEGER NOT NULL);
CREATE TABLE NVTX_EVENTS (
    start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, category INTEGER, color INTEGER,
    text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, uint64Value INTEGER,
    int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER, floatValue REAL, jsonTextId INTEGER,
    jsonText TEXT, binaryData TEXT
);
CREATE TABLE NVTX_PAYLOAD_SCHEMAS (
    domainId INTEGER, schemaId INTEGER, name TEXT, type INTEGER, flags INTEGER, numEntries INTEGER,
    payloadSize INTEGER, alignTo INTEGER
);
CREATE TABLE NVTX_PAYLOAD_SCHEMA_ENTRIES (
    domainId INTEGER NOT NULL, schemaId INTEGER NOT NULL, idx INTEGER NOT NULL, flags INTEGER, type INTEGER, name TEXT,
    description TEXT, arrayOrUnionDetail INTEGER, offset INTEGER
);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (
    start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER,
    correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER
);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (
    start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,
    greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL,
    gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,
    graphNodeId INTEGER
);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (
    start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,
    greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL, graphNodeId INTEGER
);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (
    start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,
    greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    value INTEGER NOT NULL, bytes INTEGER NOT NULL, graphNodeId INTEGER
);
CREATE TABLE CUDA_GRAPH_NODE_EVENTS (
    start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER, nameId INTEGER,
    graphNodeId INTEGER NOT NULL, originalGraphNodeId INTEGER
);
CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (
    start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,
    greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    graphId INTEGER NOT NULL, graphExecId INTEGER NOT NULL
);
CREATE TABLE CUDA_CALLCHAINS (
    id INTEGER NOT NULL, symbol INTEGER, module INTEGER, unresolved INTEGER, originalIP INTEGER, stackDepth INTEGER
);
"""


def global_id(pid: int, tid: int = 0) -> int:
    """Return nsys's packed id of a thread, or of a process where ``tid`` is 0."""
    return (1 << 48) | (pid << 24) | tid


def wire_of(values: Sequence[int]) -> Wire:
    """Return the version of a payload, told by its length."""
    return next(wire for wire in WIRES if len(wire.fields) == len(values))


def schema_id(wire: Wire) -> int:
    """Return the id of a version's payload schema."""
    return SCHEMA_ID + WIRES.index(wire)


@define
class NsysFile:
    """An export under construction. Times are nanoseconds; ``tid`` of the main thread equals ``pid``."""

    strings: dict[str, int] = field(factory=dict)
    rows: dict[str, list[dict[str, object]]] = field(factory=dict)
    correlation: int = 0

    def text(self, value: str) -> int:
        """Return the string id of a text."""
        return self.strings.setdefault(value, len(self.strings) + 1)

    def add(self, table: str, **columns: object) -> None:
        """Add one row; columns that are not named stay NULL."""
        self.rows.setdefault(table, []).append(columns)

    def device(self, name: str = "NVIDIA H200", ordinal: int = 0, identity: int = 0, pids: Iterable[int] = ()) -> None:
        """Describe a GPU; ``identity`` is its number in the target table, which is not its CUDA ordinal."""
        self.add(
            "TARGET_INFO_GPU", vmId=0, id=identity, name=name, cuDevice=ordinal, smCount=132, clockRate=1_980_000_000,
            l2CacheSize=62_914_560, uuid=f"uuid-{identity}",
        )  # fmt: skip
        for pid in pids:
            self.add("TARGET_INFO_CUDA_DEVICE", gpuId=identity, cudaId=ordinal, pid=pid)

    def domain(self, pid: int, name: str = DOMAIN, domain: int = DOMAIN_ID, *, categories: bool = True) -> None:
        """Create an NVTX domain and name its categories."""
        tid = global_id(pid, pid)
        self.add("NVTX_EVENTS", start=0, eventType=75, globalTid=tid, textId=self.text(name), domainId=domain)
        for code, stage in enumerate(Stage if categories else ()):
            self.add(
                "NVTX_EVENTS", start=0, eventType=33, globalTid=tid, category=code + 1, text=str(stage), domainId=domain
            )

    def schema(self) -> None:
        """Register both versions' payload schemas as Python's nvtx does: one per scalar type, and one that names it."""
        self.add("NVTX_PAYLOAD_SCHEMAS", domainId=DOMAIN_ID, schemaId=SCALAR_ID, type=1, numEntries=1, payloadSize=8)
        entries = "NVTX_PAYLOAD_SCHEMA_ENTRIES"
        self.add(entries, domainId=DOMAIN_ID, schemaId=SCALAR_ID, idx=0, type=17, name="int64")
        for wire in WIRES:
            count, place = len(wire.fields), {"domainId": DOMAIN_ID, "schemaId": schema_id(wire)}
            self.add("NVTX_PAYLOAD_SCHEMAS", **place, type=1, numEntries=count, payloadSize=8 * count)
            for index, name in enumerate(wire.fields):
                self.add(entries, **place, idx=index, type=SCALAR_ID, name=name, offset=8 * index or None)

    def push_pop(
        self, path: str, start: int, end: int | None, *, pid: int = 1, tid: int | None = None, stage: str | None = None,
        values: Sequence[int] | None = None, binary: bool = True, json: bool = False, domain: int = DOMAIN_ID,
    ) -> None:  # fmt: skip
        """Add a range, with its payload as a blob and as JSON where asked for, which says its stage; else decode."""
        if stage is None:
            stage = str(list(Stage)[values[1]]) if values is not None and 0 <= values[1] < len(Stage) else "decode"
        blob = text = None
        if values is not None and binary:
            head = struct.pack("<QQQQ", domain, schema_id(wire_of(values)), 8 * len(values), 32)
            blob = head + struct.pack(f"<{len(values)}q", *values)
        if values is not None and json:
            pairs = zip(wire_of(values).fields, values, strict=True)
            text = "{" + ",".join(f'"{name}":{{"int64":{value}}}' for name, value in pairs) + "}"
        self.add(
            "NVTX_EVENTS", start=start, end=end, eventType=59, globalTid=global_id(pid, tid or pid),
            textId=self.text(path), domainId=domain, category=list(Stage).index(Stage(stage)) + 1, binaryData=blob,
            jsonText=text,
        )  # fmt: skip

    def mark(self, text: str, time: int, *, pid: int = 1, tid: int | None = None) -> None:
        """Add a mark of the default domain, its text not registered, as torch makes it."""
        self.add("NVTX_EVENTS", start=time, eventType=34, globalTid=global_id(pid, tid or pid), text=text, domainId=0)

    def call(
        self, name: str, start: int, end: int, *, pid: int = 1, tid: int | None = None, correlation: int | None = None
    ) -> int:
        """Add an API call; return its correlation id."""
        self.correlation += 1
        number = self.correlation if correlation is None else correlation
        self.add(
            "CUPTI_ACTIVITY_KIND_RUNTIME", start=start, end=end, eventClass=0, globalTid=global_id(pid, tid or pid),
            correlationId=number, nameId=self.text(name), returnValue=0,
        )  # fmt: skip
        return number

    def kernel(
        self, name: str, start: int, end: int, *, correlation: int | None, pid: int = 1, device: int = 0,
        stream: int = 7, node: int | None = None,
    ) -> None:  # fmt: skip
        """Add a kernel."""
        self.add(
            "CUPTI_ACTIVITY_KIND_KERNEL", start=start, end=end, deviceId=device, contextId=1, streamId=stream,
            correlationId=correlation, globalPid=global_id(pid), demangledName=self.text(name),
            shortName=self.text(name), gridX=132, gridY=1, gridZ=1, blockX=128, blockY=1, blockZ=1, graphNodeId=node,
        )  # fmt: skip

    def launch(
        self, name: str, called: int, start: int, end: int, *, pid: int = 1, tid: int | None = None, device: int = 0,
        stream: int = 7, took: int = 2,
    ) -> None:  # fmt: skip
        """Add a kernel and the call that launched it."""
        number = self.call("cudaLaunchKernel_v7000", called, called + took, pid=pid, tid=tid)
        self.kernel(name, start, end, correlation=number, pid=pid, device=device, stream=stream)

    def node(self, node: int, time: int, *, original: int | None = None, pid: int = 1, tid: int | None = None) -> None:
        """Add the making of a CUDA graph node. A clone has two rows: that it was made, then of what."""
        for of in (None, original)[: 1 if original is None else 2]:
            self.add(
                "CUDA_GRAPH_NODE_EVENTS", start=time, end=time, eventClass=77, globalTid=global_id(pid, tid or pid),
                nameId=self.text("CUDA graph node"), graphNodeId=node, originalGraphNodeId=of,
            )  # fmt: skip

    def write(self, path: Path, *, only_filled: bool = True) -> Path:
        """Write the file; tables without rows are left out, as nsys does."""
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.executescript(TABLES)
        self.rows["StringIds"] = [{"id": number, "value": value} for value, number in self.strings.items()]
        self.rows.setdefault("META_DATA_EXPORT", [{"name": "EXPORT_SCHEMA_VERSION", "value": "3.20.3"}])
        for table, rows in self.rows.items():
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if only_filled and not self.rows.get(table):
                connection.execute(f"DROP TABLE {table}")
        connection.commit()
        connection.close()
        return path
