"""Marks that say that tensors contradict costs: the range they name and all inside it count as contradicted."""

import json
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.payload import announcement, contradiction_mark
from dsocr_nvtx.schema.records import LayerKind, Level, Stage, code_of
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload
from tests.join.test_engine_replays import graph_file

RANGES = [("decode", 100, 400), ("model", 110, 290), ("decoder.0.mlp", 120, 200), ("lm_head", 300, 390)]
"""A step, a forward with one call in it, and a call after the forward; a kernel in each call."""
FIRST_EVENT = 10


def told(tmp_path: Path, *marks: str, binary: bool) -> Joined:
    """Join a report of version 2, of payloads or of announcements alone, with these marks after the forward."""
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    for place, (path, start, end) in enumerate(RANGES):
        kind = code_of(LayerKind.LM_HEAD if path == "lm_head" else LayerKind.MLP)
        about = {"stage": code_of(Stage.DECODE), "kind": kind, "level": code_of(Level.OP), "tensor_flops": 10}
        values = None if path == "decode" else payload(event_id=FIRST_EVENT + place, **about)
        if values is not None and not binary:
            file.mark(announcement(path, payload(event_id=FIRST_EVENT, **about)), 50)
        file.push_pop(path, start, end, values=values if binary else None, stage="decode")
        file.launch("gemm", start + 2, start + 5, start + 8)
    for place, mark in enumerate(marks):
        file.mark(mark, 295 + place)
    return join(read(file.write(tmp_path / "report.sqlite")), "by hand")


def states(joined: Joined) -> dict[str, str]:
    """Return the state of the cost of each site."""
    return dict(zip(joined.ranges["path"].to_pylist(), joined.ranges["cost_state"].to_pylist(), strict=True))


@pytest.mark.parametrize("binary", [True, False])
def test_a_mark_contradicts_the_costs_of_its_range_and_of_all_inside(tmp_path: Path, binary: bool) -> None:
    marks = (contradiction_mark(FIRST_EVENT + 1, "the cache holds 7 keys,\nnot 9"), contradiction_mark(11, "again"))
    joined = told(tmp_path, *marks, binary=binary)
    assert states(joined) == {
        "decode": "known", "model": "contradicted", "decoder.0.mlp": "contradicted", "lm_head": "known",
    }  # fmt: skip
    assert joined.accounting.contradicted_costs == {"decode": {"model": 1, "decoder.0.mlp": 1}}
    found = roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200"))
    (stage,) = found.stages.to_pylist()
    assert (stage["contradicted_calls"], stage["unknown_calls"], stage["bound"], stage["mbu"]) == (2, 0, "host", None)
    texts = [one.text for one in caveats(found, joined.accounting) if one.is_grave]
    assert "tensors contradict what costs were derived from: the cache holds 7 keys, not 9" in texts


@pytest.mark.parametrize(
    "mark",
    ["dsocr/2! 11", "dsocr/2! 11 ", "dsocr/2! x text", "dsocr/2! -1 text", "dsocr/2! 11 a\x1b[2J", "dsocr/2!11 a"],
)
def test_a_damaged_mark_contradicts_nothing(tmp_path: Path, mark: str) -> None:
    joined = told(tmp_path, mark, binary=True)
    assert set(states(joined).values()) == {"known"}
    assert json.loads(json.dumps(joined.accounting.as_dict()))["contradiction"] == ""


def test_what_contradicts_a_range_that_the_report_lacks_is_told_of_all_the_same(tmp_path: Path) -> None:
    joined = told(tmp_path, contradiction_mark(99, "before the capture"), binary=True)
    assert joined.accounting.contradicted_costs == {}
    assert joined.accounting.contradiction == "before the capture"


def test_what_contradicts_captured_costs_contradicts_every_replay_of_them(tmp_path: Path) -> None:
    """Steps 1 and 2 replay the layer, event 1, and the call inside it; what was captured costs nothing."""
    file = graph_file()
    file.mark(contradiction_mark(1, "seen after the capture"), 95)
    joined = join(read(file.write(tmp_path / "report.sqlite")), "by hand")
    assert joined.accounting.contradicted_costs == {"decode": {"decoder.3": 2, "decoder.3.mlp": 2}}
    rows = joined.ranges.to_pylist()
    assert {(row["origin"], row["cost_state"]) for row in rows if row["path"] != "decode"} == {
        ("captured", "known"), ("replayed", "contradicted"),
    }  # fmt: skip
