"""What is said of a fleet: names, usual times, and what is to be read with care."""

from typing import Any

import pyarrow as pa
import pytest

from dsocr_nvtx.fleet.notes import by_slowdown, cautions, has_ranks, rank_name, slowness, usual_times
from dsocr_nvtx.schema.fleet import FLEET_RANKS
from tests.builders.tables import filled


def ranks(*rows: dict[str, Any]) -> pa.Table:
    """Return decode rows of ranks that did the same but for some figures."""
    usual = {"stage": "decode", "steps": 10, "tokens": 160, "usual_wall_ns": 100, "wall_ns": 100, "cause": "none"}
    return filled(FLEET_RANKS, [{**usual, "report": f"r{at}", **row} for at, row in enumerate(rows)])


def test_ranks_that_did_the_same_need_no_care() -> None:
    assert cautions(ranks({}, {}), ["op", "op", ""]) == []


@pytest.mark.parametrize(
    ("other", "levels", "said"),
    [
        ({"steps": 20, "tokens": 320}, ("op", "op"), "decode steps differ, 10 to 20 a rank"),
        ({"tokens": 10}, ("op", "op"), "decode batches differ, 1 to 16 tokens a step"),
        ({}, ("op", "stage"), "levels differ, op and stage"),
    ],
)
def test_ranks_that_did_not_do_the_same_are_told(other: dict[str, Any], levels: tuple[str, ...], said: str) -> None:
    (line,) = cautions(ranks({}, other), levels)
    assert line.startswith(said)
    assert line.endswith("read more work and waiting with care")


def test_other_stages_have_as_many_steps_as_pages() -> None:
    assert cautions(ranks({}, {"stage": "vision", "steps": 3}), ["op"]) == []


def test_a_rank_goes_by_its_number_only_where_ranks_have_one() -> None:
    assert not has_ranks(ranks({}, {}))
    assert has_ranks(ranks({}, {"rank": 1}))
    assert rank_name(0, "r0", "node", named=True) == "rank 0 (r0, node)"
    assert rank_name(0, "r0", named=True) == "rank 0 (r0)"
    assert (rank_name(0, "r0", named=False), rank_name(0, "r0", "node", named=False)) == ("r0", "r0 (node)")


def test_slow_ranks_are_held_against_the_usual_time_even_where_that_is_none() -> None:
    rows = ranks(
        {"cause": "work", "wall_ns": 200, "slowdown": 2.0},
        {"cause": "device", "stage": "vision", "usual_wall_ns": 0, "wall_ns": 3_000_000, "slowdown": None},
        {"cause": "device", "wall_ns": 100, "slowdown": 1.0, "busy_slowdown": 1.5, "device_ns": 10_000},
        {},
    )
    assert [slowness(row) for row in by_slowdown(rows)] == [
        "takes 3.00 ms, and usual is none",
        "is busy 1.50 times the usual, 0.01 ms more, in 1.00 times the usual wall time",
        "takes 2.00 times the usual time, 0.00 ms more",
    ]
    assert usual_times(rows) == {"decode": 100, "vision": 0}
