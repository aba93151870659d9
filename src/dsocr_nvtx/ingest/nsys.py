"""Nsight Systems' SQLite exports (schema 2.9 and later, and those before it had versions) as a `Trace`.

All knowledge of that format stands here. Tables appear only when there is data; columns come and go between versions;
row order means nothing; ``globalTid`` packs process (bits 24 to 47) and thread (bits 0 to 23); correlation ids are
unique within a process only.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.devices import read_devices
from dsocr_nvtx.ingest.payloads import Entry, decode_blobs, decode_json
from dsocr_nvtx.ingest.sqlite import NULL, SqliteFile
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.schema.payload import ANNOUNCE_PREFIX, DOMAIN
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import ANNOUNCEMENTS, GRAPH_NODES, LAUNCHES, NVTX, OPERATIONS, conform

Ints = npt.NDArray[np.int64]

_CATEGORY, _MARK, _PUSH_POP, _NVTXT_PUSH_POP, _DOMAIN_CREATE = 33, 34, 59, 70, 75
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


def pid_of(global_id: Ints) -> Ints:
    """Return the process id packed in a globalTid or globalPid."""
    return (global_id >> 24) & 0xFFFFFF


def tid_of(global_id: Ints) -> Ints:
    """Return the thread id packed in a globalTid."""
    return global_id & 0xFFFFFF


def read(path: Path) -> Trace:
    """Read one export whole. Refused: what is not an nsys export, and one without CUDA work."""
    with SqliteFile(path) as report:
        _check(report)
        names = report.texts("StringIds", "id", "value")
        launches = _launches(report, names)
        operations = _operations(report, names)
        last = max((_last(launches, "end_ns"), _last(operations, "end_ns")))
        return Trace(
            nvtx=_ranges(report, names, last),
            announcements=_announcements(report, names),
            launches=launches,
            operations=operations,
            graph_nodes=_graph_nodes(report),
            devices=read_devices(report, zip(*_pairs(operations), strict=True)),
            source=_source(report),
        )


def _check(report: SqliteFile) -> None:
    if not report.has("StringIds") or not ({"META_DATA_EXPORT", "EXPORT_META_DATA", _RUNTIME} & report.columns.keys()):
        remedy = "give a report that `nsys export -t sqlite` wrote"
        raise Refused(report.path, "a SQLite file, but not an Nsight Systems export", remedy)
    if not any(report.has(table) for table in (_KERNEL, _MEMCPY, _MEMSET, _GRAPH)):
        raise Refused(report.path, "the report has no CUDA work (no kernel, copy or graph)", _LAYER_FLAGS)


def _source(report: SqliteFile) -> dict[str, str]:
    table = "META_DATA_EXPORT" if report.has("META_DATA_EXPORT") else "EXPORT_META_DATA"
    found = report.rows(f"SELECT name, value FROM {table}") if report.has(table) else []  # noqa: S608 - our own names
    values = {str(name): str(value) for name, value in found}
    return {
        "tool": "nsys " + values.get("EXPORT_PRODUCT_VERSION", "of unknown version"),
        "nsys_schema": values.get("EXPORT_SCHEMA_VERSION", "unknown"),
    }


def _last(table: pa.Table, column: str) -> int:
    return int(table[column].to_numpy().max()) if len(table) else 0


def _pairs(operations: pa.Table) -> tuple[list[int], list[int]]:
    distinct = operations.select(["pid", "device"]).group_by(["pid", "device"]).aggregate([])
    return distinct["pid"].to_pylist(), distinct["device"].to_pylist()


def words(identifiers: Ints, names: dict[int, str]) -> pa.DictionaryArray:
    """Return the texts of string ids as a dictionary array; an id without a text becomes ``#id``."""
    distinct, codes = np.unique(identifiers, return_inverse=True)
    texts = [names.get(int(i), f"#{i}") for i in distinct]
    # Several ids can have one text; equal texts must have one code, or equality by code would be wrong.
    unique = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    recode = np.array([unique[text] for text in texts], np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(recode[codes] if len(distinct) else []).cast(pa.int32()), list(unique)
    )


def constant(word: str, length: int) -> pa.DictionaryArray:
    """Return a dictionary array of one word."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int32)), [word])


def _nullable(values: Ints) -> pa.Array:
    return pa.array(values, pa.int64(), mask=values == NULL)


def _launches(report: SqliteFile, names: dict[int, str]) -> pa.Table:
    # Class 67 rows repeat a call's correlation id for its host call stack; they are no calls.
    where = f"eventClass IN ({_RUNTIME_API}, {_DRIVER_API})" if report.has(_RUNTIME, "eventClass") else "1"
    c = report.integers(_RUNTIME, ("globalTid", "start", "end", "correlationId", "nameId"), where)
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
    )


_COMMON = ("globalPid", "deviceId", "streamId", "start", "end", "correlationId", "graphNodeId")
_GRID = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ")


def _operations(report: SqliteFile, names: dict[int, str]) -> pa.Table:
    kernels = report.integers(_KERNEL, (*_COMMON, "demangledName", *_GRID))
    copies = report.integers(_MEMCPY, (*_COMMON, "copyKind", "bytes"))
    sets = report.integers(_MEMSET, (*_COMMON, "bytes"))
    graphs = report.integers(_GRAPH, _COMMON)
    blocks = kernels["gridX"] * kernels["gridY"] * kernels["gridZ"]
    threads = kernels["blockX"] * kernels["blockY"] * kernels["blockZ"]
    kinds = {k: f"memcpy {_COPY_KINDS.get(int(k), f'kind {k}')}" for k in np.unique(copies["copyKind"])}
    parts = [
        _operation(kernels, "kernel", words(kernels["demangledName"], names), blocks=blocks, threads=threads),
        _operation(copies, "memcpy", words(copies["copyKind"], kinds), size=copies["bytes"]),
        _operation(sets, "memset", constant("memset", len(sets["start"])), size=sets["bytes"]),
        _operation(graphs, "graph", constant("graph launch", len(graphs["start"]))),
    ]
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _operation(
    c: dict[str, Ints],
    operation: str,
    name: pa.DictionaryArray,
    *,
    blocks: Ints | None = None,
    threads: Ints | None = None,
    size: Ints | None = None,
) -> pa.Table:
    nothing = np.zeros(len(c["start"]), np.int64)
    return conform(
        {
            "pid": pid_of(c["globalPid"]),
            "device": c["deviceId"].astype(np.int32),
            "stream": c["streamId"],
            "start_ns": c["start"],
            "end_ns": c["end"],
            "correlation_id": _nullable(c["correlationId"]),
            "operation": constant(operation, len(nothing)),
            "name": name,
            "blocks": nothing if blocks is None else blocks,
            "threads": (nothing if threads is None else threads).astype(np.int32),
            "bytes": nothing if size is None else size,
            "graph_node_id": _nullable(c["graphNodeId"]),
        },
        OPERATIONS,
    )


def _domains(report: SqliteFile, names: dict[int, str]) -> list[tuple[int, int]]:
    """Return (process id, domain id) of every domain with our name; domain ids are numbered per process."""
    c = report.integers("NVTX_EVENTS", ("globalTid", "domainId", "textId"), f"eventType = {_DOMAIN_CREATE}")
    texts = _texts(report, f"eventType = {_DOMAIN_CREATE}")
    return [
        (int(pid_of(tid)), int(domain))
        for tid, domain, text_id, text in zip(c["globalTid"], c["domainId"], c["textId"], texts, strict=True)
        if (names.get(int(text_id)) if text is None else text) == DOMAIN
    ]


def _texts(report: SqliteFile, where: str, column: str = "text") -> list[str | None]:
    if not report.has("NVTX_EVENTS", column):
        return [None] * len(report.integers("NVTX_EVENTS", ("start",), where)["start"])
    return [value for (value,) in report.rows(f"SELECT {column} FROM NVTX_EVENTS WHERE {where}")]  # noqa: S608


def _ours(domains: list[tuple[int, int]], kinds: tuple[int, ...]) -> str:
    places = " OR ".join(f"(((globalTid >> 24) & 16777215) = {pid} AND domainId = {d})" for pid, d in domains)
    return f"eventType IN ({', '.join(map(str, kinds))}) AND ({places or '0'})"


def _stage_names(report: SqliteFile, names: dict[int, str], domains: list[tuple[int, int]]) -> dict[int, str]:
    """Return category -> stage. Where a capture began after the categories were named, their order is what they are."""
    stages = {code + 1: str(stage) for code, stage in enumerate(Stage)}
    where = _ours(domains, (_CATEGORY,))
    c = report.integers("NVTX_EVENTS", ("category", "textId"), where)
    for category, text_id, text in zip(c["category"], c["textId"], _texts(report, where), strict=True):
        name = names.get(int(text_id), "") if text is None else text
        stages[int(category)] = name if name in set(Stage) else str(Stage.UNKNOWN)
    return stages


def _ranges(report: SqliteFile, names: dict[int, str], last: int) -> pa.Table:
    domains = _domains(report, names)
    where = _ours(domains, (_PUSH_POP, _NVTXT_PUSH_POP))
    c = report.integers("NVTX_EVENTS", ("globalTid", "start", "end", "textId", "category"), where)
    stages = _stage_names(report, names, domains)
    blobs = _texts(report, where, "binaryData")
    return conform(
        {
            "pid": pid_of(c["globalTid"]),
            "tid": tid_of(c["globalTid"]),
            "start_ns": c["start"],
            "end_ns": np.where(c["end"] == NULL, np.maximum(c["start"], last), c["end"]),
            "path": words(c["textId"], names),
            "stage": words(c["category"], {int(k): stages.get(int(k), "unknown") for k in np.unique(c["category"])}),
            "payload": pa.array(decode_blobs(blobs, _payload_schemas(report)), pa.binary()),
            "json": pa.array([decode_json(text) for text in _texts(report, where, "jsonText")], pa.binary()),
        },
        NVTX,
    )


def _payload_schemas(report: SqliteFile) -> dict[tuple[int, int], tuple[int, list[Entry]]]:
    c = report.integers("NVTX_PAYLOAD_SCHEMAS", ("domainId", "schemaId", "payloadSize"))
    schemas: dict[tuple[int, int], tuple[int, list[Entry]]] = {
        (int(d), int(s)): (0 if size == NULL else int(size), [])
        for d, s, size in zip(c["domainId"], c["schemaId"], c["payloadSize"], strict=True)
    }
    columns = ("domainId", "schemaId", "idx", "type", "offset")
    if not report.has("NVTX_PAYLOAD_SCHEMA_ENTRIES", *columns, "name"):
        return schemas
    query = f"SELECT {', '.join(columns)}, name FROM NVTX_PAYLOAD_SCHEMA_ENTRIES ORDER BY domainId, schemaId, idx"  # noqa: S608
    # A schema's rows repeat once per process, so entries are kept by index.
    entries: dict[tuple[int, int], dict[int, Entry]] = {}
    for domain, schema, index, kind, offset, name in report.rows(query):
        entries.setdefault((domain, schema), {})[index] = Entry(str(name or ""), kind or 0, offset or 0)
    for key, found in entries.items():
        if key in schemas:
            schemas[key][1].extend(found.values())
    return schemas


def _announcements(report: SqliteFile, names: dict[int, str]) -> pa.Table:
    where = f"eventType = {_MARK} AND text GLOB '{ANNOUNCE_PREFIX}*'"
    c = report.integers("NVTX_EVENTS", ("globalTid", "start"), where)
    texts = _texts(report, where)
    # Registered strings arrive by id.
    known = [key for key, text in names.items() if text.startswith(ANNOUNCE_PREFIX)]
    where = f"eventType = {_MARK} AND textId IN ({', '.join(map(str, known))})"
    by_id = report.integers("NVTX_EVENTS", ("globalTid", "start", "textId"), where)
    tids = np.concatenate([c["globalTid"], by_id["globalTid"]])
    return conform(
        {
            "pid": pid_of(tids),
            "tid": tid_of(tids),
            "time_ns": np.concatenate([c["start"], by_id["start"]]),
            "text": pa.array([*texts, *(names[int(i)] for i in by_id["textId"])], pa.string()),
        },
        ANNOUNCEMENTS,
    )


def _graph_nodes(report: SqliteFile) -> pa.Table:
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
