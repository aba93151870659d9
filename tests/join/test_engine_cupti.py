"""Replayed graphs of a run directory, nodes noted by CUPTI: layers, steps, cache lengths and costs counted by hand."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.cupti import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.inclusive import exclusive_table
from dsocr_nvtx.schema.files import read_table, write_table
from dsocr_nvtx.schema.tables import EXPERTS, GRAPH_NODES, LAUNCHES, OPERATIONS
from tests.builders.tables import RANGES_V1, filled

TID = 5
REPLAYED = 1 << 60
"""Event ids of replayed calls begin here."""


GROWING = ("decoder.0", "decoder.0.attention")


def cost(path: str, kv_len: int) -> dict[str, object]:
    """Return what a call costs at a cache length: attention grows with it, the multiplication does not."""
    attention = {"tensor_flops": 10 * kv_len, "kv_read_bytes": 4 * kv_len, "weight_bytes": 20}
    product = {"tensor_flops": 7, "weight_bytes": 100}
    whole = {"tensor_flops": 10 * kv_len + 7, "kv_read_bytes": 4 * kv_len, "weight_bytes": 120}
    found = {"decoder.0.attention": attention, "decoder.0.mlp": product, "decoder.0": whole}.get(path, {})
    return {**found, "kv_len": kv_len if path in GROWING else 0}


PARTS = (  # in the order in which they end: path, start and end after the capture's, parent
    ("decoder.0.attention", 120, 150, 2), ("decoder.0.mlp", 160, 180, 2), ("decoder.0", 110, 190, 1),
    ("decode", 100, 200, None),
)  # fmt: skip
EVENTS = {"decode": 1, "decoder.0": 2, "decoder.0.attention": 3, "decoder.0.mlp": 4}
PLACES: dict[str, dict[str, object]] = {
    "decode": {"kind": "rest", "level": "stage", "module": "model"},
    "decoder.0": {"kind": "rest", "level": "layer", "layer": 0},
    "decoder.0.attention": {"kind": "attention", "layer": 0},
    "decoder.0.mlp": {"layer": 0},
}


def row(path: str, event: int, start: int, end: int, **more: object) -> dict[str, object]:
    """Return a row of RANGES_V1."""
    about = {"path": path, "event_id": event, "host_start_ns": start, "host_end_ns": end, "thread_id": TID}
    return {**about, **PLACES[path], **more}


def captured(at: int, event: int, kv_len: int) -> Iterator[dict[str, object]]:
    """Yield the calls of a capture: they cost nothing, and their ids begin after ``event``."""
    for path, start, end, parent in PARTS:
        above = None if parent is None else event + parent
        own = {"origin": "captured", "kv_len": kv_len if path in GROWING else 0}
        yield row(path, event + EVENTS[path], at + start, at + end, parent_id=above, **own)


def replayed(at: int, number: int, kv_len: int, step: int, around: int) -> Iterator[dict[str, object]]:
    """Yield the calls that a launch stands for."""
    first = REPLAYED + len(PARTS) * number
    for place, (path, _, _, parent) in enumerate(PARTS):
        above = around if parent is None else first + (3 if parent == 1 else 2)
        own = {"origin": "replayed", "parent_id": above, "step": step}
        yield row(path, first + place, at, at, **own, **cost(path, kv_len))


LAUNCHED = ((1000, 0, 11), (2000, 1, 12), (5000, 2, 31), (6000, 3, 31))
"""Steps: when, which, keys in the cache. The first two launch the graph captured at 0, the others that of 4000."""


def ranges() -> list[dict[str, Any]]:
    """Return the ranges of two pages, each with a graph of its own."""
    rows: list[dict[str, Any]] = [*captured(0, 0, 11), *captured(4000, 100, 31)]
    for at, step, kv_len in LAUNCHED:
        around = 200 + step
        rows.append(row("decode", around, at, at + 100, step=step))
        rows += replayed(at + 10, step, kv_len, step, around)
    return sorted(rows, key=lambda one: (one["host_start_ns"], one["event_id"]))


def nodes() -> Iterator[dict[str, object]]:
    """Yield two captures of four nodes with the same ids: what is launched is a clone of a clone, then a clone."""
    for at, ids in ((0, (100, 200)), (4000, (300,))):
        for node, made in ((1, 130), (2, 140), (3, 170), (4, 185)):
            yield {"graph_node_id": node, "time_ns": at + made, "tid": TID}
            before = node
            for number, clone in enumerate(ids):
                time = at + 220 + 10 * number
                yield {"graph_node_id": clone + node, "time_ns": time, "tid": TID}
                yield {"graph_node_id": clone + node, "time_ns": time + 1, "tid": TID, "original_node_id": before}
                before = clone + node


def calls() -> Iterator[dict[str, object]]:
    """Yield the calls around the captures, and the launches."""
    for at in (0, 4000):
        yield {"name": "cudaStreamBeginCapture_v10000", "start_ns": at + 90, "end_ns": at + 95}
        yield {"name": "cudaStreamEndCapture_v10000", "start_ns": at + 205, "end_ns": at + 210}
    for at, step, _ in LAUNCHED:
        about = {"start_ns": at + 20, "end_ns": at + 30, "correlation_id": 70 + step}
        yield {"name": "cudaGraphLaunch_v10000", **about}


def operations() -> Iterator[dict[str, object]]:
    """Yield four kernels a launch, of 5 to 8 ns, one of a launch's nodes after the other; the last has one more."""
    for at, step, _ in LAUNCHED:
        for node in range(1, 5):
            start = at + 40 + 10 * node
            clone = (200 if at < 4000 else 300) + node
            about = {"start_ns": start, "end_ns": start + 4 + node, "graph_node_id": clone}
            yield {"correlation_id": 70 + step, **about}
    yield {"correlation_id": 73, "start_ns": 6090, "end_ns": 6099, "graph_node_id": 999}


def directory(path: Path, rows: list[dict[str, Any]], *, noted: bool = True) -> Path:
    """Write a run directory; without the nodes where they were not noted."""
    timings = path / "timings"
    timings.mkdir()
    write_table(filled(RANGES_V1, rows), path / "ranges.arrow")
    write_table(filled(OPERATIONS, list(operations())), timings / "operations.arrow")
    write_table(filled(LAUNCHES, [{"tid": TID, **call} for call in calls()]), timings / "launches.arrow")
    if noted:
        write_table(filled(GRAPH_NODES, list(nodes())), timings / "graph_nodes.arrow")
    return path


def joined(path: Path) -> Joined:
    """Join a run directory."""
    return join(read(path), "run")


def test_every_replayed_kernel_is_on_its_layer_at_the_step_and_the_cache_length_of_its_launch(tmp_path: Path) -> None:
    found = joined(directory(tmp_path, ranges()))
    rows = [r for r in found.ranges.to_pylist() if r["origin"] == "replayed"]
    told = [
        (r["path"], r["step"], r["kv_len"], r["tensor_flops"], r["kv_read_bytes"], r["weight_bytes"], r["kernel_ns"])
        for r in rows
    ]
    assert sorted(told) == sorted(
        line
        for step, kv_len in ((0, 11), (1, 12), (2, 31), (3, 31))
        for line in (
            ("decode", step, 0, 0, 0, 0, 0),
            ("decoder.0", step, kv_len, 0, 0, 0, 8),
            ("decoder.0.attention", step, kv_len, 10 * kv_len, 4 * kv_len, 20, 5 + 6),
            ("decoder.0.mlp", step, 0, 7, 0, 100, 7),
        )
    )
    places = Counter((r["path"], r["step"]) for r in found.kernels.to_pylist())
    counts = {"decoder.0.attention": 2, "decoder.0.mlp": 1, "decoder.0": 1}
    expected = {(path, step): count for path, count in counts.items() for step in range(4)}
    assert places == {**expected, ("decode", 3): 1}  # the node that nobody saw made stays with its step
    captures = [r for r in found.ranges.to_pylist() if r["origin"] == "captured"]
    assert [(r["tensor_flops"], r["weight_bytes"], r["launches"]) for r in captures] == [(0, 0, 0)] * 8
    graphs = found.accounting.graphs
    assert (graphs.to_layers, graphs.to_steps, graphs.launches) == (16, 1, 4)
    assert found.accounting.balances()


def test_replayed_calls_are_those_of_the_run(tmp_path: Path) -> None:
    """Nothing is announced or made anew: events, parents and threads are what the run wrote out."""
    found = read(directory(tmp_path, ranges()))
    assert len(found.announcements) == len(found.costs) == 0
    assert len(found.replays) == 16
    theirs, ours = (
        {(r["event_id"], r["parent_id"], r["path"]) for r in rows if r.get("origin") == "replayed"}
        for rows in (ranges(), join(found, "run").ranges.to_pylist())
    )
    assert theirs == ours


def test_a_launch_that_the_run_did_not_write_out_stays_with_its_step(tmp_path: Path) -> None:
    """The second launch of the first capture: it is not the first one's, whose calls have theirs already."""
    kept = [r for r in ranges() if not (r.get("origin") == "replayed" and r["step"] == 1)]
    found = joined(directory(tmp_path, kept))
    places = Counter((r["path"], r["step"]) for r in found.kernels.to_pylist())
    assert (places["decode", 1], places["decoder.0.mlp", 0], places["decoder.0.mlp", 1]) == (4, 1, 0)
    assert found.accounting.balances()


def test_the_run_and_the_join_tell_the_same_of_every_replayed_call(tmp_path: Path) -> None:
    path = directory(tmp_path, ranges())
    kept = exclusive_table(read_table(path / "ranges.arrow"), "run").to_pylist()
    names = ("path", "stage", "step", "layer", "kind", "batch", "tokens", "kv_len", "tensor_flops", "kv_read_bytes",
             "weight_bytes")  # fmt: skip
    theirs, ours = (
        Counter(tuple(r[name] for name in names) for r in rows if r["origin"] == "replayed")
        for rows in (kept, joined(path).ranges.to_pylist())
    )
    assert theirs == ours
    assert theirs.total() == 16


def test_experts_that_a_replay_hit_are_those_of_its_call(tmp_path: Path) -> None:
    path = directory(tmp_path, ranges())
    about = {"stage": "decode", "step": 1, "layer": 0, "rows_per_expert": [1, 1]}
    weights = {"distinct_experts": 2, "expected_weight_bytes": 90, "observed_weight_bytes": 40}
    product = REPLAYED + 4 + 1  # the second call that ends, of the second launch
    write_table(filled(EXPERTS, [{**about, **weights, "event_id": product}]), path / "experts.arrow")
    rows = [r for r in joined(path).ranges.to_pylist() if r["observed_weight_bytes"] is not None]
    told = [(r["path"], r["step"], r["origin"], r["observed_weight_bytes"]) for r in rows]
    assert sorted(told) == [("decoder.0.mlp", 1, "replayed", 50)]


def test_without_nodes_all_that_a_graph_did_stays_with_its_step(tmp_path: Path) -> None:
    found = joined(directory(tmp_path, ranges(), noted=False))
    assert Counter(r["path"] for r in found.kernels.to_pylist()) == {"decode": 17}
    assert found.accounting.graphs.to_steps == 17
    assert "captured before the trace" in found.accounting.graphs.note
    assert all(r["origin"] != "replayed" for r in found.ranges.to_pylist())


def test_replays_of_other_calls_than_were_captured_are_refused(tmp_path: Path) -> None:
    rows = ranges()
    next(r for r in rows if r.get("origin") == "replayed" and r["path"] == "decoder.0.mlp")["path"] = (
        "decoder.0.attention"
    )
    with pytest.raises(Refused, match="not those that were captured"):
        read(directory(tmp_path, rows))


def test_replays_of_a_capture_that_the_run_forgot_are_left_to_their_steps(tmp_path: Path) -> None:
    kept = [r for r in ranges() if r.get("origin") != "captured" or r["host_start_ns"] >= 4000]
    found = joined(directory(tmp_path, kept))
    places = Counter((r["path"], r["step"]) for r in found.kernels.to_pylist())
    assert {place: count for place, count in places.items() if place[1] < 2} == {("decode", 0): 4, ("decode", 1): 4}
    assert places["decoder.0.attention", 2] == 2
