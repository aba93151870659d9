"""The join from end to end: one case by hand, then nothing lost and row order without meaning on drawn traces."""

from random import Random

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.schema.records import LayerKind, Stage, code_of
from dsocr_nvtx.schema.tables import KERNELS, MEASURED
from tests.builders.tables import Row, payload, trace
from tests.join import slow
from tests.join.slow import nested
from tests.join.test_join_costs import packed

DECODE = code_of(Stage.DECODE)


def called(path: str, event: int, start: int, end: int, **more: object) -> Row:
    """Return a range with a payload that costs 10 FLOP."""
    kind = code_of(LayerKind.MLP if "mlp" in path else LayerKind.REST)
    values = payload(event_id=event, stage=DECODE, kind=kind, level=2, layer=3, tensor_flops=10)
    return {"path": path, "stage": "decode", "start_ns": start, "end_ns": end, "payload": packed(values), **more}


# host   decoder.3 [100 ........................................... 400]
#        decoder.3.mlp       [200 ........... 300]
#        launch a [110 115], launch b [210 220], cudaDeviceSynchronize [350 390]
# device idle 100..130, a 130..180, idle 180..240, b 240..340 (b2 300..360 beside it), idle 360..400
BY_HAND = trace(
    nvtx=[called("decoder.3.mlp", 1, 200, 300), called("decoder.3", 0, 100, 400)],
    launches=[
        {"name": "cudaLaunchKernel_v7000", "start_ns": 110, "end_ns": 115, "correlation_id": 1},
        {"name": "cudaLaunchKernel_v7000", "start_ns": 210, "end_ns": 220, "correlation_id": 2},
        {"name": "cudaDeviceSynchronize_v3020", "start_ns": 350, "end_ns": 390, "correlation_id": 3},
    ],
    operations=[
        {"name": "elementwise_kernel", "start_ns": 130, "end_ns": 180, "correlation_id": 1},
        {"name": "nvjet_gemm", "start_ns": 240, "end_ns": 340, "correlation_id": 2},
        {"name": "nvjet_gemm", "start_ns": 300, "end_ns": 360, "correlation_id": 2, "stream": 9},
    ],
)


def test_a_trace_by_hand() -> None:
    found = join(BY_HAND, "by hand")
    outer, inner = found.ranges.to_pylist()
    assert (outer["path"], outer["parent_id"], inner["path"], inner["parent_id"]) == (
        "decoder.3",
        None,
        "decoder.3.mlp",
        0,
    )
    # a was launched at 110 in the outer range, b and b2 at 210 in the inner one.
    assert (outer["launches"], outer["kernel_ns"], outer["busy_ns"], outer["busy_owned_ns"]) == (1, 50, 50, 50)
    # b 100 + b2 60 = 160; their union 240..360 is 120; b owns 100, b2 what is left: 20.
    assert (inner["launches"], inner["kernel_ns"], inner["busy_ns"], inner["busy_owned_ns"]) == (2, 160, 120, 120)
    # Idle 100..130 is the outer's: launch 110..115, host the other 25. 180..200 outer host. 200..240 inner: launch
    # 210..220, host 30. 360..400 outer (the inner closed at 300): sync 360..390, host 10.
    assert (outer["idle_launch_ns"], outer["idle_sync_ns"], outer["idle_memory_ns"], outer["idle_host_ns"]) == (
        5,
        30,
        0,
        55,
    )
    assert (inner["idle_launch_ns"], inner["idle_sync_ns"], inner["idle_memory_ns"], inner["idle_host_ns"]) == (
        10,
        0,
        0,
        30,
    )
    assert (outer["idle_owned_ns"], inner["idle_owned_ns"]) == (90, 40)
    assert (outer["wall_ns"], inner["wall_ns"]) == (140, 160)  # 50 + 90, 120 + 40: together 300 = 400 - 100
    assert (outer["host_ns"], inner["host_ns"]) == (200, 100)  # 300 less the inner's 100
    assert (outer["inclusive_launches"], outer["inclusive_kernel_ns"]) == (3, 210)
    assert (outer["kind"], inner["kind"], inner["module"], inner["layer"], inner["level"]) == (
        "rest",
        "mlp",
        "decoder",
        3,
        "op",
    )
    assert [k["busy_owned_ns"] for k in found.kernels.to_pylist()] == [50, 100, 20]
    assert [k["class"] for k in found.kernels.to_pylist()] == ["norm_activation", "matmul", "matmul"]


def test_a_graph_that_was_launched_long_before_waits_with_its_work_queued() -> None:
    """Gaps inside a replayed graph are nobody's host time, whatever the launching thread does meanwhile."""
    # Launched 1000..1200, so queued from 6200 on. Idle 1000..4000 and 5000..6200 is the host's: before the launch and
    # inside its call 200, then waiting in the synchronising call. 6200..7000 and 8000..8400 are queued; after the last
    # operation, 9000..9500, nothing is.
    nodes = [(4000, 5000), (7000, 8000), (8400, 9000)]
    replay = trace(
        nvtx=[called("decoder.3", 0, 1000, 9500)],
        launches=[
            {"name": "cudaGraphLaunch_v10000", "start_ns": 1000, "end_ns": 1200, "correlation_id": 1},
            {"name": "cudaStreamSynchronize_v3020", "start_ns": 1300, "end_ns": 9200, "correlation_id": 2},
        ],
        operations=[{"name": "nvjet", "start_ns": start, "end_ns": end, "correlation_id": 1} for start, end in nodes],
    )
    found = join(replay, "by hand")
    (row,) = found.ranges.to_pylist()
    idle = {cause: row[f"idle_{cause}_ns"] for cause in ("launch", "sync", "memory", "host", "queued")}
    # launch 1000..1200; host 1200..1300 and 9200..9500; sync 1300..4000, 5000..6200 and 9000..9200
    assert idle == {"launch": 200, "sync": 2700 + 1200 + 200, "memory": 0, "host": 100 + 300, "queued": 800 + 400}
    assert row["idle_owned_ns"] == sum(idle.values())
    assert found.accounting.devices[0].idle_ns == {**idle, "none": 0}


def test_the_accounting_by_hand() -> None:
    accounting = join(BY_HAND, "by hand").accounting
    assert accounting.balances()
    assert (accounting.operations, accounting.total_ns, accounting.ranges) == (3, 210, 2)
    assert (accounting.buckets["attributed"].operations, accounting.buckets["attributed"].ns) == (3, 210)
    assert accounting.cost_sources == {"binary": 2, "json": 0, "announcement": 0, "none": 0}
    assert accounting.covered == 1.0
    assert accounting.covered_by_leaves == pytest.approx(160 / 210)  # b and b2 of all three
    assert accounting.classes == {"norm_activation": 50, "matmul": 120}
    (device,) = accounting.devices
    assert (device.wall_ns, device.busy_ns, sum(device.idle_ns.values())) == (300, 170, 130)
    plain = accounting.as_dict()
    assert isinstance(plain["devices"], list)
    assert plain["devices"][0]["wall_ns"] == 300


def test_what_is_not_attributed_is_counted() -> None:
    lost = [
        {"start_ns": 420, "end_ns": 440, "correlation_id": 9},  # no such call
        {"start_ns": 450, "end_ns": 453, "correlation_id": 4},  # launched after the last range
    ]
    late = {"start_ns": 405, "end_ns": 406, "correlation_id": 4}
    more = trace(
        nvtx=BY_HAND.nvtx.to_pylist(),
        launches=[*BY_HAND.launches.to_pylist(), late],
        operations=[*BY_HAND.operations.to_pylist(), *lost],
    )
    found = join(more, "by hand")
    counts = {name: (count.operations, count.ns) for name, count in found.accounting.buckets.items()}
    assert counts == {
        "attributed": (3, 210),
        "outside": (1, 3),
        "other_thread": (0, 0),
        "no_runtime_record": (1, 20),
        "graph_before_trace": (0, 0),
    }
    assert found.accounting.total_ns == 233
    (device,) = found.accounting.devices
    # 400..420 waits for an operation whose launcher is not known; 440..450 for one launched outside every range.
    assert device.unknown_thread_ns == 60  # 360..420, all of it: nobody knows who launched what ends it
    assert found.kernels.filter(found.kernels["event_id"].is_null())["path"].to_pylist() == [None, None]


def test_a_report_without_api_calls_is_joined_and_says_so() -> None:
    found = join(evolve(BY_HAND, launches=BY_HAND.launches.slice(0, 0)), "no calls")
    assert found.accounting.buckets["no_runtime_record"].ns == found.accounting.total_ns == 210
    assert found.accounting.covered == 0.0
    assert found.ranges["busy_owned_ns"].to_pylist() == [0, 0]


def test_refusals() -> None:
    with pytest.raises(Refused, match="no range of NVTX domain `dsocr`"):
        join(trace(operations=[{"start_ns": 1, "end_ns": 2}]), "bare")
    bare = [{**row, "payload": None} for row in BY_HAND.nvtx.to_pylist()]
    with pytest.raises(Refused, match=r"no range in the report has a cost.*--include-blobs true"):
        join(trace(nvtx=bare, operations=BY_HAND.operations.to_pylist()), "bare")


def test_two_devices_are_two_walls() -> None:
    here, there = BY_HAND.operations.to_pylist()[:2]
    both = evolve(
        BY_HAND,
        operations=trace(
            operations=[here, {**there, "device": 1}, {**there, "device": 1, "start_ns": 390, "end_ns": 500}]
        ).operations,
    )
    found = join(both, "two devices")
    first, second = found.accounting.devices
    # Device 0: 100..400 with a 130..180. Device 1: 100..500 with 240..340 and 390..500.
    assert (first.device, first.wall_ns, first.busy_ns, sum(first.idle_ns.values())) == (0, 300, 50, 250)
    assert (second.device, second.wall_ns, second.busy_ns, sum(second.idle_ns.values())) == (1, 400, 210, 190)
    own = [row["device"] for row in found.ranges.to_pylist() if row["origin"] == "call"]
    assert own == [0, 1], "each range is on the device of its own operations"


def test_equal_ids_in_two_processes_stay_apart() -> None:
    rows = {name: getattr(BY_HAND, name).to_pylist() for name in ("nvtx", "launches", "operations")}
    double = {name: [*found, *({**row, "pid": 2} for row in found)] for name, found in rows.items()}
    both = trace(nvtx=double["nvtx"], launches=double["launches"], operations=double["operations"])
    found = join(both, "two processes")
    for pid in (1, 2):
        mine = [row for row in found.ranges.to_pylist() if row["pid"] == pid]
        assert [(row["event_id"], row["launches"], row["kernel_ns"]) for row in mine] == [(0, 1, 50), (1, 2, 160)]
        assert [row["parent_id"] for row in mine] == [None, 0]
    assert found.accounting.buckets["attributed"].operations == 6


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw ranges, calls and operations of two processes, threads and devices; operations may start together."""
    # Two ranges with one begin and one end, or two calls, do not happen: a clock tick passes between two events.
    spans = list(dict.fromkeys(draw(nested(6).filter(bool))))
    nvtx = [called("decoder.3.mlp", event, s.start, s.end, pid=s.pid, tid=s.tid) for event, s in enumerate(spans)]
    names = st.sampled_from(["cudaLaunchKernel", "cudaDeviceSynchronize", "cudaMemcpyAsync", "cudaGetDevice"])
    calls = [
        {
            "pid": draw(st.integers(1, 2)), "tid": draw(st.integers(1, 2)), "start_ns": time, "name": draw(names),
            "end_ns": time + draw(st.integers(0, 4)), "correlation_id": number // 2,
        }
        for number, time in enumerate(draw(st.lists(st.integers(-30, 30), max_size=8, unique=True)))
    ]  # fmt: skip
    operations = [
        {
            "pid": draw(st.integers(1, 2)), "device": draw(st.integers(0, 1)), "start_ns": time, "stream": stream,
            "end_ns": time + draw(st.integers(0, 9)), "correlation_id": draw(st.none() | st.integers(0, 5)),
            "name": draw(st.sampled_from(["gemm", "softmax", "strange"])),
        }
        for stream, time in enumerate(draw(st.lists(st.integers(-30, 60), min_size=1, max_size=8)))
    ]  # fmt: skip
    return trace(nvtx=nvtx, launches=calls, operations=operations)


def shuffled(found: Trace, random: Random) -> Trace:
    """Return the same trace with the rows of every table in another order."""
    tables = {}
    for name in ("nvtx", "launches", "operations", "announcements", "graph_nodes"):
        order = list(range(len(getattr(found, name))))
        random.shuffle(order)
        tables[name] = getattr(found, name).take(pa.array(order, pa.int64()))
    return evolve(found, **tables)


@given(traces())
def test_nothing_is_lost_and_nothing_counted_twice(found: Trace) -> None:
    joined = join(found, "drawn")
    assert joined.kernels.schema.equals(KERNELS)
    assert joined.ranges.schema.equals(MEASURED)
    accounting, operations = joined.accounting, found.operations.to_pylist()
    assert accounting.balances()
    assert sorted(_identity(k) for k in joined.kernels.to_pylist()) == sorted(_identity(k) for k in operations)
    duration = sum(row["end_ns"] - row["start_ns"] for row in operations)
    assert sum(count.ns for count in accounting.buckets.values()) == accounting.total_ns == duration
    assert sum(count.operations for count in accounting.buckets.values()) == len(operations)
    measured = joined.ranges.to_pylist()
    assert sum(row["kernel_ns"] for row in measured) == accounting.buckets["attributed"].ns
    for device in accounting.devices:
        mine = [(row["start_ns"], row["end_ns"]) for row in operations if row["device"] == device.device]
        assert device.busy_ns == slow.union(mine)
        assert device.busy_ns + sum(device.idle_ns.values()) == device.wall_ns
    idle = sum(sum(device.idle_ns.values()) - device.idle_ns["none"] for device in accounting.devices)
    assert sum(row["idle_owned_ns"] for row in measured) == idle
    owned = sum(k["busy_owned_ns"] for k in joined.kernels.to_pylist() if k["event_id"] is not None)
    assert sum(row["busy_owned_ns"] for row in measured) == owned
    roots = [row for row in measured if row["parent_id"] is None]
    assert sum(row["inclusive_kernel_ns"] for row in roots) == sum(row["kernel_ns"] for row in measured)


def _identity(row: Row) -> str:
    return repr([row[name] for name in ("pid", "device", "stream", "start_ns", "end_ns", "correlation_id", "name")])


@given(traces(), st.randoms(use_true_random=False))
def test_row_order_means_nothing(found: Trace, random: Random) -> None:
    one, two = join(found, "drawn"), join(shuffled(found, random), "drawn")
    assert one.kernels.to_pylist() == two.kernels.to_pylist()
    assert one.ranges.to_pylist() == two.ranges.to_pylist()
    assert one.accounting.as_dict() == two.accounting.as_dict()
