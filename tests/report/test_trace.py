"""The trace read back: nothing of the tables is lost, and the counters' integrals are the tables' totals."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.report.scene import lay_out
from dsocr_nvtx.report.trace import trace_text
from dsocr_nvtx.roofline.least import MOVED
from dsocr_nvtx.roofline.own import own_costs
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.roofline.rates import rates
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.tables import MEASURED
from tests.builders.nsys import NsysFile
from tests.builders.tables import filled, trace
from tests.builders.tables import payload_v1 as payload
from tests.cli.commands import hooked
from tests.join.test_engine_replays import graph_file
from tests.join.test_join_engine import traces
from tests.report.viewer import Slice, Viewer, read_text

ROOFS = datasheet("NVIDIA H200")
BESIDE = ("replayed", "elsewhere")
"""Origins of rows that are drawn beside the GPU's streams, not on the thread."""


@frozen
class Tables:
    """A join's two tables, of which a test has changed one."""

    kernels: pa.Table
    ranges: pa.Table


def traced(joined: Joined | Tables) -> Viewer:
    """Write a join as a trace and read it back."""
    rows = roofline(joined.kernels, joined.ranges, ROOFS, {"device": "NVIDIA H200"}).rows
    found = rates(joined.kernels, joined.ranges, rows, "join")
    api = joined.api_calls if isinstance(joined, Joined) else None
    scene = lay_out(joined.kernels, joined.ranges, found, "NVIDIA H200", api)
    viewer = read_text(b"".join(trace_text(joined.kernels, joined.ranges, rows, found, scene)).decode())
    check(viewer, joined, rows)
    return viewer


def file_joined(file: NsysFile, folder: Path) -> Joined:
    """Join a small export."""
    return join(read(file.write(folder / "report.sqlite")), "report")


def check(viewer: Viewer, joined: Joined | Tables, rows: pa.Table) -> None:
    """Add everything up again and hold it against the tables."""
    kernels, ranges = joined.kernels.to_pylist(), joined.ranges.to_pylist()
    calls = {(r["pid"], r["event_id"]): r for r in ranges}
    processes = {name: pid for pid, name in viewer.processes.items()}
    assert len(processes) == len(viewer.processes)
    for pid in {r["pid"] for r in ranges}:
        got = Counter(_place(s, viewer) for s in viewer.on(processes[f"process {pid}"]) if "event_id" in s.args)
        mine = [r for r in ranges if r["pid"] == pid and r["origin"] not in BESIDE]
        assert got == Counter((f"thread {r['tid']}", r["path"], r["start_ns"], r["end_ns"]) for r in mine)
    for pid, device in {(k["pid"], k["device"]) for k in kernels}:
        gpu = processes[f"GPU {device} of process {pid}: NVIDIA H200"]
        mine = [k for k in kernels if (k["pid"], k["device"]) == (pid, device)]
        drawn = [s for s in viewer.on(gpu) if "bucket" in s.args]
        got = Counter(_place(s, viewer) for s in drawn)
        assert got == Counter(
            (f"stream {k['stream']}", short_name(str(k["name"])), k["start_ns"], k["end_ns"]) for k in mine
        )
        assert all(kernels[s.args["row"]]["name"] == s.args["name"] for s in drawn)
    check_flows(viewer, kernels, ranges, calls)
    check_lanes(viewer, joined)
    check_counters(viewer, joined, rows, processes)


def check_lanes(viewer: Viewer, joined: Joined | Tables) -> None:
    """Steps and layers span their operations on each GPU; CUDA calls are all there, with their times."""
    spans: dict[tuple[object, ...], list[int]] = {}
    for k in joined.kernels.to_pylist():
        if k["stage"] is not None:
            gpu = f"GPU {k['device']} of process {k['pid']}: NVIDIA H200"
            spans.setdefault((gpu, f"{k['stage']} step {k['step']}"), []).extend((k["start_ns"], k["end_ns"]))
    got = Counter(
        (viewer.processes[s.pid], s.name, s.start, s.end) for s in viewer.slices if lane(s, viewer) == "steps"
    )
    assert got == Counter((*key, min(times), max(times)) for key, times in spans.items())
    if isinstance(joined, Joined):
        shown = {r["pid"] for r in joined.ranges.to_pylist()}
        calls = [c for c in joined.api_calls.to_pylist() if c["pid"] in shown]
        drawn = [s for s in viewer.slices if lane(s, viewer).startswith("CUDA calls of thread ")]
        assert Counter((lane(s, viewer), s.name, s.start, s.end) for s in drawn) == Counter(
            (f"CUDA calls of thread {c['tid']}", c["call"], c["start_ns"], c["end_ns"]) for c in calls
        )


def lane(one: Slice, viewer: Viewer) -> str:
    return viewer.threads[one.pid, one.tid].split(" (")[0]


def _place(one: Slice, viewer: Viewer) -> tuple[str, str, int, int]:
    return lane(one, viewer), one.name, one.start, one.end


def check_flows(
    viewer: Viewer,
    kernels: list[dict[str, object]],
    ranges: list[dict[str, object]],
    calls: dict[tuple[object, object], dict[str, object]],
) -> None:
    """Every operation of a call that lasted has a flow from the call around its launch."""
    for number, kernel in enumerate(kernels):
        call = calls.get((kernel["pid"], kernel["event_id"]))
        while call is not None and call["origin"] in BESIDE:
            call = calls.get((call["pid"], call["parent_id"]))
        if call is None or call["start_ns"] == call["end_ns"] or kernel["start_ns"] == kernel["end_ns"]:
            assert number not in viewer.begins
            continue
        begin, end = viewer.begins.pop(number), viewer.ends.pop(number)
        assert begin is not None
        assert ranges[begin.args["row"]] == call
        assert end is not None
        assert end.args["row"] == number
        assert "bucket" in end.args
    assert not viewer.begins
    assert not viewer.ends


def check_counters(viewer: Viewer, joined: Joined | Tables, rows: pa.Table, processes: dict[str, int]) -> None:
    """Integrals per GPU are sums over its operations, those over all GPUs the totals of ROOFLINE."""
    own = own_costs(joined.ranges)
    totals = {
        "tensor_flops": sum(rows["tensor_flops"].to_pylist()),
        "bytes": sum(sum(rows[name].to_pylist()) for name in MOVED),
        "roofline_ns": sum(rows["roofline_ns"].to_pylist()),
    }
    plotted, unplotted = viewer.about["plotted"], viewer.about["unplotted"]
    assert {name: plotted[name] + unplotted[name] for name in totals} == totals
    gpus = [pid for name, pid in processes.items() if name.startswith("GPU")]
    for series, name, unit in (
        ("FLOP/s", "tensor_flops", 1),
        ("B/s", "bytes", 1),
        ("roof share", "roofline_ns", 10**9),
    ):
        whole = sum(viewer.integral(pid, series) for pid in gpus) * unit
        assert float(whole) == pytest.approx(plotted[name], rel=1e-12, abs=1e-9)
    busy = joined.ranges["busy_owned_ns"].to_pylist()
    owned = {(r["pid"], r["event_id"]): at for at, r in enumerate(joined.ranges.to_pylist())}
    for pid, device in {(k["pid"], k["device"]) for k in joined.kernels.to_pylist()}:
        flops = 0.0
        for k in joined.kernels.to_pylist():
            at = owned.get((k["pid"], k["event_id"]))
            if at is not None and k["busy_owned_ns"] and (k["pid"], k["device"]) == (pid, device):
                flops += int(own["tensor_flops"][at]) * k["busy_owned_ns"] / busy[at]
        got = viewer.integral(processes[f"GPU {device} of process {pid}: NVIDIA H200"], "FLOP/s")
        assert float(got) == pytest.approx(flops, rel=1e-12)


@settings(deadline=None)
@given(traces(), st.lists(st.sampled_from(["vision", "prefill", "decode"]), min_size=40, max_size=40))
def test_everything_drawn_adds_up_to_the_tables(found: Trace, stages: list[str]) -> None:
    joined = join(found, "drawn")
    rows = [
        {**row, "stage": stages[i % 40], "parent_id": row["parent_id"] if row["origin"] == "elsewhere" else None}
        for i, row in enumerate(joined.ranges.to_pylist())
    ]
    traced(evolve(joined, ranges=filled(MEASURED, rows)))


def test_a_step_by_hand(tmp_path: Path) -> None:
    # Two kernels of 30 ns each, of calls of 20 and 30 FLOP: 20e9/30 and 1e9 FLOP/s, nothing between and after.
    joined = file_joined(hooked(), tmp_path)
    viewer = traced(joined)
    assert viewer.threads == {
        (1, 1): "thread 1",
        (1, 2): "CUDA calls of thread 1",
        (2, 1): "stream 7",
        (2, 2): "steps",
        (2, 3): "layers",
    }
    assert viewer.processes == {1: "process 1", 2: "GPU 0 of process 1: NVIDIA H200"}
    got = [(at, float(value)) for at, value in viewer.counters[2, "FLOP/s"]]
    assert got == [(30_000, pytest.approx(2e10 / 30_000)), (60_000, 0), (70_000, 1e6), (100_000, 0)]
    (mlp,) = (one for one in viewer.slices if one.name == "decoder.0.mlp")
    expected = {
        "event_id": 1, "stage": "decode", "step": 0, "layer": 0, "kind": "mlp", "tensor_flops": 20, "weight_bytes": 9,
        "kv_len": 914, "busy_owned_ns": 30_000,
    }  # fmt: skip
    assert {name: mlp.args[name] for name in expected} == expected
    assert "observed_weight_bytes" not in mlp.args
    (kernel,) = (one for one in viewer.slices if one.name == "nvjet_mlp")
    expected = {"event_id": 1, "class": "matmul", "bucket": "attributed", "path": "decoder.0.mlp", "blocks": 132}
    assert {name: kernel.args[name] for name in expected} == expected


def test_replayed_calls_are_drawn_over_their_operations(tmp_path: Path) -> None:
    # Each replay runs two kernels of the MLP, 30 to 34 and 40 to 45, then one of the layer around it, 50 to 56.
    viewer = traced(file_joined(graph_file(), tmp_path))
    drawn = [s for s in viewer.slices if s.args.get("origin") == "replayed"]
    assert {viewer.threads[s.pid, s.tid] for s in drawn} == {"replayed by thread 1"}
    assert {viewer.processes[s.pid] for s in drawn} == {"GPU 0 of process 1: NVIDIA H200"}
    assert {(s.name, s.start, s.end) for s in drawn} == {
        ("decoder.3", 1030, 1056), ("decoder.3.mlp", 1030, 1045),
        ("decoder.3", 2030, 2056), ("decoder.3.mlp", 2030, 2045),
    }  # fmt: skip
    assert viewer.about["replayed_calls_without_operations"] == 0


HOSTILE = [
    'quote " and \\ back',
    "line\nend\ttab",
    "nul \0 esc \x1b[31m",
    "\u202eright to left",
    "</script>",
    "x" * 100_000,
]


def renamed(table: pa.Table, columns: tuple[str, ...], name: str) -> pa.Table:
    """Return a table in which every word of some columns is this name."""
    for column in columns:
        at = table.column_names.index(column)
        words = pa.array([name] * len(table), pa.string()).dictionary_encode()
        table = table.set_column(at, table.schema.field(at), words)
    return table


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_is_text_whatever_it_holds(name: str, tmp_path: Path) -> None:
    found = file_joined(hooked(), tmp_path)
    kernels = renamed(found.kernels, ("name", "path"), name)
    viewer = traced(Tables(kernels, renamed(found.ranges, ("path",), name)))
    assert [one.name for one in viewer.slices if "event_id" in one.args] == [name] * 5
    assert [one.args["path"] for one in viewer.slices if "path" in one.args] == [name] * 2


@pytest.mark.parametrize("shift", [2**50, 1_764_000_000_000_000_000])
def test_clocks_of_the_epoch_keep_every_nanosecond(shift: int, tmp_path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("lm_head", shift + 1, shift + 1_000_000_007, values=payload(event_id=1, tensor_flops=7, stage=2))
    file.launch("gemm", shift + 3, shift + 11, shift + 999_999_999)
    viewer = traced(file_joined(file, tmp_path))
    assert viewer.origin == shift + 1
    assert {(s.start - shift, s.end - shift) for s in viewer.slices if "event_id" in s.args} == {
        (1, 1_000_000_007),
        (11, 999_999_999),
    }


def test_operations_side_by_side_on_one_stream_get_lanes(tmp_path: Path) -> None:
    file = hooked()
    for number in range(3):
        file.launch("side", 61_000 + number, 75_000 + number, 99_000 - number)
    viewer = traced(file_joined(file, tmp_path))
    own = [name for name in viewer.threads.values() if name.startswith(("stream", "thread"))]
    assert sorted(own) == ["stream 7", "stream 7 (2)", "stream 7 (3)", "stream 7 (4)", "thread 1"]


def test_process_ids_that_no_viewer_can_hold_are_numbered() -> None:
    call = {"start_ns": 0, "end_ns": 9, "path": "lm_head", "stage": "decode"}
    operation = {"device": 0, "start_ns": 1, "end_ns": 5}
    pids = (0, 2**40)
    found = trace(nvtx=[{**call, "pid": pid, "tid": 2**33} for pid in pids], operations=[{**operation, "pid": 2**40}])
    viewer = traced(join(found, "odd", priced=False))
    assert set(viewer.processes) == {1, 2, 3}
    assert set(viewer.processes.values()) == {"process 0", f"process {2**40}", f"GPU 0 of process {2**40}: NVIDIA H200"}


def test_a_run_without_gpu_work_has_its_calls(tmp_path: Path) -> None:
    found = file_joined(hooked(), tmp_path)
    ranges = [{**row, "busy_owned_ns": 0, "launches": 0} for row in found.ranges.to_pylist()]
    viewer = traced(Tables(found.kernels.slice(0, 0), filled(MEASURED, ranges)))
    assert [one.name for one in viewer.slices if "event_id" in one.args] == ["model", "decoder.0.mlp", "lm_head"]
    assert viewer.about["unplotted"]["tensor_flops"] == 50
    assert not viewer.counters


def test_a_container_shows_the_sums_of_what_is_inside_and_a_leaf_does_not(tmp_path: Path) -> None:
    joined = file_joined(graph_file(), tmp_path)
    viewer = traced(joined)
    rows = joined.ranges.to_pylist()
    parent = {(r["pid"], r["event_id"]): r["parent_id"] for r in rows}
    containers = 0
    for one in (s for s in viewer.slices if "level" in s.args):
        row = rows[one.args["row"]]
        inside = []
        for other in rows:
            at = other["event_id"]
            while at is not None and at != row["event_id"]:
                at = parent.get((row["pid"], at))
            if at is not None:
                inside.append(other)
        if len(inside) == 1:
            assert "inclusive_wall_ns" not in one.args
            continue
        containers += 1
        for name in ("busy_owned_ns", "wall_ns", "launches", "tensor_flops"):
            assert one.args[f"inclusive_{name}"] == sum(other[name] for other in inside), (one.name, name)
    assert containers > 1


def test_layers_lie_over_their_operations_on_the_gpu(tmp_path: Path) -> None:
    viewer = traced(file_joined(graph_file(), tmp_path))
    drawn = {(s.name, s.start, s.end) for s in viewer.slices if lane(s, viewer) == "layers"}
    assert ("decoder.3", 1030, 1056) in drawn
