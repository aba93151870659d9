"""What a session recorded: counted, written, forgotten; the plan's three functions."""

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx import hooks
from dsocr_nvtx.analytic.observed import own_calls
from dsocr_nvtx.analytic.summary import run_summary
from dsocr_nvtx.hooks import get_analytic_run_stats, hook, reset_analytic_run_stats, write_analytic_run_stats
from dsocr_nvtx.hooks.emit import Silent
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.tables import RANGES
from tests.builders.emitters import Listener
from tests.hooks.networks import network, run


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def test_the_plans_functions_speak_of_the_hooks_attached_last(model: Any, tmp_path: Path) -> None:
    with hook(model) as session:
        run(model, session, tokens=2)
        assert get_analytic_run_stats() is session.stats
    write_analytic_run_stats(tmp_path)
    steps = json.loads((tmp_path / "decoder_steps.json").read_text())
    assert len(steps) == 2 * len(model.model.language_model.layers)
    assert len(json.loads((tmp_path / "vision_steps.json").read_text())) == 6
    reset_analytic_run_stats()
    assert get_analytic_run_stats().records == []


def test_a_run_directory_holds_every_call(model: Any, tmp_path: Path) -> None:
    with hook(model) as session:
        run(model, session, tokens=3)
    session.write(tmp_path)
    table = read_table(tmp_path / "ranges.arrow")
    assert table.schema.names == RANGES.names
    records = session.stats.records
    assert table["event_id"].to_pylist() == [record.event_id for record in records]
    assert table["tensor_flops"].to_pylist() == [record.cost.tensor_flops for record in records]
    assert table["device_ns"].null_count == len(records)  # no GPU, no events
    parents = dict(zip(table["event_id"].to_pylist(), table["path"].to_pylist(), strict=True))
    inner = {parents[p] for p, path in zip(*(table[n].to_pylist() for n in ("parent_id", "path")), strict=True)
             if path == "decoder.1.moe.gate"}  # fmt: skip
    assert inner == {"decoder.1.moe"}


def test_a_run_counts_the_same_calls_whether_a_tool_listens_or_not(model: Any) -> None:
    counts = []
    for emitter in (Listener(), Listener(announces=False), Silent()):
        with hook(model, emitter=emitter, record=True) as session:
            run(model, session, tokens=3)
        told: Any = run_summary(own_calls(session.stats.records), pages=1)
        layers = {(layer["stage"], layer["module"], layer["layer"]): layer["calls"] for layer in told["layers"]}
        counts.append(layers | {stage: part["calls"] for stage, part in told["stages"].items()})
    assert counts[0] == counts[1] == counts[2]
    assert counts[0]["decode"] > 0


def test_discard_starts_over(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=3)
        session.discard()
        assert len(session.stats.records) == 0
        run(model, session, tokens=3)
    steps = {record.step for record in session.stats.records if record.path == "lm_head"}
    assert steps == {0, 1}


def test_pages_of_one_length_leave_nothing_behind(model: Any) -> None:
    """What was read and priced is kept once for a kind of forward, and what was recorded until it is discarded."""
    ours, held = tracemalloc.Filter(inclusive=True, filename_pattern=f"{Path(hooks.__file__).parent}/*"), []
    with hook(model) as session:
        run(model, session, tokens=6)
        tracemalloc.start()
        for _ in range(4):
            assert session.stats.ranges == len(session.stats.records) > 0
            session.discard()
            run(model, session, tokens=6)
            gc.collect()
            lines = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
            held.append(sum(line.size for line in lines))
        tracemalloc.stop()
    assert held[0] > 0
    assert held[3] - held[1] < 1_000


def test_host_times_nest(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=2)
    spans = {r.event_id: (r.host_start_ns, r.host_end_ns) for r in session.stats.records}
    for record in session.stats.records:
        if record.parent_id is not None:
            start, end = spans[record.parent_id]
            assert start <= record.host_start_ns <= record.host_end_ns <= end
