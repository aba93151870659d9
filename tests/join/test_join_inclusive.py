"""Inclusive costs made exclusive, against a recursive version: they add up to what the outermost calls cost."""

from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import numbers
from dsocr_nvtx.join.inclusive import exclusive_table
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import MEASURED
from tests.builders.tables import RANGES_V1, Row, filled

ADDITIVE = [name for name in COST_FIELDS if name != "activation_bytes"]


def own(rows: Sequence[Row], name: str = "tensor_flops") -> list[int]:
    """Return one field of exclusive costs."""
    found: list[int] = numbers(exclusive_table(old(rows), "report"), name).tolist()
    return found


OLD = pa.schema(
    [item for item in MEASURED if item.name not in ("rows", "keys", "pairs", "cost_state")]
    + [RANGES_V1.field("own_activation_bytes")]
)
"""MEASURED as version 1 wrote it."""


def old(rows: Sequence[Row]) -> pa.Table:
    """Return a table of version 1."""
    return filled(OLD, rows)


def test_a_table_of_version_1_becomes_one_of_this_version() -> None:
    found = exclusive_table(old([call(0, None, 7, batch=3, tokens=5, kv_len=9)]), "report")
    assert found.schema.equals(MEASURED)
    row = found.to_pylist()[0]
    assert (row["rows"], row["keys"], row["pairs"], row["cost_state"], row["tokens"]) == (15, 27, 0, "known", 5)
    assert exclusive_table(found, "report") is found


def call(event: int, parent: int | None, flops: int, **more: object) -> Row:
    """Return a MEASURED row."""
    return {"event_id": event, "parent_id": parent, "tensor_flops": flops, **more}


def test_own_costs_by_hand() -> None:
    #  0: 100 = 1: 60 (= 2: 25 + 3: 30 + own 5) + 4: 40 + own 0
    rows = [call(0, None, 100), call(1, 0, 60), call(2, 1, 25), call(3, 1, 30), call(4, 0, 40)]
    assert own(rows) == [0, 5, 25, 30, 40]
    assert own(rows[::-1]) == [40, 30, 25, 5, 0]


def test_a_containers_activations_are_what_it_carries() -> None:
    rows = [
        call(0, None, 9, activation_bytes=100, own_activation_bytes=12),
        call(1, 0, 4, activation_bytes=95, own_activation_bytes=77),
    ]
    # Lower bounds do not subtract: the container keeps the 12 it carries, a leaf its whole 95.
    assert own(rows, "activation_bytes") == [12, 95]


def test_a_range_without_a_cost_passes_its_parts_on() -> None:
    # A step opened by hand has no cost; its parts count for the range around it.
    rows = [call(0, None, 50), call(1, 0, 0), call(2, 1, 20), call(3, 1, 10)]
    assert own(rows) == [20, 0, 20, 10]


def test_parts_of_another_stage_are_no_parts() -> None:
    # The vendor's vision tower runs inside its prefill forward, whose cost does not hold it.
    rows = [call(0, None, 10, stage="prefill"), call(1, 0, 700, stage="vision"), call(2, 0, 6, stage="prefill")]
    assert own(rows) == [4, 700, 6]


def test_equal_ids_of_two_processes_are_two_calls() -> None:
    rows = [call(0, None, 10), call(1, 0, 4), call(0, None, 30, pid=2), call(1, 0, 1, pid=2)]
    assert own(rows) == [6, 4, 29, 1]


def test_parts_that_cost_more_than_the_whole_are_refused() -> None:
    rows = [call(0, None, 10, path="decoder.3"), call(1, 0, 7), call(2, 0, 6)]
    with pytest.raises(Refused, match=r"inside decoder\.3 cost more than decoder\.3 itself \(tensor_flops by 3\)"):
        own(rows)


def test_one_id_for_two_calls_is_refused() -> None:
    with pytest.raises(Refused, match=r"event id 1 of process 1 stands for two calls"):
        own([call(0, None, 10), call(1, 0, 4), call(1, 0, 4)])


def test_an_empty_table_owns_nothing() -> None:
    assert own([]) == []


@st.composite
def forests(draw: st.DrawFn) -> list[Row]:
    """Draw calls whose containers cost their parts and some more; some containers are without a cost."""
    rows: list[dict[str, int | None]] = []
    for event in range(draw(st.integers(1, 12))):
        parent = draw(st.none() | st.integers(0, event - 1)) if event else None
        rows.append({"event_id": event, "parent_id": parent} | {name: draw(st.integers(0, 9)) for name in ADDITIVE})
    for row in rows:
        if draw(st.integers(0, 4)) == 0:
            row.update(dict.fromkeys(ADDITIVE, 0))
    for row in rows[::-1]:  # children come later than parents: add from the innermost out, where a cost is known
        parts = [_modelled(rows, r) for r in rows if r["parent_id"] == row["event_id"]]
        if any(row[name] for name in ADDITIVE):
            for name in ADDITIVE:
                row[name] = int(row[name] or 0) + sum(part[name] for part in parts)
    return draw(st.permutations(rows))


def _modelled(rows: list[dict[str, int | None]], row: dict[str, int | None]) -> dict[str, int]:
    """Return a call's cost, or the sum of its parts' where it has none."""
    if any(row[name] for name in ADDITIVE):
        return {name: int(row[name] or 0) for name in ADDITIVE}
    parts = [_modelled(rows, r) for r in rows if r["parent_id"] == row["event_id"]]
    return {name: sum(part[name] for part in parts) for name in ADDITIVE}


@given(forests())
def test_own_costs_add_up_to_the_outermost_calls(rows: list[dict[str, int | None]]) -> None:
    found = exclusive_table(old(rows), "report")
    for name in ADDITIVE:
        roots = [_modelled(rows, row)[name] for row in rows if row["parent_id"] is None]
        assert sum(found[name].to_pylist()) == sum(roots)
        for row, value in zip(rows, found[name].to_pylist(), strict=True):
            parts = [_modelled(rows, r)[name] for r in rows if r["parent_id"] == row["event_id"]]
            known = any(row[n] for n in ADDITIVE)
            assert value == (int(row[name] or 0) - sum(parts) if known else 0)
