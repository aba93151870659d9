"""The ladder by hand: every rung from three kernels, gaps from queued work or from the ceilings, nothing clipped."""

import pyarrow as pa
import pytest

from dsocr_nvtx.roofline.ladder import RUNGS, find_gaps, ladder, queued_gap, replayed_gap
from dsocr_nvtx.schema.gauges import LADDER
from dsocr_nvtx.schema.tables import KERNELS, STAGES
from tests.builders.tables import Row, filled

LAUNCHING = {"shortest_kernel_ns": "900", "stream_period_ns": "1900", "replay_period_ns": "1400"}


def kernel(start: int, ns: int, kind: str = "matmul", rule: str = "nvjet", **more: object) -> Row:
    """Return a kernel of the decode stage that owned all of its time."""
    return {
        "start_ns": start, "end_ns": start + ns, "busy_owned_ns": ns, "class": kind, "rule": rule, "stage": "decode",
        "launch_ns": start - 100, "event_id": 1, **more,
    }  # fmt: skip


# Two steps' kernels: a product of 10 us, a copy of 4 us, a pointwise kernel of 3 us, a reduction of 2 us.
THREE = [
    kernel(0, 10_000),
    kernel(20_000, 4_000, "data_movement", "copy"),
    kernel(40_000, 3_000, "norm_activation", "elementwise"),
    kernel(60_000, 2_000, "norm_activation", "reduce"),
]
STAGE: Row = {
    "stage": "decode", "device": 0, "steps": 2, "tokens": 4, "wall_ns": 100_000, "busy_owned_ns": 19_000,
    "roofline_ns": 5_000, "bound": "host",
}  # fmt: skip


def climbed(kernels: list[Row], launching: dict[str, str] | None, **stage: object) -> dict[str, dict[str, object]]:
    """Return the rungs of one stage by name."""
    table = ladder(filled(KERNELS, kernels), filled(STAGES, [{**STAGE, **stage}]), launching)
    assert table.schema.names == LADDER.names
    return {row["rung"]: row for row in table.to_pylist()}


def test_every_rung_by_hand() -> None:
    found = climbed(THREE, LAUNCHING)
    # Gaps: a stream's 1900 - 900 = 1000 ns, a graph's 1400 - 900 = 500 ns; four operations, two of them tax.
    assert {name: row["total_ns"] for name, row in found.items()} == {
        "now": 100_000, "no_stall": 19_000 + 4_000, "graph": 19_000 + 2_000, "fused": 12_000 + 1_000, "roof": 5_000,
    }  # fmt: skip
    assert tuple(found) == RUNGS
    assert found["graph"]["step_ns"] == 10_500
    assert found["graph"]["token_ns"] == 5_250
    assert found["graph"]["speedup"] == pytest.approx(100 / 21)
    assert [found[name]["operations"] for name in RUNGS] == [4, 4, 4, 2, 0]
    assert (found["graph"]["low_ns"], found["graph"]["high_ns"]) == (19_000 + 1_600, 19_000 + 2_400)


def test_without_any_gap_the_rungs_say_so() -> None:
    found = climbed(THREE, None)
    assert found["graph"]["total_ns"] == 19_000
    assert found["graph"]["gap_ns"] is None
    assert "no gaps, as none is known" in str(found["graph"]["assumes"])


def queued(count: int, gap: int, lead: int = 50_000) -> list[Row]:
    """Return operations launched well before the one ahead of them ended."""
    return [kernel(i * (1000 + gap), 1000, launch_ns=i * (1000 + gap) - lead) for i in range(count)]


def test_the_capture_gives_a_streams_gap_where_enough_was_queued() -> None:
    gap = queued_gap(filled(KERNELS, queued(30, 700)))
    assert gap is not None
    assert (gap.low, gap.likely, gap.high) == (700, 700, 700)
    assert queued_gap(filled(KERNELS, queued(15, 700))) is None
    assert queued_gap(filled(KERNELS, queued(30, 700, lead=100))) is None, "the host was hardly ahead"
    apart = [{**row, "stream": i} for i, row in enumerate(queued(30, 700))]
    assert queued_gap(filled(KERNELS, apart)) is None, "streams do not wait for each other"
    assert queued_gap(filled(KERNELS, [])) is None


def test_order_of_rows_means_nothing() -> None:
    rows = queued(30, 700)
    assert queued_gap(filled(KERNELS, rows[::-1])) == queued_gap(filled(KERNELS, rows))


def test_a_graphs_gap_that_nobody_measured_lies_between_none_and_the_streams() -> None:
    gaps = find_gaps(filled(KERNELS, queued(30, 700)), {})
    assert gaps.stream is not None
    assert gaps.replay is not None
    assert (gaps.replay.low, gaps.replay.likely, gaps.replay.high) == (0, 350, 700)
    assert gaps.replay.source.startswith("not measured: half a stream's, 350 ns, ")


def test_a_graphs_gap_is_not_that_of_kernels_that_do_nothing() -> None:
    """Of 896 ns in 914 they leave 18 ns of gap; kernels that work leave 300."""
    empty = {"shortest_kernel_ns": "896", "stream_period_ns": "1801", "replay_period_ns": "914"}
    gap = find_gaps(filled(KERNELS, THREE), empty).replay
    assert gap is not None
    assert (gap.low, gap.likely, gap.high) == (18, 300, 460)
    assert "replays of a decode step" in gap.source
    slow = find_gaps(filled(KERNELS, THREE), {**empty, "replay_period_ns": "1896"}).replay
    assert slow is not None
    assert (slow.low, slow.likely, slow.high) == (800, 1000, 1200)


def test_replays_of_the_capture_itself_tell_a_graphs_gap() -> None:
    replays = [
        {**kernel(replay * 100_000 + i * 1400, 1000), "graph_node_id": i, "correlation_id": replay}
        for replay in (1, 2)
        for i in range(15)
    ]
    gap = replayed_gap(filled(KERNELS, replays))
    assert gap is not None
    assert (gap.low, gap.likely, gap.high) == (400, 400, 400)  # not what lies between one replay and the next
    assert find_gaps(filled(KERNELS, replays), LAUNCHING).replay == gap
    assert replayed_gap(filled(KERNELS, replays[:20])) is None, "19 are too few"


def test_intervals_say_what_they_assume() -> None:
    found = climbed(THREE, LAUNCHING)
    for rung in ("no_stall", "graph", "fused"):
        assert "low and high: 20 % less and more, which is assumed" in str(found[rung]["assumes"])


def test_the_metadata_of_stages_carries_what_the_ceilings_measured() -> None:
    stages = filled(STAGES, [STAGE])
    stages = stages.replace_schema_metadata({**(stages.schema.metadata or {}), **LAUNCHING})
    rows = {row["rung"]: row for row in ladder(filled(KERNELS, THREE), stages).to_pylist()}
    assert rows["graph"]["gap_ns"] == 500


def test_a_rung_that_brings_nothing_is_not_clipped() -> None:
    found = climbed(THREE, LAUNCHING, wall_ns=19_000, roofline_ns=50_000)
    assert found["no_stall"]["total_ns"] > found["now"]["total_ns"]  # type: ignore[operator]
    assert found["roof"]["total_ns"] == 50_000


def test_stages_processes_and_devices_keep_their_own_operations() -> None:
    others = [
        kernel(0, 7, stage="prefill"), kernel(0, 7, pid=2), kernel(0, 7, device=1), kernel(0, 7, stage=None),
    ]  # fmt: skip
    assert climbed([*THREE, *others], LAUNCHING)["graph"]["operations"] == 4


def test_a_stage_without_work_has_a_ladder_of_zeros() -> None:
    found = climbed([], None, wall_ns=0, busy_owned_ns=0, roofline_ns=0, steps=0, tokens=0)
    assert {row["total_ns"] for row in found.values()} == {0}
    assert found["now"]["step_ns"] is found["now"]["token_ns"] is found["now"]["speedup"] is None


def test_the_table_says_its_rule_and_sources() -> None:
    table = ladder(filled(KERNELS, THREE), filled(STAGES, [STAGE]), LAUNCHING)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about["tax"].startswith("tax kernels: class data_movement")
    assert "ceilings" in about["replay_gap"]
    assert isinstance(table, pa.Table)


def test_a_stage_that_is_replayed_has_no_rungs_of_launching() -> None:
    kernels = filled(KERNELS, [{**row, "graph_node_id": 7} for row in THREE])
    table = ladder(kernels, filled(STAGES, [STAGE]), LAUNCHING)
    assert table["rung"].to_pylist() == ["now", "fused", "roof"]
