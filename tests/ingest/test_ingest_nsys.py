"""nsys exports into our tables: ids unpacked, versions tolerated, what is missing or strange said or left."""

import random
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.ingest.source import TEXT_LIMIT
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from tests.builders.nsys import NsysFile, global_id
from tests.builders.tables import announcement_v1 as announcement
from tests.builders.tables import payload_v1 as payload


def basic(pid: int = 1) -> NsysFile:
    """Return an export with our domain and one kernel."""
    file = NsysFile()
    file.device(pids=[pid])
    file.domain(pid)
    file.schema()
    file.launch("gemm", 110, 120, 150, pid=pid, tid=pid)
    return file


def traced(file: NsysFile, tmp_path: Path) -> Trace:
    """Write and read an export."""
    return read(file.write(tmp_path / "report.sqlite"))


def alter(path: Path, script: str) -> Path:
    """Change a written export."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_tables_have_their_schemas(tmp_path: Path) -> None:
    file = basic()
    file.push_pop("decoder", 100, 200, values=payload(tensor_flops=2**60))
    for at in (110, 120):
        file.launch("gemm", at, at + 1, at + 5)
    trace = traced(file, tmp_path)
    assert pa.types.is_int32(trace.launches.schema.field("correlation_id").type)
    for name in ("nvtx", "announcements", "launches", "operations", "graph_nodes"):
        table, schema = getattr(trace, name), getattr(tables, name.upper())
        assert table.cast(schema).schema.equals(schema), name  # numbers may take fewer bytes
        for item in schema:
            assert item.nullable or not table[item.name].null_count, f"{name}.{item.name}"


def test_ids_are_unpacked_and_names_looked_up(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(0xABCDEF)
    file.push_pop("decoder.1", 100, 200, pid=0xABCDEF, tid=0x123456, stage="prefill")
    file.launch("gemm", 110, 120, 150, pid=0xABCDEF, tid=0x123456)
    trace = traced(file, tmp_path)
    (row,) = trace.nvtx.to_pylist()
    assert row == {
        "pid": 0xABCDEF, "tid": 0x123456, "start_ns": 100, "end_ns": 200, "path": "decoder.1", "stage": "prefill",
        "payload": None, "json": None,
    }  # fmt: skip
    (call,) = trace.launches.to_pylist()
    assert call == {
        "pid": 0xABCDEF, "tid": 0x123456, "start_ns": 110, "end_ns": 112, "correlation_id": 1,
        "name": "cudaLaunchKernel_v7000",
    }  # fmt: skip
    (kernel,) = trace.operations.to_pylist()
    assert kernel == {
        "pid": 0xABCDEF, "device": 0, "stream": 7, "start_ns": 120, "end_ns": 150, "correlation_id": 1,
        "operation": "kernel", "name": "gemm", "blocks": 132, "threads": 128, "bytes": 0, "graph_node_id": None,
    }  # fmt: skip


def test_copies_sets_and_whole_graphs_are_operations(tmp_path: Path) -> None:
    file = basic()
    common = {"deviceId": 0, "contextId": 1, "streamId": 3, "globalPid": global_id(1)}
    file.add("CUPTI_ACTIVITY_KIND_MEMCPY", start=1, end=2, correlationId=5, bytes=64, copyKind=1, **common)
    file.add("CUPTI_ACTIVITY_KIND_MEMCPY", start=2, end=3, correlationId=6, bytes=32, copyKind=77, **common)
    file.add("CUPTI_ACTIVITY_KIND_MEMSET", start=3, end=4, correlationId=None, bytes=16, value=0, **common)
    operations = traced(file, tmp_path).operations.sort_by("start_ns")
    assert operations["operation"].to_pylist() == ["memcpy", "memcpy", "memset", "kernel"]
    assert operations["name"].to_pylist() == ["memcpy host to device", "memcpy kind 77", "memset", "gemm"]
    assert operations["bytes"].to_pylist() == [64, 32, 16, 0]
    assert operations["blocks"].to_pylist() == [0, 0, 0, 132]
    assert operations["correlation_id"].to_pylist() == [5, 6, None, 1]


def test_the_host_call_stack_rows_of_a_call_are_no_calls(tmp_path: Path) -> None:
    file = basic()
    file.add(
        "CUPTI_ACTIVITY_KIND_RUNTIME", start=90, end=95, eventClass=67, globalTid=global_id(1, 1), correlationId=1,
        nameId=file.text("frame"), returnValue=0,
    )  # fmt: skip
    assert traced(file, tmp_path).launches["name"].to_pylist() == ["cudaLaunchKernel_v7000"]


def test_a_range_that_was_never_closed_lasts_to_the_end_of_the_trace(tmp_path: Path) -> None:
    file = basic()
    file.push_pop("decoder", 100, None)
    file.push_pop("late", 900, None)
    trace = traced(file, tmp_path)
    ends = dict(zip(trace.nvtx["path"].to_pylist(), trace.nvtx["end_ns"].to_pylist(), strict=True))
    assert ends == {"decoder": 150, "late": 900}  # the kernel ends at 150; what began later ends where it began


def test_stages_without_named_categories_follow_their_order(tmp_path: Path) -> None:
    # A capture range that began after the categories were named does not hold their names.
    file = NsysFile()
    file.domain(1, categories=False)
    file.launch("gemm", 110, 120, 150)
    for stage in ("vision", "prefill", "decode", "unknown"):
        file.push_pop("decoder", 100, 200, stage=stage)
    file.add(
        "NVTX_EVENTS", start=100, end=200, eventType=59, globalTid=global_id(1, 1), textId=file.text("decoder"),
        domainId=1, category=None,
    )  # fmt: skip
    file.add(
        "NVTX_EVENTS", start=100, end=200, eventType=59, globalTid=global_id(1, 1), textId=file.text("decoder"),
        domainId=1, category=99,
    )  # fmt: skip
    found = traced(file, tmp_path).nvtx["stage"].to_pylist()
    assert found == ["vision", "prefill", "decode", "unknown", "unknown", "unknown"]


def test_named_categories_decide_and_a_strange_name_is_unknown(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(1, categories=False)
    file.launch("gemm", 110, 120, 150)
    for category, name in ((1, "decode"), (2, "somebody's"), (3, "vision")):
        file.add(
            "NVTX_EVENTS", start=0, eventType=33, globalTid=global_id(1, 1), category=category, text=name, domainId=1
        )
    for stage in ("vision", "prefill", "decode"):  # written with categories 1, 2, 3
        file.push_pop("decoder", 100, 200, stage=stage)
    assert traced(file, tmp_path).nvtx["stage"].to_pylist() == ["decode", "unknown", "vision"]


def test_only_push_pop_ranges_of_our_domain_are_ours(tmp_path: Path) -> None:
    file = basic()
    file.domain(1, "somebody", 2, categories=False)
    file.domain(2, "dsocr", 2)
    file.push_pop("ours", 100, 200)
    file.push_pop("another domain", 100, 200, domain=2)
    file.push_pop("the default domain", 100, 200, domain=0)
    file.push_pop("of a process without the domain", 100, 200, pid=3)
    file.push_pop("ours too", 100, 200, pid=2, domain=2)  # domain ids are numbered per process
    file.push_pop("not in that process", 100, 200, pid=2, domain=1)
    file.add(
        "NVTX_EVENTS",
        start=1,
        end=9,
        eventType=60,
        globalTid=global_id(1, 1),
        textId=file.text("start-end"),
        domainId=1,
    )
    assert traced(file, tmp_path).nvtx["path"].to_pylist() == ["ours", "ours too"]


def test_both_forms_of_a_payload_are_the_same_record(tmp_path: Path) -> None:
    file = basic()
    values = payload(event_id=7, stage=2, tensor_flops=2**60, weight_bytes=3, layer=-1)
    file.push_pop("decoder", 100, 200, values=values, json=True)
    file.push_pop("decoder", 300, 400, values=values, binary=False, json=True)
    file.push_pop("decoder", 500, 600, values=values)
    nvtx = traced(file, tmp_path).nvtx
    said = dict(zip(READ_FIELDS, WIRE_V1.read(np.array([values]))[0].tolist(), strict=True))
    assert nvtx["payload"].to_pylist() == [said, None, said]
    assert nvtx["json"].to_pylist() == [said, said, None]


def test_payload_schemas_that_repeat_per_process_are_one(tmp_path: Path) -> None:
    file = basic()
    file.schema()
    file.push_pop("decoder", 100, 200, values=payload(event_id=7, stage=2, tensor_flops=9))
    assert traced(file, tmp_path).nvtx["payload"].null_count == 0


def test_announcements_are_read_from_plain_and_registered_marks(tmp_path: Path) -> None:
    file = basic()
    text = announcement("decoder", payload(stage=2, event_id=4))
    file.mark(text, 90)
    file.mark("dsocr/9 another version", 91)  # which joining leaves alone
    file.mark("somebody's mark", 92)
    file.add("NVTX_EVENTS", start=95, eventType=34, globalTid=global_id(1, 8), textId=file.text(text), domainId=0)
    found = traced(file, tmp_path).announcements.to_pylist()
    assert found == [
        {"pid": 1, "tid": 1, "time_ns": 90, "text": text},
        {"pid": 1, "tid": 1, "time_ns": 91, "text": "dsocr/9 another version"},
        {"pid": 1, "tid": 8, "time_ns": 95, "text": text},
    ]


def test_ids_of_one_text_are_one_word_and_an_id_without_a_text_is_a_number(tmp_path: Path) -> None:
    file = basic()
    file.kernel("gemm", 200, 210, correlation=None)
    path = alter(
        file.write(tmp_path / "report.sqlite"),
        "INSERT INTO StringIds VALUES (900, 'gemm');"
        "UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET demangledName = 900 WHERE start = 200;"
        "UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET nameId = 901;",
    )
    trace = read(path)
    names = trace.operations["name"].combine_chunks()
    assert names.to_pylist() == ["gemm", "gemm"]
    assert sorted(set(names.dictionary.to_pylist())) == sorted(names.dictionary.to_pylist())
    assert trace.launches["name"].to_pylist() == ["#901"]


def test_names_that_are_not_utf8_or_endless_are_read(tmp_path: Path) -> None:
    path = basic().write(tmp_path / "report.sqlite")
    alter(
        path,
        "UPDATE StringIds SET value = CAST(x'67ff' AS TEXT) WHERE value = 'gemm';"
        "UPDATE StringIds SET value = printf('%.*c', 99999, 'x') WHERE value LIKE 'cuda%';",
    )
    trace = read(path)
    assert trace.operations["name"].to_pylist() == ["g\ufffd"]
    (name,) = trace.launches["name"].to_pylist()
    assert name == "x" * (TEXT_LIMIT - 1) + "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize("table", ["CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"])
def test_graph_nodes_are_found_under_either_name(tmp_path: Path, table: str) -> None:
    path = alter(
        basic().write(tmp_path / "report.sqlite"),
        f"CREATE TABLE {table} (start INTEGER, globalTid INTEGER, graphNodeId INTEGER, originalGraphNodeId INTEGER);"
        f"INSERT INTO {table} VALUES (5, {global_id(1, 2)}, 10, NULL), (6, {global_id(1, 2)}, 11, 10);",
    )
    nodes = read(path).graph_nodes.to_pylist()
    assert [node["graph_node_id"] for node in nodes] == [10, 11]
    assert [node["original_node_id"] for node in nodes] == [None, 10]
    assert {(node["pid"], node["tid"]) for node in nodes} == {(1, 2)}


def test_graphs_under_the_older_name_are_no_nodes(tmp_path: Path) -> None:
    path = alter(
        basic().write(tmp_path / "report.sqlite"),
        "CREATE TABLE CUDA_GRAPH_EVENTS (start INTEGER, globalTid INTEGER, graphId INTEGER);"
        "INSERT INTO CUDA_GRAPH_EVENTS VALUES (5, 1, 1);",
    )
    assert not len(read(path).graph_nodes)


def test_row_order_and_the_sign_of_times_mean_nothing(tmp_path: Path) -> None:
    file = basic()
    file.push_pop("decoder", -100, 200, values=payload(stage=2, tensor_flops=4))
    file.push_pop("decoder", 300, 400, tid=9)
    file.launch("late", -90, -80, -70)
    before = traced(file, tmp_path)
    for rows in file.rows.values():
        random.Random(5).shuffle(rows)
    after = traced(file, tmp_path)
    for name in ("nvtx", "launches", "operations"):
        assert _sorted(getattr(before, name)) == _sorted(getattr(after, name))
    assert min(before.operations["start_ns"].to_pylist()) == -80


def _sorted(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


def test_the_source_says_tool_and_versions(tmp_path: Path) -> None:
    file = basic()
    file.rows["META_DATA_EXPORT"] = [
        {"name": "EXPORT_SCHEMA_VERSION", "value": "3.20.3"},
        {"name": "EXPORT_PRODUCT_VERSION", "value": "2025.5"},
    ]
    assert traced(file, tmp_path).source == {"tool": "nsys 2025.5", "nsys_schema": "3.20.3"}


def test_an_export_older_than_versions_is_read(tmp_path: Path) -> None:
    file = basic()
    file.push_pop("decoder", 100, 200)
    path = alter(
        file.write(tmp_path / "report.sqlite"),
        "DROP TABLE META_DATA_EXPORT; ALTER TABLE CUPTI_ACTIVITY_KIND_RUNTIME DROP COLUMN eventClass;"
        "ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL DROP COLUMN graphNodeId;"
        "ALTER TABLE NVTX_EVENTS DROP COLUMN binaryData; ALTER TABLE NVTX_EVENTS DROP COLUMN jsonText;",
    )
    trace = read(path)
    assert trace.source == {"tool": "nsys of unknown version", "nsys_schema": "unknown"}
    assert trace.operations["graph_node_id"].to_pylist() == [None]
    assert (len(trace.launches), len(trace.nvtx)) == (1, 1)


def test_a_device_is_found_by_its_process_then_its_ordinal_then_not_at_all(tmp_path: Path) -> None:
    file = NsysFile()
    file.device("NVIDIA H200", ordinal=0, identity=5)
    file.device("NVIDIA L40S", ordinal=1, identity=3)
    file.add("TARGET_INFO_CUDA_DEVICE", gpuId=3, cudaId=0, pid=2)  # process 2 sees only the second
    for pid, device in ((1, 0), (1, 1), (2, 0), (1, 7)):
        file.kernel("gemm", 1, 2, correlation=None, pid=pid, device=device)
    devices = traced(file, tmp_path).devices
    assert {key: device.name for key, device in devices.items()} == {
        (1, 0): "NVIDIA H200",
        (1, 1): "NVIDIA L40S",
        (2, 0): "NVIDIA L40S",
        (1, 7): "",
    }
    assert {key: device.ordinal for key, device in devices.items()} == {key: key[1] for key in devices}
    h200 = devices[1, 0]
    assert (h200.sm_count, h200.clock_hz, h200.l2_bytes, h200.uuid) == (132, 1_980_000_000, 62_914_560, "uuid-5")


def test_a_database_that_is_not_nsys_is_refused(tmp_path: Path) -> None:
    path = alter(tmp_path / "other.sqlite", "CREATE TABLE StringIds (id, value);")
    with pytest.raises(Refused, match="not an Nsight Systems export"):
        read(path)


def test_a_report_without_cuda_work_is_refused_with_the_flags(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(1)
    file.push_pop("decoder", 100, 200)
    with pytest.raises(Refused, match=r"no CUDA work.*nsys profile -t cuda,nvtx"):
        traced(file, tmp_path)


def test_a_report_without_nvtx_still_reads(tmp_path: Path) -> None:
    file = NsysFile()
    file.launch("gemm", 110, 120, 150)
    trace = traced(file, tmp_path)
    assert (len(trace.nvtx), len(trace.announcements), len(trace.operations)) == (0, 0, 1)
