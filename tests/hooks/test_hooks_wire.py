"""The wire: payloads and announcements tell the same, whichever of them a report keeps, from wherever it begins."""

from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.sidecar import check_run
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.payload import FIELD_INDEX, WIRE
from tests.builders.emitters import Listener
from tests.builders.nsys import NsysFile
from tests.hooks.networks import network, run


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(scope="module")
def heard(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Listener, Path]:
    """A run of 40 tokens, heard by a tool, and its run directory."""
    directory = tmp_path_factory.mktemp("run")
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=40)
    session.write(directory)
    return listener, directory


def _joined(file: NsysFile, path: Path) -> Joined:
    return join(read(file.write(path)), path.name)


def test_a_default_export_joins_to_the_same_tables(heard: tuple[Listener, Path], tmp_path: Path) -> None:
    listener, directory = heard
    whole = _joined(listener.as_nsys(), tmp_path / "whole.sqlite")
    bare = _joined(listener.as_nsys(payloads=False), tmp_path / "bare.sqlite")
    silent = _joined(listener.as_nsys(announcements=False), tmp_path / "silent.sqlite")
    assert whole.accounting.cost_sources["binary"] == bare.accounting.cost_sources["announcement"] == len(whole.ranges)
    for other in (bare, silent):
        assert other.ranges.equals(whole.ranges)
        assert other.kernels.equals(whole.kernels)
    assert check_run(bare.ranges, read_table(directory / "ranges.arrow"), "run") == check_run(
        whole.ranges, read_table(directory / "ranges.arrow"), "run"
    )


def test_costs_are_announced_again_for_a_capture_that_begins_late(heard: tuple[Listener, Path], tmp_path: Path) -> None:
    """Everything is announced again every 32 steps: a capture that begins before that learns every cost."""
    listener, _ = heard
    steps = [pushed for pushed in listener.ranges if pushed.path == "decode"]
    late = Listener(
        ranges=[p for p in listener.ranges if p.start >= steps[20].start],
        marks=[(time, text) for time, text in listener.marks if time >= steps[20].start],
    )
    bare = _joined(late.as_nsys(payloads=False), tmp_path / "late.sqlite")
    kept = bare.ranges.filter([step >= 31 for step in bare.ranges["step"].to_pylist()])
    whole = _joined(listener.as_nsys(), tmp_path / "whole.sqlite").ranges
    assert bare.accounting.cost_sources["none"] > 0
    rest = whole.filter([step >= 31 and stage == "decode" for step, stage in zip(*_columns(whole), strict=True)])
    assert kept.to_pylist() == rest.to_pylist()


def _columns(table: Any) -> tuple[list[int], list[str]]:
    return table["step"].to_pylist(), table["stage"].to_pylist()


def test_a_learned_step_announces_only_its_own_ranges(model: Any) -> None:
    """What the first decode step announced says how it grows with the cache, so a later one tells only its length."""
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=6)
    starts = [pushed.start for pushed in listener.ranges if pushed.path == "decode"]
    step = [WIRE.parse(text)[0] for time, text in listener.marks if starts[2] - 10 <= time < starts[3] - 10]  # type: ignore[index]
    assert step == ["decode", "model"]
    layers = range(len(model.model.language_model.layers))
    first = [text for time, text in listener.marks if starts[0] - 10 <= time < starts[1] - 10]
    grow = [told[0] for text in first if (told := WIRE.parse_growth(text)) is not None]
    assert len(grow) == len(set(grow))
    assert set(grow) == {f"decoder.{i}{part}" for i in layers for part in ("", ".attention")}


def _path(text: str) -> str:
    found = WIRE.parse(text) or WIRE.parse_growth(text)
    assert found is not None
    return found[0]


def test_a_capture_start_announces_everything(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session)
        before = len(listener.marks)
        session.announce_all()
        run(model, session)
    first = {_path(text) for _, text in listener.marks[:before]}
    again = {_path(text) for _, text in listener.marks[before:]}
    assert first == again == {pushed.path for pushed in listener.ranges}


@pytest.mark.parametrize("level", ["stage", "layer", "op"])
def test_a_report_is_as_fine_as_its_hooks_were(model: Any, level: str, tmp_path: Path) -> None:
    with hook(model, level=level, emitter=(listener := Listener())) as session:
        run(model, session)
    joined = _joined(listener.as_nsys(), tmp_path / "report.sqlite")
    found = roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200"))
    assert found.level == level


def test_event_ids_count_on_without_gaps(heard: tuple[Listener, Path]) -> None:
    listener, _ = heard
    ids = [pushed.values[FIELD_INDEX["event_id"]] for pushed in listener.ranges]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_payloads_say_where_and_how_large(heard: tuple[Listener, Path], model: Any) -> None:
    listener, _ = heard
    prompt = next(p for p in listener.ranges if p.path == "model" and p.stage == "prefill")
    length = prompt.values[FIELD_INDEX["rows"]]
    assert prompt.values[FIELD_INDEX["keys"]] == length
    decode = [p for p in listener.ranges if p.path == "decoder.2.attention" and p.stage == "decode"]
    assert [p.values[FIELD_INDEX["keys"]] for p in decode] == [length + 1 + step for step in range(39)]
    assert {p.values[FIELD_INDEX["layer"]] for p in decode} == {2}
    steps = [p.values[FIELD_INDEX["step"]] for p in listener.ranges if p.path == "lm_head" and p.stage == "decode"]
    assert steps == list(range(39))
    assert len([p for p in listener.ranges if p.path == "decoder.0" and p.stage == "decode"]) == 39
