"""A run of replayed graphs joined without a profiler: the join finds what the hooks kept of every replay."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.builders.graphs import HostGraph, HostGraphed
from tests.builders.tables import filled
from tests.hooks.networks import network, page

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.ingest.cupti import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.run import decoding as modes
from dsocr_nvtx.run.decoding import Decoding
from dsocr_nvtx.run.loop import run_pages
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.schema.files import read_table, write_table
from dsocr_nvtx.schema.records import COST_FIELDS, RangeRecord
from dsocr_nvtx.schema.tables import GRAPH_NODES, LAUNCHES, OPERATIONS


def test_a_run_directory_gives_every_replayed_call_its_place_and_its_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two pages, each with a graph of its own: what the join makes of nodes and launches is what the run kept."""
    monkeypatch.setattr(modes, "Graphed", HostGraphed)
    model, views = network(experts="batched_mm"), page()
    ids = prompt_ids(views.image_tokens(), model.config)
    with hook(model) as session:
        monkeypatch.setattr(HostGraph, "quiet", session)
        for tokens in (5, 4):
            decoding = Decoding(mode="graph", max_new_tokens=tokens, rehearse=False)
            run_pages(model, views.model_inputs(), ids, decoding, session)
    session.write(tmp_path)
    records = session.stats.records
    _write_timings(tmp_path / "timings", records)
    joined = join(read(tmp_path), "run")
    names = ("path", "stage", "step", "layer", "batch", "tokens", "kv_len", *COST_FIELDS)
    kept, found = (
        Counter(tuple(row[name] for name in names) for row in rows if row["origin"] == "replayed")
        for rows in (read_table(tmp_path / "ranges.arrow").to_pylist(), joined.ranges.to_pylist())
    )
    assert found == kept
    captured = [record for record in records if record.origin == "captured"]
    assert found.total() == len(captured) // 2 * (4 + 3)
    places = Counter((row["path"], row["step"]) for row in joined.kernels.to_pylist())
    assert places == {(record.path, step): 1 for record in captured for step in range(4 + 3)}


def _write_timings(folder: Path, records: list[RangeRecord]) -> None:
    """Write what CUPTI would see: a node in the middle of every captured call, launched as a clone at every replay."""
    nodes: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    operations: list[dict[str, Any]] = []
    captures = [r for r in records if r.origin == "captured" and r.path == "decode"]
    for record in captures:
        about = {"tid": record.thread_id, "correlation_id": 0}
        begin, end = record.host_start_ns - 2, record.host_end_ns + 2
        calls.append({**about, "name": "cudaStreamBeginCapture", "start_ns": begin, "end_ns": begin + 1})
        calls.append({**about, "name": "cudaStreamEndCapture", "start_ns": end, "end_ns": end + 1})
    for record in (r for r in records if r.origin == "captured"):
        inside = [r.host_start_ns for r in records if r.parent_id == record.event_id]
        made = (record.host_start_ns + min(inside, default=record.host_end_ns)) // 2
        about = {"tid": record.thread_id}
        ended = next(c.host_end_ns for c in captures if c.host_end_ns >= made)
        clone = {**about, "graph_node_id": 10_000 + record.event_id, "time_ns": ended + 5}
        nodes.append({**about, "graph_node_id": record.event_id, "time_ns": made})
        nodes += [clone, {**clone, "original_node_id": record.event_id}]
    launches = [r for r in records if r.origin == "replayed" and r.path == "decode"]
    for number, launch in enumerate(launches, 1):
        at = launch.host_start_ns + 100
        about = {"correlation_id": number, "start_ns": at, "end_ns": at + 10}
        calls.append({**about, "tid": launch.thread_id, "name": "cudaGraphLaunch"})
        ended = max(c.host_end_ns for c in captures if c.host_end_ns < at)
        clones = [node for node in nodes if "original_node_id" in node and node["time_ns"] == ended + 5]
        operations += [{**about, "graph_node_id": node["graph_node_id"]} for node in clones]
    folder.mkdir()
    write_table(filled(OPERATIONS, operations), folder / "operations.arrow")
    write_table(filled(LAUNCHES, calls), folder / "launches.arrow")
    write_table(filled(GRAPH_NODES, nodes), folder / "graph_nodes.arrow")
