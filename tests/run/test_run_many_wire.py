"""Many pages on the wire: a report of a whole queue joins to the costs that the run recorded, payloads or not."""

from pathlib import Path

import pytest
from attrs import evolve
from tests.builders.emitters import Listener
from tests.run.test_run_many import break_batch

from dsocr_nvtx.hooks import attach
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.join.sidecar import check_run
from dsocr_nvtx.run.capture import RunOptions, capture
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.records import COST_FIELDS

TINY = RunOptions(device="cpu", config="tiny", mode="gundam", max_new_tokens=12, batch=2, level="layer")


@pytest.mark.parametrize("broken", [False, True])
def test_a_queue_joins_to_what_the_run_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    listener = Listener()
    if broken:
        break_batch(monkeypatch, 2, RuntimeError("inside the model"))
    monkeypatch.setattr(attach, "nvtx_emitter", lambda _native: listener)
    pages = []
    for number, size in enumerate([(300, 400), (900, 400), (300, 400), (300, 400), (900, 400), (300, 400)]):
        draw_page(*size, number).save(tmp_path / f"p{number}.png")
        pages.append(str(tmp_path / f"p{number}.png"))
    out = capture(evolve(TINY, pages=(*pages, str(tmp_path / "missing.png")), out=tmp_path / "run"))
    recorded = read_table(out / "ranges.arrow")
    priced = sum(any(row[name] for name in COST_FIELDS) for row in recorded.select(list(COST_FIELDS)).to_pylist())
    assert listener.stack == []
    told = {(row["stage"], row["step"]) for row in recorded.select(["stage", "step"]).to_pylist()}
    # Costs are announced again after 32 steps, and not only where a shape is new.
    assert told == {("vision", n) for n in range(3)} | {("prefill", n) for n in range(3)} | {
        ("decode", n) for n in range(22 if broken else 33)
    }  # fmt: skip
    for payloads in (True, False):
        report = listener.as_nsys(payloads=payloads).write(tmp_path / f"{payloads}.sqlite")
        joined = join(read(report), "report")
        assert joined.accounting.cost_sources["binary" if payloads else "announcement"] == len(joined.ranges)
        assert check_run(joined.ranges, recorded, "run") == priced
        assert joined.accounting.buckets["attributed"].operations == joined.accounting.operations
        assert {(row["stage"], row["step"]) for row in joined.ranges.select(["stage", "step"]).to_pylist()} == told
