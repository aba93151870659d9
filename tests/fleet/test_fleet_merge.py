"""Merged rows against a slow, obvious version; the parts of a slow rank against hand arithmetic."""

import statistics
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.fleet.merge import ROW_KEYS, merged_roofline, merged_stages
from dsocr_nvtx.fleet.recorded import RecordedRun
from dsocr_nvtx.fleet.spread import fleet_ranks
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.tables import ROOFLINE, STAGES
from tests.builders.tables import filled

CAUSES = {"vision": "none", "decode": "waiting"}
_NUMBERS = ("calls", "tensor_flops", "wall_ns", "busy_owned_ns", "roofline_ns", "lost_ns", "kernel_ns")

rows_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "report": st.sampled_from("abc"),
            "pid": st.integers(1, 2),
            "device": st.integers(0, 1),
            "stage": st.sampled_from(["prefill", "decode"]),
            "module": st.sampled_from(["decoder", "sam"]),
            "kind": st.sampled_from(["mlp", "rest"]),
            "layer": st.sampled_from([None, 0, 1]),
            "bound": st.sampled_from([None, "host", "memory"]),
            "above_roof": st.sampled_from([None, True, False]),
            **{name: st.integers(0, 10**15) for name in _NUMBERS},
        }
    ),
    min_size=1,
    max_size=25,
)


def table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows of several reports, as partitions read."""
    plain = filled(schema, [{"rank": ord(row["report"]) - 97, **row} for row in rows])
    return plain.append_column("report", pa.array([row["report"] for row in rows]).dictionary_encode())


@given(rows_strategy)
def test_merged_rows_are_the_sums_of_the_ranks(rows: list[dict[str, Any]]) -> None:
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in ROW_KEYS)].append(row)
    merged = merged_roofline(table(ROOFLINE, rows), {}).to_pylist()
    assert {tuple(row[key] for key in ROW_KEYS) for row in merged} == set(groups)
    assert len(merged) == len(groups)
    for row in merged:
        mine = groups[tuple(row[key] for key in ROW_KEYS)]
        assert {name: row[name] for name in _NUMBERS} == {name: sum(one[name] for one in mine) for name in _NUMBERS}
        assert row["above_roof"] == sum(one["above_roof"] is True for one in mine)
        assert row["reports"] == len({one["report"] for one in mine})
        walls: dict[tuple[str, int], int] = defaultdict(int)
        for one in mine:
            walls[one["report"], one["pid"]] += one["wall_ns"]
        ordered = sorted(walls.values())
        assert row["ranks"] == len(ordered)
        found = (row["fastest_wall_ns"], row["median_wall_ns"], row["slowest_wall_ns"])
        assert found == (ordered[0], statistics.median_low(ordered), ordered[-1])
        assert row["behind_ns"] == ordered[-1] - statistics.median_low(ordered)
        assert max(w for (report, _), w in walls.items() if report == row["slowest_report"]) == ordered[-1]
        assert row["slowest_rank"] == ord(row["slowest_report"]) - 97
        if sum(ordered):
            assert row["imbalance"] == pytest.approx(ordered[-1] * len(ordered) / sum(ordered))


def test_utilisation_is_weighted_by_wall_time() -> None:
    rows = [
        {"report": "a", "stage": "decode", "wall_ns": 300, "mfu": 0.1, "mbu": None},
        {"report": "b", "stage": "decode", "wall_ns": 100, "mfu": 0.5, "mbu": 0.25},
        {"report": "a", "stage": "vision", "wall_ns": 50, "mfu": None, "mbu": None},
    ]
    found = merged_stages(table(STAGES, rows), CAUSES, {}).to_pylist()
    assert [(row["stage"], row["slowest_cause"]) for row in found] == [("vision", "none"), ("decode", "waiting")]
    assert (found[1]["mfu"], found[1]["mbu"]) == (pytest.approx(0.2), 0.25)
    assert found[0]["mfu"] is None


def test_the_bound_is_that_of_most_wall_time() -> None:
    rows = [
        {"report": "a", "stage": "decode", "wall_ns": 10, "bound": "host"},
        {"report": "b", "stage": "decode", "wall_ns": 15, "bound": "memory"},
        {"report": "c", "stage": "decode", "wall_ns": 10, "bound": "host"},
    ]
    assert merged_stages(table(STAGES, rows), CAUSES, {})["bound"].to_pylist() == ["host"]
    bare = [{"report": "a", "stage": "decode", "wall_ns": 10, "bound": None}]
    assert merged_stages(table(STAGES, bare), CAUSES, {})["bound"].to_pylist() == [None]


USUAL: dict[str, Any] = {"stage": "decode", "steps": 10, "roofline_ns": 100, "busy_owned_ns": 400, "idle_owned_ns": 600}


def ranks_of(*others: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ranks that are usual, and of others like them but for some figures."""
    rows: list[dict[str, Any]] = [{**USUAL, "report": name} for name in "abcde"]
    rows += [{**USUAL, "report": name, **other} for name, other in zip("xyz", others, strict=False)]
    for row in rows:
        row["wall_ns"] = row["busy_owned_ns"] + row["idle_owned_ns"]
    found = fleet_ranks(table(STAGES, rows), {("x", 1): Rank(rank=5, world_size=9, host="node")}, {}, {})
    return [row for row in found.to_pylist() if row["report"] in "xyz"]


def test_a_rank_with_twice_the_work_is_slow_for_its_work() -> None:
    (row,) = ranks_of({"steps": 20, "roofline_ns": 200, "busy_owned_ns": 800, "idle_owned_ns": 1200})
    assert (row["work_ns"], row["device_ns"], row["waiting_ns"], row["cause"]) == (1000, 0, 0, "work")
    assert (row["slowdown"], row["world_size"], row["host"]) == (2.0, 9, "node")


def test_a_rank_whose_gpu_is_slow_is_slow_for_its_device() -> None:
    (row,) = ranks_of({"busy_owned_ns": 520})
    assert (row["work_ns"], row["device_ns"], row["waiting_ns"], row["cause"]) == (0, 120, 0, "device")
    assert row["rule"].endswith("clocks were not recorded")


def test_a_slow_gpu_whose_clock_is_known_is_held_to_the_others() -> None:
    rows = [{**USUAL, "report": name} for name in "abx"]
    rows[2]["busy_owned_ns"] = 800
    for row in rows:
        row["wall_ns"] = row["busy_owned_ns"] + row["idle_owned_ns"]
    runs = {
        (name, 1): RecordedRun(sm_clock_mhz=mhz, throttle="")
        for name, mhz in zip("abx", (1980.0, 1980.0, 990.0), strict=True)
    }
    slowest = fleet_ranks(table(STAGES, rows), {}, runs, {}).to_pylist()[0]
    assert (slowest["report"], slowest["cause"], slowest["sm_clock_mhz"]) == ("x", "device", 990.0)
    assert slowest["rule"].endswith("its SM clock is 50% of the median")


def test_a_rank_that_waits_is_slow_for_waiting() -> None:
    (row,) = ranks_of({"idle_owned_ns": 900, "busy_owned_ns": 380})
    assert (row["work_ns"], row["device_ns"], row["waiting_ns"], row["cause"]) == (0, -20, 300, "waiting")


def test_a_rank_that_is_hardly_slower_has_no_cause() -> None:
    (row,) = ranks_of({"idle_owned_ns": 650})
    assert (row["waiting_ns"], row["cause"]) == (50, "none")


@given(
    st.lists(
        st.fixed_dictionaries({name: st.integers(0, 10**15) for name in USUAL if name != "stage"}),
        min_size=1,
        max_size=8,
    )
)
def test_the_three_parts_add_up_to_the_nanosecond(ranks: list[dict[str, int]]) -> None:
    rows: list[dict[str, Any]] = [{**one, "stage": "decode", "report": chr(97 + at)} for at, one in enumerate(ranks)]
    for row in rows:
        row["wall_ns"] = row["busy_owned_ns"] + row["idle_owned_ns"]
    for row in fleet_ranks(table(STAGES, rows), {}, {}, {}).to_pylist():
        assert row["work_ns"] + row["device_ns"] + row["waiting_ns"] == row["wall_ns"] - row["usual_wall_ns"]
        is_slow = row["wall_ns"] > 1.05 * row["usual_wall_ns"] or row["busy_owned_ns"] > 1.05 * row["usual_busy_ns"]
        assert (row["cause"] != "none") == is_slow
