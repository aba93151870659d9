"""Roofline rows and stages by hand; then sums: rows add up to stages, stages to the ranges they came from."""

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.classes import is_fusible
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.roofline.own import own_costs
from dsocr_nvtx.roofline.points import Roofline, ratio, roofline
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import KERNELS, MEASURED, ROOFLINE, STAGES
from tests.builders.tables import Row, filled
from tests.join import slow
from tests.join.test_join_engine import traces
from tests.join.test_join_nesting import column
from tests.roofline.test_roofline_least import ROUND

ADDED = (
    "calls", *COST_FIELDS, "launches", "kernel_ns", "busy_owned_ns", "idle_owned_ns", "idle_launch_ns", "idle_sync_ns",
    "idle_memory_ns", "idle_host_ns", "wall_ns", "tax_ns", "host_ns",
)  # fmt: skip


def timed(event: int, busy: int, idle: int = 0, **more: object) -> Row:
    """Return a MEASURED row that owned so much busy and idle time."""
    times = {
        "busy_owned_ns": busy,
        "kernel_ns": busy,
        "idle_owned_ns": idle,
        "idle_host_ns": idle,
        "wall_ns": busy + idle,
    }
    return {"event_id": event, "device": 0, "launches": 1, **times, **more}


def points(rows: list[Row], kernels: list[Row] | None = None, roofs: Ceilings = ROUND) -> Roofline:
    """Return roofline tables."""
    return roofline(filled(KERNELS, kernels or []), filled(MEASURED, rows), roofs)


def test_a_step_and_what_is_done_between_calls_are_no_calls() -> None:
    # Such ranges are there where a tool listened; without one their work is the container's, in the same row.
    container = {"kind": "rest", "layer": 3}
    calls = [timed(0, 80, 5, path="decoder.3", **container), timed(1, 30, 5, path="decoder.3", **container)]
    between = [timed(2, 10, 5, path="decoder.3.rest", **container), timed(3, 20, 5, path="decoder.3.rest", **container)]
    (row,) = points(calls + between).rows.to_pylist()
    step = [timed(4, 7, 0, path="sampling", kind="rest"), timed(5, 3, 0, path="decode", kind="rest")]
    (stage,) = points([*calls, *between, *step]).stages.to_pylist()
    assert (row["calls"], row["busy_owned_ns"], stage["calls"], stage["busy_owned_ns"]) == (2, 140, 2, 150)


def test_a_row_by_hand() -> None:
    # Two calls of one MLP. FLOPs 60 000 + 30 000 at 1000 a ns: least 60 and 30 ns. Bytes 40 + 40 at 1 a ns: 40 and 40.
    rows: list[Row] = [
        timed(0, 80, 5, layer=3, tensor_flops=60_000, weight_bytes=40, vector_flops=80, host_ns=300),
        timed(1, 100, 15, layer=3, tensor_flops=30_000, weight_bytes=40, host_ns=500),
    ]
    found = points(rows)
    (row,) = found.rows.to_pylist()
    assert (row["stage"], row["module"], row["kind"], row["layer"], row["pid"], row["device"], row["rank"]) == (
        "decode", "decoder", "mlp", 3, 1, 0, 0,
    )  # fmt: skip
    assert (row["calls"], row["launches"], row["tensor_flops"], row["weight_bytes"], row["host_ns"]) == (
        2,
        2,
        90_000,
        80,
        800,
    )
    assert (row["busy_owned_ns"], row["idle_owned_ns"], row["wall_ns"]) == (180, 20, 200)
    assert row["roofline_ns"] == 100  # call by call: max(60, 40) + max(30, 40); of the sums it would be 90
    assert row["efficiency"] == pytest.approx(100 / 180)
    assert row["lost_ns"] == 100  # 200 - 100
    assert row["achieved_tflops"] == pytest.approx(0.5)  # 90 000 FLOP / 180 ns = 500 GFLOP/s
    assert row["achieved_gbps"] == pytest.approx(80 / 180)
    assert row["intensity"] == pytest.approx(1126)  # (90 000 + 80) FLOP / 80 B
    assert row["bound"] == "inefficient"  # 100 of 180 busy: under 60 %


def test_a_stage_by_hand() -> None:
    # Two decode steps of one token: each one MLP and one lm_head, and the model call that says how many tokens.
    model: Row = {"path": "model", "module": "model", "kind": "rest", "level": "stage", "batch": 2}
    head: Row = {"path": "lm_head", "module": "lm_head", "kind": "lm_head", "tensor_flops": 30_000, "weight_bytes": 10}
    mlp: Row = {"tensor_flops": 50_000, "weight_bytes": 40, "kv_read_bytes": 30}
    rows = []
    for step in (0, 1):
        inside: Row = {"step": step, "parent_id": 10 * step}
        rows.append(timed(10 * step, 0, 10, **{**model, "step": step}))
        rows.append(timed(10 * step + 1, 70, 0, **{**mlp, **inside}))
        rows.append(timed(10 * step + 2, 20, 0, **{**head, **inside}))
    found = points(rows)
    (stage,) = found.stages.to_pylist()
    assert (stage["stage"], stage["steps"], stage["calls"], stage["tokens"]) == ("decode", 2, 6, 4)  # 2 steps x batch 2
    assert stage["tensor_flops"] == 160_000  # (50 000 + 30 000) x 2
    assert (stage["busy_owned_ns"], stage["idle_owned_ns"], stage["wall_ns"]) == (180, 20, 200)
    assert stage["roofline_ns"] == 200  # a step: MLP max(50, 70) + lm_head max(30, 10) = 100
    assert stage["mfu"] == pytest.approx(0.8)  # 160 000 / 1000 = 160 of 200 ns
    assert stage["mbu"] == pytest.approx(0.8)  # (40 + 30 + 10) x 2 = 160 B at 1 B/ns, of 200 ns
    assert stage["lost_ns"] == 0
    assert found.level == "op"


def test_mfu_and_mbu_are_stated_against_the_datasheet_whatever_roofs_were_measured() -> None:
    sheet = DATASHEET["NVIDIA H200"]
    measured = evolve(sheet, tensor={"bfloat16": sheet.tensor["bfloat16"] // 2}, bandwidth=sheet.bandwidth // 2)
    rows: list[Row] = [timed(0, 1000, tensor_flops=989_500_000, weight_bytes=4_800_000)]
    (one,), (two,) = (points(rows, roofs=roofs).stages.to_pylist() for roofs in (sheet, measured))
    # 989.5 MFLOP take 1 us at 989.5 TFLOP/s, 4.8 MB 1 us at 4.8 TB/s; the wall is 1 us.
    assert one["mfu"] == two["mfu"] == pytest.approx(1.0)
    assert one["mbu"] == two["mbu"] == pytest.approx(1.0)
    assert two["roofline_ns"] == 2 * one["roofline_ns"] == 2000


@pytest.mark.parametrize(
    ("times", "cost", "bound"),
    [
        ((100, 101), {"tensor_flops": 100_000}, "host"),
        ((100, 50), {"tensor_flops": 60_000}, "compute"),
        ((100, 50), {"vector_flops": 600}, "compute"),
        ((100, 50), {"weight_bytes": 60}, "memory"),
        ((100, 62), {"kv_read_bytes": 39}, "host"),
        ((100, 50), {"kv_read_bytes": 41}, "inefficient"),  # 59 of 100 are lost
        ((100, 0), {}, "inefficient"),
        ((0, 0), {"weight_bytes": 60}, None),
    ],
)
def test_all_bounds_on_rows_and_stages(times: tuple[int, int], cost: dict[str, int], bound: str | None) -> None:
    found = points([timed(0, *times, **cost)])
    assert found.rows["bound"].to_pylist() == found.stages["bound"].to_pylist() == [bound]


def test_what_is_not_known_is_null_not_zero() -> None:
    (row,) = points([timed(0, 0, 0, device=None)]).rows.to_pylist()
    for name in ("achieved_tflops", "achieved_gbps", "intensity", "efficiency", "bound", "layer", "device"):
        assert row[name] is None, name
    assert ratio(column([1, 1, 0]), column([2, 0, 4])).to_pylist() == [0.5, None, 0.0]


def test_a_row_above_its_roof_is_not_clipped() -> None:
    (row,) = points([timed(0, 50, tensor_flops=100_000)]).rows.to_pylist()
    assert (row["efficiency"], row["lost_ns"], row["bound"]) == (2.0, -50, "compute")


def test_rows_are_in_order_of_loss_and_stages_in_order_of_the_run() -> None:
    stages = ["unknown", "decode", "vision", "prefill"]
    rows = [timed(event, 10 * event + 10, stage=stage, tensor_flops=1000) for event, stage in enumerate(stages)]
    found = points(rows)
    assert found.rows["lost_ns"].to_pylist() == [39, 29, 19, 9]  # 40 - 1, 30 - 1, 20 - 1, 10 - 1
    assert found.stages["stage"].to_pylist() == ["vision", "prefill", "decode", "unknown"]


def test_rows_are_kept_apart_by_place_and_put_together_over_steps() -> None:
    differing: list[dict[str, object]] = [
        {}, {"layer": 0}, {"layer": 1}, {"kind": "gate"}, {"module": "sam"}, {"stage": "prefill"}, {"device": 1},
        {"pid": 2},
    ]  # fmt: skip
    twice = [{**row, "step": step} for row in differing for step in (0, 1)]
    rows = [timed(event, 10, 0, **row) for event, row in enumerate(twice)]
    found = points(rows)
    assert sorted(found.rows["calls"].to_pylist()) == [2] * len(differing)
    assert len(found.stages) == 4  # decode and prefill, another device's decode, another process's


def test_the_union_of_a_row_counts_overlap_once() -> None:
    # Two calls of one row: 0..100 and 50..120, so busy 120 of a plain sum 170; another row's kernels are not its.
    rows = [timed(0, 100), timed(1, 20), timed(2, 5, kind="gate")]
    kernels: list[Row] = [
        {"event_id": 0, "start_ns": 0, "end_ns": 100},
        {"event_id": 1, "start_ns": 50, "end_ns": 120},
        {"event_id": 2, "start_ns": 10, "end_ns": 15},
        {"event_id": None, "start_ns": 0, "end_ns": 10**6},
    ]
    found = points(rows, kernels)
    assert {row["kind"]: row["busy_ns"] for row in found.rows.to_pylist()} == {"mlp": 120, "gate": 5}
    assert found.stages["busy_ns"].to_pylist() == [120]


def test_tokens_are_those_of_whole_calls_and_of_the_projector_where_there_is_none() -> None:
    rows = [
        timed(0, 1, stage="vision", path="image_features", module="model", batch=1, tokens=903),
        timed(1, 1, stage="vision", path="projector", module="projector", batch=7, tokens=256),
        timed(2, 1, stage="prefill", path="projector", module="projector", batch=7, tokens=100),
        timed(3, 1, stage="prefill", path="decoder.0", tokens=913),
        timed(4, 1, stage="decode", path="model", module="model", tokens=1),
        # Captured into a graph, it decoded nothing.
        timed(5, 0, stage="decode", path="model", module="model", tokens=1, origin="captured"),
    ]
    found = points(rows).stages
    assert dict(zip(found["stage"].to_pylist(), found["tokens"].to_pylist(), strict=True)) == {
        "vision": 903,
        "prefill": 700,
        "decode": 1,
    }


@pytest.mark.parametrize(
    ("levels", "finest"),
    [(["stage"], "stage"), (["op", "stage"], "op"), (["stage", "layer"], "layer"), ([], "stage")],
)
def test_the_finest_level_is_stated(levels: list[str], finest: str) -> None:
    found = points([timed(event, 1, level=level) for event, level in enumerate(levels)])
    assert found.level == finest
    assert found.rows.schema.metadata[b"level"] == finest.encode()


def test_tables_state_roofs_threshold_and_provenance() -> None:
    found = roofline(filled(KERNELS, []), filled(MEASURED, [timed(0, 1)]), ROUND, {"tool": "nsys 2025"}, rank=3)
    for table, schema in ((found.rows, ROOFLINE), (found.stages, STAGES)):
        assert table.schema.equals(schema)
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert about["tool"] == "nsys 2025"
        assert about["roofs"] == "round: by hand"
        assert about["bound_threshold"] == "0.6"
        assert about["schema_version"]
        assert table["rank"].to_pylist() == [3]
    assert found.stages.schema.metadata[b"peak_source"] == b"by hand"


def test_no_ranges_make_no_rows() -> None:
    found = points([])
    assert (len(found.rows), len(found.stages)) == (0, 0)


def total(table: pa.Table, name: str, stage: str | None = None) -> int:
    """Return the sum of a column, of one stage where one is named."""
    return sum(row[name] for row in table.to_pylist() if stage in (None, row["stage"]))


@given(traces(), st.lists(st.sampled_from(["vision", "prefill", "decode"]), min_size=40, max_size=40))
def test_rows_add_up_to_stages_and_stages_to_ranges(found: Trace, stages: list[str]) -> None:
    joined = join(found, "drawn")
    table = joined.ranges.to_pylist()
    drawn = filled(MEASURED, [{**row, "stage": stages[i % 40], "parent_id": None} for i, row in enumerate(table)])
    result = roofline(joined.kernels, drawn, ROUND)
    own = own_costs(drawn)
    taxes = sum(
        k["busy_owned_ns"]
        for k in joined.kernels.to_pylist()
        if k["event_id"] is not None and is_fusible(k["class"], k["rule"])
    )
    for name in ADDED:
        if name == "tax_ns":
            assert total(result.rows, name) == total(result.stages, name) == taxes
            continue
        expected = (
            sum(row["origin"] != "elsewhere" for row in table)
            if name == "calls"
            else int(own[name].sum())
            if name in own
            else total(joined.ranges, name)
        )
        assert total(result.rows, name) == total(result.stages, name) == expected, name
        for stage in set(stages):
            assert total(result.rows, name, stage) == total(result.stages, name, stage), name
    for one in (result.rows, result.stages):
        for row in one.to_pylist():
            assert row["wall_ns"] == row["busy_owned_ns"] + row["idle_owned_ns"]
            assert row["lost_ns"] == row["wall_ns"] - row["roofline_ns"]
            assert row["busy_owned_ns"] <= row["kernel_ns"]
            assert row["busy_ns"] <= row["kernel_ns"]
    spans = [(k["start_ns"], k["end_ns"]) for k in joined.kernels.to_pylist() if k["event_id"] is not None]
    if len(result.rows) == 1:
        assert result.rows["busy_ns"].to_pylist() == [slow.union(spans)]
