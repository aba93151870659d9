"""CUDA graphs in the join: a real capture counted by hand, then costs, clones, reuse and circles on small files."""

import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.captures import captures
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.replays import template_nodes
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.records import LayerKind, Level, Stage, code_of
from dsocr_nvtx.schema.tables import GRAPH_NODES, LAUNCHES, OPERATIONS
from tests.builders.nsys import NsysFile, global_id
from tests.builders.tables import announcement_v1 as announcement
from tests.builders.tables import filled
from tests.builders.tables import payload_v1 as payload

EXPORTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "nsys"
real = pytest.mark.skipif(not EXPORTS.is_dir(), reason="the real exports in ../shared/data/nsys are not here")


def real_join(tmp_path: Path, name: str) -> Joined:
    """Join a real capture of another domain, whose ranges have no cost."""
    path = tmp_path / f"{name}.sqlite"
    path.write_bytes(lzma.decompress((EXPORTS / f"{name}.sqlite.xz").read_bytes()))
    return join(read(path, "probe"), name, priced=False)


def paths_of(joined: Joined) -> Callable[[int | None], str]:
    """Return a function from an event to the paths around it, innermost first."""
    ranges = {row["event_id"]: row for row in joined.ranges.to_pylist()}

    def path(event: int | None) -> str:
        found = []
        while event is not None:
            found.append(ranges[event]["path"])
            event = ranges[event]["parent_id"]
        return " in ".join(found)

    return path


@real
def test_kernels_of_a_real_graph_land_on_their_layers_in_every_replay(tmp_path: Path) -> None:
    # By hand, from the CUDA_GRAPH_NODE_EVENTS and NVTX_EVENTS tables: graph 1 was captured in range `capture`, nodes
    # 0 and 1 in layer0 > mm, 2 and 3 in layer0 > act, and so on to layer3: 16 nodes. Graph 2 is their clone; its nodes
    # 0 to 15 were launched five times, each in a range `replay` of its own.
    joined = real_join(tmp_path, "h200-graph-node")
    replayed = [row for row in joined.kernels.to_pylist() if row["graph_node_id"] is not None]
    assert len(replayed) == 5 * 16
    path = paths_of(joined)
    places = Counter((path(row["event_id"]), row["launch_ns"]) for row in replayed)
    expected = {f"{part} in layer{layer} in replay" for part in ("mm", "act") for layer in range(4)}
    assert {place for place, _ in places} == expected
    launched = sorted({row["launch_ns"] for row in replayed})
    assert launched == [4494793829, 4494911549, 4494957721, 4494996332, 4495035402]
    assert set(places.values()) == {2}
    assert len(places) == 5 * 8
    # Node 0 of the first replay ran from 4494891149 to 4494901773, node 1 to 4494904877: 10624 + 2976 ns.
    first = next(r for r in joined.ranges.to_pylist() if r["origin"] == "replayed" and r["path"] == "mm")
    assert (first["launches"], first["kernel_ns"]) == (2, 13600)
    assert joined.accounting.graphs.to_layers == 80
    assert joined.accounting.graphs.note == ""


@real
def test_a_graph_traced_whole_belongs_to_its_step_and_the_report_says_which_flag_keeps_layers(tmp_path: Path) -> None:
    joined = real_join(tmp_path, "h200-graph-graph")
    whole = [row for row in joined.kernels.to_pylist() if row["operation"] == "graph"]
    assert [paths_of(joined)(row["event_id"]) for row in whole] == ["replay"] * 5
    graphs = joined.accounting.graphs
    assert (graphs.launches, graphs.whole, graphs.to_layers, graphs.to_steps) == (5, 5, 0, 0)
    assert "layers are not in this report" in graphs.note
    assert "--cuda-graph-trace=node" in graphs.note


MLP = {"kind": code_of(LayerKind.MLP), "layer": 3, "level": code_of(Level.OP), "stage": code_of(Stage.DECODE)}
LAYER = MLP | {"kind": code_of(LayerKind.REST), "level": code_of(Level.LAYER)}
STEP = {"kind": code_of(LayerKind.REST), "level": code_of(Level.STAGE), "stage": code_of(Stage.DECODE)}


def graph_file(*, announced: bool = True, node: bool = True) -> NsysFile:
    """Return an export: step 0 captures decoder.3 > decoder.3.mlp into a graph, steps 1 and 2 replay it.

    Before the second replay the layer's cost is announced anew: 30 FLOP more of its own.
    """
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decode", 0, 90, values=payload(event_id=0, step=0, **STEP))
    file.call("cudaStreamBeginCapture_v10000", 8, 9)
    file.push_pop("decoder.3", 10, 50, values=payload(event_id=1, tensor_flops=15, weight_bytes=2, **LAYER))
    file.push_pop("decoder.3.mlp", 20, 40, values=payload(event_id=2, tensor_flops=10, weight_bytes=2, **MLP))
    file.call("cudaStreamEndCapture_v10000", 60, 62)
    for number, (made, cloned) in enumerate(((25, 70), (35, 72), (45, 74))):
        if node:
            file.node(100 + number, made)
            file.node(200 + number, cloned, original=100 + number)
    for step in (1, 2):
        at = 1000 * step
        file.push_pop("decode", at, at + 100, values=payload(event_id=2 + step, step=step, **STEP))
        if announced and step == 2:
            values = payload(event_id=4, step=2, tensor_flops=45, weight_bytes=2, **LAYER)
            file.mark(announcement("decoder.3", values), at + 5)
        number_ = file.call("cudaGraphLaunch_v10000", at + 10, at + 20)
        for number in range(3):
            begin = at + 30 + 10 * number
            file.kernel("gemm", begin, begin + 4 + number, correlation=number_, node=200 + number)
    return file


def test_every_launch_calls_the_captured_ranges_again_at_the_costs_of_its_step(tmp_path: Path) -> None:
    joined = join(read(graph_file().write(tmp_path / "g.sqlite")), "g")
    rows = joined.ranges.to_pylist()
    told = [
        (r["origin"], r["path"], r["step"], r["stage"], r["layer"], r["tensor_flops"], r["launches"], r["kernel_ns"])
        for r in rows
    ]
    assert told == [
        ("call", "decode", 0, "decode", None, 0, 0, 0),
        ("captured", "decoder.3", 0, "decode", 3, 0, 0, 0),
        ("captured", "decoder.3.mlp", 0, "decode", 3, 0, 0, 0),
        ("call", "decode", 1, "decode", None, 0, 0, 0),
        ("replayed", "decoder.3", 1, "decode", 3, 15 - 10, 1, 6),
        ("replayed", "decoder.3.mlp", 1, "decode", 3, 10, 2, 9),
        ("call", "decode", 2, "decode", None, 0, 0, 0),
        ("replayed", "decoder.3", 2, "decode", 3, 45 - 10, 1, 6),
        ("replayed", "decoder.3.mlp", 2, "decode", 3, 10, 2, 9),
    ]
    events = {row["event_id"]: row for row in rows}
    assert len(events) == len(rows)
    for row in rows:
        if row["origin"] == "replayed":
            assert row["event_id"] < 0
            assert events[row["parent_id"]]["path"] == ("decode" if row["path"] == "decoder.3" else "decoder.3")
            assert events[row["parent_id"]]["step"] == row["step"]
            assert row["host_ns"] == 0
    assert {row["step"] for row in joined.kernels.to_pylist()} == {1, 2}
    assert joined.accounting.buckets["attributed"].operations == 6
    assert joined.accounting.balances()


def test_rooflines_count_replays_and_not_the_capture(tmp_path: Path) -> None:
    joined = join(read(graph_file().write(tmp_path / "g.sqlite")), "g")
    found = roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200"))
    (mlp,) = [row for row in found.rows.to_pylist() if row["kind"] == "mlp"]
    assert (mlp["calls"], mlp["tensor_flops"], mlp["weight_bytes"], mlp["launches"]) == (2, 20, 4, 4)
    (rest,) = [row for row in found.rows.to_pylist() if row["module"] == "decoder" and row["kind"] == "rest"]
    assert (rest["calls"], rest["tensor_flops"]) == (2, (15 - 10) + (45 - 10))
    assert sum(found.rows["wall_ns"].to_pylist()) == sum(joined.ranges["wall_ns"].to_pylist())


def test_without_announcements_the_capture_says_the_cost(tmp_path: Path) -> None:
    joined = join(read(graph_file(announced=False).write(tmp_path / "g.sqlite")), "g")
    replayed = [row for row in joined.ranges.to_pylist() if row["origin"] == "replayed"]
    assert [row["tensor_flops"] for row in replayed] == [15 - 10, 10, 15 - 10, 10]


def test_a_graph_whose_capture_the_trace_missed_stays_with_its_step(tmp_path: Path) -> None:
    joined = join(read(graph_file(node=False).write(tmp_path / "g.sqlite")), "g")
    assert set(joined.kernels["path"].to_pylist()) == {"decode"}
    graphs = joined.accounting.graphs
    assert (graphs.to_layers, graphs.to_steps, graphs.launches) == (0, 6, 2)
    assert "captured before the trace" in graphs.note


def test_a_replay_launched_outside_every_range_keeps_its_layer(tmp_path: Path) -> None:
    file = graph_file()
    number = file.call("cudaGraphLaunch_v10000", 5000, 5010)
    file.kernel("gemm", 5020, 5030, correlation=number, node=200)
    joined = join(read(file.write(tmp_path / "g.sqlite")), "g")
    (last,) = [row for row in joined.kernels.to_pylist() if row["start_ns"] == 5020]
    assert (last["path"], last["bucket"], last["stage"]) == ("decoder.3.mlp", "attributed", "decode")


def test_equal_node_ids_of_two_processes_stay_apart(tmp_path: Path) -> None:
    file = graph_file()
    file.domain(2)
    file.node(200, 30, pid=2)
    file.push_pop("decode", 0, 90, pid=2, values=payload(event_id=0, **STEP))
    number = file.call("cudaGraphLaunch_v10000", 50, 60, pid=2)
    file.kernel("gemm", 70, 80, correlation=number, node=200, pid=2)
    joined = join(read(file.write(tmp_path / "g.sqlite")), "g")
    (theirs,) = [row for row in joined.kernels.to_pylist() if row["pid"] == 2]
    assert theirs["path"] == "decode"


def templates(nodes: list[tuple[int, int, int | None]], wanted: list[tuple[int, int]]) -> list[int | None]:
    """Return the node that each (node, time) replays; ``nodes`` are (node, time, what it was cloned from)."""
    table = filled(GRAPH_NODES, [{"graph_node_id": n, "time_ns": t, "original_node_id": o} for n, t, o in nodes])
    operations = filled(OPERATIONS, [{"graph_node_id": node} for node, _ in wanted])
    found = template_nodes(operations, np.array([time for _, time in wanted], np.int64), table)
    return [None if row < 0 else nodes[row][0] for row in found.tolist()]


def test_clones_of_clones_lead_to_the_node_that_was_captured() -> None:
    nodes = [(1, 0, None), (2, 10, None), (2, 11, 1), (3, 20, None), (3, 20, 2), (4, 30, 3)]
    for order in (nodes, nodes[::-1], nodes[3:] + nodes[:3]):
        assert templates(order, [(4, 99), (3, 99), (2, 99), (1, 99), (5, 99)]) == [1, 1, 1, 1, None]


def test_a_node_id_that_is_used_again_means_the_latest_node_before_the_launch() -> None:
    nodes = [(1, 0, None), (2, 10, 1), (2, 100, None), (5, 200, 2)]
    assert templates(nodes, [(2, 50), (2, 150), (5, 250), (5, 150), (2, 5)]) == [1, 2, 2, None, None]


def test_circles_of_clones_end_in_no_node() -> None:
    assert templates([(1, 0, 2), (2, 0, 1), (3, 0, 3)], [(1, 9), (2, 9), (3, 9)]) == [None] * 3


def test_captures_pair_their_calls_per_thread() -> None:
    begin, end = "cudaStreamBeginCapture_v10000", "cudaStreamEndCapture_v10000"
    calls = [
        {"name": begin, "start_ns": 10, "end_ns": 11, "tid": 1}, {"name": end, "start_ns": 20, "end_ns": 21, "tid": 1},
        {"name": begin, "start_ns": 12, "end_ns": 13, "tid": 2}, {"name": end, "start_ns": 40, "end_ns": 41, "tid": 2},
        {"name": begin, "start_ns": 50, "end_ns": 51, "tid": 1},
        {"name": begin, "start_ns": 60, "end_ns": 61, "tid": 2}, {"name": end, "start_ns": 70, "end_ns": 71, "tid": 2},
    ]  # fmt: skip
    found = captures(filled(LAUNCHES, calls))
    spans = sorted(zip(found.tid.tolist(), found.begin.tolist(), found.end.tolist(), strict=True))
    assert spans == [(1, 10, 21), (2, 12, 41), (2, 60, 71)]
    where = found.of(np.full(4, 1), np.array([1, 1, 2, 2]), np.array([15, 30, 15, 65]))
    assert [(int(found.begin[w]) if w >= 0 else None) for w in where] == [10, None, 12, 60]


def test_a_graph_launch_of_another_kind_is_its_step(tmp_path: Path) -> None:
    file = graph_file(node=False)
    number = file.call("cudaGraphLaunch_v10000", 2040, 2050)
    file.add(
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=2060, end=2090, deviceId=0, contextId=1, streamId=7,
        correlationId=number, globalPid=global_id(1), graphId=1, graphExecId=2,
    )  # fmt: skip
    joined = join(read(file.write(tmp_path / "g.sqlite")), "g")
    (whole,) = [row for row in joined.kernels.to_pylist() if row["operation"] == "graph"]
    assert (whole["path"], whole["step"]) == ("decode", 2)
    assert "--cuda-graph-trace=node" in joined.accounting.graphs.note
