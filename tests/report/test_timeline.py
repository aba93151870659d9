"""Steps drawn as strips: what is idle and why is what the tables say, to the nanosecond, and is drawn to scale."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.cli.join import join_report
from dsocr_nvtx.report.opened import Opened, open_joined
from dsocr_nvtx.report.page import review_page
from dsocr_nvtx.report.timeline import COLUMNS, Timeline, timelines
from dsocr_nvtx.roofline.evidence import stage_steps
from dsocr_nvtx.roofline.strip import Strip, step_strip
from tests.builders.nsys import NsysFile
from tests.builders.runs import reseal
from tests.builders.tables import payload_v1 as payload

CAUSES = ("launch", "sync", "memory", "host", "queued")


@pytest.fixture(scope="module")
def opened(demo_out: Path) -> Opened:
    return open_joined(demo_out)


def strips(opened: Opened, most: int = 8) -> list[Strip]:
    """Return some steps of each stage."""
    api = opened.beside("api_calls")
    assert api is not None
    found = []
    for stage in opened.roofline.stages.to_pylist():
        steps = stage_steps(opened.ranges, stage).step[:: max(1, stage["steps"] // most)]
        found += [step_strip(stage, int(step), opened.kernels, opened.ranges, api) for step in steps]
    return [one for one in found if one is not None]


def owned(opened: Opened, strip: Strip, name: str) -> int:
    """Return what the calls of a step own by the table."""
    table = opened.ranges
    mine = np.array(table["stage"].to_pylist()) == strip.stage
    mine &= np.array(table["step"].to_pylist()) == strip.step
    return int(sum(table[name].filter(pa.array(mine)).to_pylist()))


def test_a_step_is_busy_and_idle_as_its_calls_say_and_nothing_overlaps(opened: Opened) -> None:
    found = strips(opened)
    assert len(found) >= 10
    for strip in found:
        length = strip.idle.end - strip.idle.start
        for cause in CAUSES:
            told = int(length[strip.idle.code == strip.idle.words.index(cause)].sum())
            assert told == owned(opened, strip, f"idle_{cause}_ns"), (strip.stage, strip.step, cause)
        start = np.concatenate([strip.busy.start, strip.idle.start])
        end = np.concatenate([strip.busy.end, strip.idle.end])
        order = np.argsort(start)
        assert (start[order][1:] == end[order][:-1]).all()
        assert (start.min(), end.max()) == (strip.start, strip.end)


def drawn(opened: Opened) -> list[Timeline]:
    api = opened.beside("api_calls")
    assert api is not None
    stages = opened.roofline.stages.to_pylist()
    return timelines(stages, opened.kernels, opened.ranges, api, [stage["stage"] for stage in stages])


def test_the_middle_and_the_slowest_step_are_drawn_and_the_longest_stall_is_labelled(opened: Opened) -> None:
    found = drawn(opened)
    assert [one.name for one in found] == [
        "vision, step 0, the only one",
        "prefill, step 0, the only one",
        "decode, step 15, the middle one of 32",
        "decode, step 13, the slowest of 32",
    ]
    (wait,) = found[-1].waits
    longest = max(opened.accounting.stalls, key=lambda one: one.ns)
    assert wait.text == f"{longest.ns / 1e6:.2f} ms, host code, in decoder.0.attention"
    (layer,) = [box for box in found[-1].layers if box.text == "decoder.0"]
    assert layer.left < wait.left < wait.left + wait.width < layer.left + layer.width


def heights(path: str) -> list[float]:
    """Return the height of each column of an outline, as a share."""
    found: list[float] = []
    level = 100
    for at, top in re.findall(r"H(\d+)(?:V(\d+))?", path):
        found += [1 - level / 100] * (int(at) - len(found))
        level = int(top or level)
    return found


def test_areas_are_to_scale(opened: Opened) -> None:
    """The topmost area reaches the top everywhere, and the busy ones cover the busy share, rounded by column."""
    for strip, one in zip([s for s in strips(opened) if s.stage != "decode"], drawn(opened), strict=False):
        assert heights(one.gpu[0].path) == [1.0] * COLUMNS
        busy = (strip.busy.end - strip.busy.start).sum() / (strip.end - strip.start)
        (area,) = [area for area in one.gpu if area.part == "tax"]
        assert np.mean(heights(area.path)) == pytest.approx(busy, abs=0.003)


def test_a_join_of_an_earlier_version_says_why_it_has_no_strips(demo_out: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(demo_out, older)
    (older / "api_calls.arrow").unlink()
    reseal(older)
    page = review_page(open_joined(older))
    assert "Not recorded call by call when this was joined: join the report again." in page


def tiny(path: Path, busy: Sequence[int]) -> Path:
    """Write a report of one decode step of a layer: kernels of so many ns, launched 100 ns after one another."""
    file = NsysFile()
    file.device(pids=[7])
    file.domain(7)
    file.schema()
    values = payload(event_id=0, step=0, stage=2, kind=4, level=2, layer=0, tensor_flops=10**6, weight_bytes=10**4)
    file.push_pop("decoder.0.mlp", 100, 100 + 100 * len(busy), pid=7, values=values)
    for at, ns in enumerate(busy):
        file.launch("gemm", 100 + 100 * at, 110 + 100 * at, 110 + 100 * at + ns, pid=7)
    return file.write(path)


@pytest.mark.parametrize("busy", [[50], [50, 150, 20], [0, 0], [1000]])
def test_steps_of_any_shape_are_whole(tmp_path: Path, busy: list[int]) -> None:
    """A kernel that outlasts its call, kernels that overlap, and kernels of no length."""
    join_report(tiny(tmp_path / "r.sqlite", busy), run=None, out=None, hardware=None, ceilings=None, force=False)
    opened = open_joined(tmp_path / "r.dsocr")
    (strip,) = strips(opened)
    total = sum(int((one.end - one.start).sum()) for one in (strip.busy, strip.idle))
    assert total == strip.end - strip.start
    assert drawn(opened)[0].gpu


GRAPH = Path(__file__).parents[1] / "data" / "h200-cupti-graph"


def test_steps_of_a_replayed_graph_begin_when_the_one_before_has_ended(tmp_path: Path) -> None:
    """The host launches a step while the GPU works on others: those are in no other step's strip."""
    join_report(GRAPH, run=None, out=tmp_path / "out", hardware="NVIDIA H200", ceilings=None, force=False)
    opened = open_joined(tmp_path / "out")
    for strip in [one for one in strips(opened) if one.stage == "decode"]:
        assert (strip.busy.end - strip.busy.start).sum() == owned(opened, strip, "busy_owned_ns")
        length = strip.idle.end - strip.idle.start
        told = {word: int(length[strip.idle.code == code].sum()) for code, word in enumerate(strip.idle.words)}
        if strip.step:
            # Between replayed operations: for no host call, whatever the host, which is ahead, does meanwhile.
            assert told["queued"] + told["none"] == sum(told.values()) > 0
        assert len(strip.layers.start) > 12, "replayed layers lie over their operations"
