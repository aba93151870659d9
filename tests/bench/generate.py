"""Makes nsys-shaped SQLite reports of any size: decode steps of a small decoder, with payloads and announcements.

One step is laid out once and then repeated over steps, threads and devices, all in numpy, so that ten million kernels
take minutes and not hours. Run as ``python -m tests.bench.generate OUT --kernels N``.
"""

import argparse
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from dsocr_nvtx.schema.payload import DOMAIN
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import LayerKind, Level, Stage, code_of
from tests.builders.tables import announcement_v1 as announcement

Ints = npt.NDArray[np.int64]

TABLES = (Path(__file__).parent / "nsys_tables.sql").read_text(encoding="utf-8")
LAYERS = 12
OPS = ("norm", "attention", "norm", "gate", "experts", "shared_experts", "mlp")
RANGES_PER_STEP = 1 + LAYERS * (1 + len(OPS))
LEAVES_PER_STEP = LAYERS * len(OPS)
KERNEL_NAMES = (
    "void at::native::elementwise_kernel<128, 4, gpu_kernel_impl<direct_copy>>(int, T)",
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
    "void at::native::reduce_kernel<512, 1, ReduceOp<float, MeanOps>>(T)",
    "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 64>>(Flash_fwd_params)",
    "void at::native::vectorized_elementwise_kernel<8, silu_kernel>(int, T)",
)
CALL_NAMES = ("cudaLaunchKernel_v7000", "cudaStreamIsCapturing_v10000", "cudaMemcpyAsync_v3020", "cuLaunchKernelEx")
DOMAIN_ID, SCHEMA_ID, SCALAR_ID = 2, (1 << 32) + 1, 1 << 32
BATCH = 100_000


@frozen(kw_only=True)
class Size:
    """How much a report holds. Calls beyond one per kernel launch nothing; ranges decide the number of steps."""

    kernels: int = 1_000_000
    calls: int = 1_000_000
    ranges: int = 200_000
    threads: int = 1
    devices: int = 1
    payloads: bool = True
    announcements: bool = True
    pid: int = field(default=4242)


def global_id(pid: int, tid: int) -> int:
    """Return nsys's packed id."""
    return (1 << 48) | (pid << 24) | tid


def generate(path: Path, size: Size) -> Path:
    """Write a report; return its path."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(TABLES)
    strings = _Strings()
    _targets(connection, size)
    _names(connection, size, strings)
    for thread in range(size.threads):
        share = [_share(total, size.threads, thread) for total in (size.ranges, size.kernels, size.calls)]
        _thread(connection, size, strings, thread, *share)
    connection.executemany("INSERT INTO StringIds VALUES (?, ?)", strings.rows())
    connection.commit()
    connection.close()
    return path


class _Strings:
    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def of(self, text: str) -> int:
        return self._ids.setdefault(text, len(self._ids) + 1)

    def rows(self) -> Iterable[tuple[int, str]]:
        return ((number, text) for text, number in self._ids.items())


def _share(total: int, parts: int, part: int) -> int:
    return total * (part + 1) // parts - total * part // parts


def _insert(connection: sqlite3.Connection, table: str, columns: dict[str, object], count: int) -> None:
    """Insert rows in batches; a value that is no column stands in every row."""
    marks = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for at in range(0, count, BATCH):
        rows = min(BATCH, count - at)
        parts = [_part(values, at, rows) for values in columns.values()]
        connection.executemany(marks, zip(*parts, strict=True))


def _part(values: object, at: int, rows: int) -> Sequence[object]:
    if isinstance(values, np.ndarray):
        found: list[object] = values[at : at + rows].tolist()
        return found
    if isinstance(values, list):
        return values[at : at + rows]
    return [values] * rows


def _targets(connection: sqlite3.Connection, size: Size) -> None:
    _insert(connection, "META_DATA_EXPORT", {"name": ["EXPORT_SCHEMA_VERSION"], "value": ["3.20.3"]}, 1)
    for device in range(size.devices):
        gpu = {
            "vmId": 0, "id": device, "name": "NVIDIA H200", "cuDevice": device, "smCount": 132,
            "clockRate": 1_980_000_000, "l2CacheSize": 62_914_560, "uuid": f"GPU-{device}",
        }  # fmt: skip
        _insert(connection, "TARGET_INFO_GPU", {name: [value] for name, value in gpu.items()}, 1)
        _insert(connection, "TARGET_INFO_CUDA_DEVICE", {"gpuId": device, "cudaId": device, "pid": size.pid}, 1)


def _names(connection: sqlite3.Connection, size: Size, strings: _Strings) -> None:
    """Create the domain, name its categories, register the payload schema as Python's nvtx does."""
    tid = global_id(size.pid, size.pid)
    events: dict[str, object] = {"start": 0, "globalTid": tid, "domainId": DOMAIN_ID}
    _insert(connection, "NVTX_EVENTS", {**events, "eventType": 75, "textId": strings.of(DOMAIN)}, 1)
    stages = [str(stage) for stage in Stage]
    named = {"eventType": 33, "text": stages, "category": [at + 1 for at in range(len(stages))]}
    _insert(connection, "NVTX_EVENTS", {**events, **named}, len(stages))
    sizes = {"schemaId": [SCALAR_ID, SCHEMA_ID], "payloadSize": [8, 8 * len(PAYLOAD_FIELDS)]}
    _insert(connection, "NVTX_PAYLOAD_SCHEMAS", {"domainId": DOMAIN_ID, "type": 1, **sizes}, 2)
    entries = "NVTX_PAYLOAD_SCHEMA_ENTRIES"
    _insert(
        connection, entries, {"domainId": DOMAIN_ID, "schemaId": SCALAR_ID, "idx": 0, "type": 17, "name": "int64"}, 1
    )
    fields: dict[str, object] = {
        "domainId": DOMAIN_ID, "schemaId": SCHEMA_ID, "idx": list(range(len(PAYLOAD_FIELDS))), "type": SCALAR_ID,
        "name": list(PAYLOAD_FIELDS), "offset": [8 * at or None for at in range(len(PAYLOAD_FIELDS))],
    }  # fmt: skip
    _insert(connection, entries, fields, len(PAYLOAD_FIELDS))


@frozen(eq=False)
class _Step:
    """One step's ranges in order of their push: begin and end in ticks, path, payload; and the leaves' places."""

    begin: Ints
    end: Ints
    paths: list[str]
    values: Ints
    leaf: Ints


def _step() -> _Step:
    begin, end, paths, values, leaf = (
        [0],
        [2 * RANGES_PER_STEP - 1],
        ["decode"],
        [_values(Level.STAGE, None, "rest")],
        [],
    )
    tick = 1
    for layer in range(LAYERS):
        begin.append(tick)
        end.append(tick + 2 * len(OPS) + 1)
        paths.append(f"decoder.{layer}")
        values.append(_values(Level.LAYER, layer, "rest"))
        for at, op in enumerate(OPS):
            leaf.append(len(begin))
            begin.append(tick + 1 + 2 * at)
            end.append(tick + 2 + 2 * at)
            paths.append(f"decoder.{layer}.{at}.{op}")
            values.append(_values(Level.OP, layer, op))
        tick += 2 * len(OPS) + 2
    numbers = [np.array(column, np.int64) for column in (begin, end, values, leaf)]
    return _Step(begin=numbers[0], end=numbers[1], paths=paths, values=numbers[2], leaf=numbers[3])


def _values(level: Level, layer: int | None, kind: str) -> list[int]:
    cost = {Level.STAGE: 0, Level.LAYER: len(OPS) + 1, Level.OP: 1}[level]
    known = {
        "stage": code_of(Stage.DECODE), "layer": -1 if layer is None else layer, "kind": code_of(LayerKind(kind)),
        "level": code_of(level), "batch": 1, "tokens": 1, "tensor_flops": 41_287_680 * cost,
        "tensor_flops_unmasked": 41_287_680 * cost, "vector_flops": 40_960 * cost, "weight_bytes": 41_287_680 * cost,
        "activation_bytes": 5_192 * cost, "op_bytes": 124_087_416 * cost, "own_activation_bytes": 5_192 * (cost > 0),
    }  # fmt: skip
    return [known.get(name, 0) for name in PAYLOAD_FIELDS]


TICK = 20_000


def _thread(
    connection: sqlite3.Connection, size: Size, strings: _Strings, thread: int, ranges: int, kernels: int, calls: int
) -> None:
    layout = _step()
    steps = max(1, -(-ranges // RANGES_PER_STEP))
    tid = global_id(size.pid, size.pid + thread)
    length = TICK * (2 * RANGES_PER_STEP + 2)
    starts = 1_000_000 + length * np.arange(steps, dtype=np.int64)
    begin = (starts[:, None] + TICK * layout.begin).reshape(-1)[:ranges]
    end = (starts[:, None] + TICK * layout.end).reshape(-1)[:ranges]
    text = np.tile(np.array([strings.of(path) for path in layout.paths]), steps)[:ranges]
    values = np.tile(layout.values, (steps, 1))[:ranges]
    values[:, FIELD_INDEX["event_id"]] = thread * (1 << 32) + np.arange(ranges)
    values[:, FIELD_INDEX["step"]] = np.arange(ranges) // RANGES_PER_STEP
    attention = np.array(["attention" in path for path in layout.paths])
    grown = np.isin(layout.values[:, FIELD_INDEX["level"]], (code_of(Level.LAYER),)) | attention
    mine = np.tile(grown, steps)[:ranges]
    for name in ("kv_len", "kv_read_bytes"):
        values[mine, FIELD_INDEX[name]] = 900 + values[mine, FIELD_INDEX["step"]]
    columns: dict[str, object] = {
        "start": begin, "end": end, "eventType": 59, "category": code_of(Stage.DECODE) + 1, "color": 255,
        "globalTid": tid, "textId": text, "domainId": DOMAIN_ID,
    }  # fmt: skip
    if size.payloads:
        columns["binaryData"] = _blobs(values)
    _insert(connection, "NVTX_EVENTS", columns, ranges)
    if size.announcements:
        again = np.arange(ranges) // RANGES_PER_STEP % 32 == 0
        told = np.flatnonzero(mine | again | (np.arange(ranges) % RANGES_PER_STEP == 0))
        texts = [announcement(layout.paths[at % RANGES_PER_STEP], values[at].tolist()) for at in told.tolist()]
        marks: dict[str, object] = {
            "start": begin[told] - 1_000,
            "eventType": 34,
            "text": texts,
            "globalTid": tid,
            "domainId": 0,
        }
        _insert(connection, "NVTX_EVENTS", marks, len(told))
    _work(connection, size, strings, thread, begin, kernels, calls, layout)


def _blobs(values: Ints) -> list[bytes]:
    head = np.frombuffer(struct.pack("<QQQQ", 1, SCHEMA_ID, 8 * len(PAYLOAD_FIELDS), 32), "<i8")
    whole = np.concatenate([np.broadcast_to(head, (len(values), 4)), values], axis=1).tobytes()
    width = 8 * (4 + len(PAYLOAD_FIELDS))
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def _work(
    connection: sqlite3.Connection, size: Size, strings: _Strings, thread: int, begin: Ints, kernels: int, calls: int,
    layout: _Step,
) -> None:  # fmt: skip
    """Spread calls over the leaves evenly; the first ones of each leaf launch kernels."""
    is_leaf = np.isin(np.arange(len(begin)) % RANGES_PER_STEP, layout.leaf)
    leaves = begin[is_leaf]
    order = np.arange(calls, dtype=np.int64)
    leaf = order * len(leaves) // max(calls, 1)
    within = order - np.searchsorted(leaf, leaf, side="left")
    most = int(within.max(initial=0)) + 2
    called = leaves[leaf] + TICK * (within + 1) // most // 1
    took = TICK // (2 * most)
    kind = np.where(order < kernels, 0, 1)
    launching = order * kernels // max(calls, 1) != (order + 1) * kernels // max(calls, 1)
    kind = np.where(launching, 0, np.where(order % 7 == 0, 2, 1))
    names = np.array([strings.of(name) for name in CALL_NAMES])
    correlation = thread * 100_000_000 + 1 + order
    tid = global_id(size.pid, size.pid + thread)
    runtime: dict[str, object] = {
        "start": called, "end": called + took, "eventClass": 0, "globalTid": tid, "correlationId": correlation,
        "nameId": names[kind], "returnValue": 0,
    }  # fmt: skip
    _insert(connection, "CUPTI_ACTIVITY_KIND_RUNTIME", runtime, calls)
    which = np.flatnonzero(launching)
    start = np.maximum.accumulate(called[which] + 3 * took)
    kernel_names = np.array([strings.of(name) for name in KERNEL_NAMES])
    number = np.arange(len(which))
    kernel: dict[str, object] = {
        "start": start, "end": start + took // 2 + number % 97, "deviceId": thread % size.devices, "contextId": 1,
        "greenContextId": 0, "streamId": 7 + number % 2, "correlationId": correlation[which],
        "globalPid": global_id(size.pid, 0), "demangledName": kernel_names[number % len(KERNEL_NAMES)],
        "shortName": kernel_names[number % len(KERNEL_NAMES)], "mangledName": 1, "launchType": 1, "cacheConfig": 1,
        "registersPerThread": 44, "gridX": 1 + number % 264, "gridY": 1, "gridZ": 1, "blockX": 128, "blockY": 1,
        "blockZ": 1, "staticSharedMemory": 0, "dynamicSharedMemory": 0, "localMemoryPerThread": 0,
        "localMemoryTotal": 155_713_536, "gridId": number, "sharedMemoryExecuted": 32_768, "sharedMemoryLimitConfig": 0,
    }  # fmt: skip
    _insert(connection, "CUPTI_ACTIVITY_KIND_KERNEL", kernel, len(which))


def main() -> None:
    """Generate one report from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("kernels", "calls", "ranges", "threads", "devices"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size(), name))
    given = vars(parser.parse_args())
    generate(given.pop("out"), Size(**given))


if __name__ == "__main__":
    main()
