"""The roofline chart: equal layers are one mark, what matters has its name, and no word lies on anything else."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.report.chart import Chart, chart
from dsocr_nvtx.report.labels import Label, Words, along, beside
from dsocr_nvtx.report.marks import folded
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings

H200 = DATASHEET["NVIDIA H200"]
MEASURED = evolve(H200, source="measured", bandwidth=42 * 10**11, vector=6 * 10**13, tensor={"bfloat16": 8 * 10**14})


def row(kind: object = "experts", layer: int | None = 1, **values: object) -> Mapping[str, object]:
    """Return a row at 1 FLOP/B and 10^12 FLOP/s, of 1 ms."""
    made = {
        "stage": "decode", "module": "decoder", "kind": kind, "layer": layer, "bound": "memory", "pid": 1, "device": 0,
        "tensor_flops": 10**9, "vector_flops": 0, "weight_bytes": 10**9, "activation_bytes": 0, "kv_read_bytes": 0,
        "kv_write_bytes": 0, "op_bytes": 2 * 10**9, "busy_owned_ns": 10**6, "wall_ns": 10**6, "intensity": 1.0,
    }  # fmt: skip
    return {**made, **values}


def test_equal_layers_are_one_mark_with_their_count_and_their_sum() -> None:
    [mark] = folded([row(layer=layer) for layer in range(1, 12)])
    assert mark.rows == tuple(range(11))
    assert (mark.name, mark.wall, mark.intensity, mark.moved) == ("decode decoder experts x11", 11e6, 1.0, 0.5)
    assert mark.rate == pytest.approx(1e12)


@pytest.mark.parametrize(
    "other",
    [
        {"wall_ns": 10**7}, {"busy_owned_ns": 3 * 10**6}, {"intensity": 2.0}, {"kind": "gate"}, {"bound": "host"},
        {"stage": "prefill"}, {"pid": 2},
    ],
)  # fmt: skip
def test_what_is_not_equal_stays_a_mark_of_its_own(other: dict[str, object]) -> None:
    """A layer that waits longer, or is slower, or bound otherwise, is what the chart is there to show."""
    rows = [row(layer=0), row(layer=1), {**row(layer=2), **other}]
    assert sorted(mark.rows for mark in folded(rows)) == [(0, 1), (2,)]


def test_a_single_row_has_its_layer_in_its_name() -> None:
    assert [mark.name for mark in folded([row("lm_head", None, module="lm_head")])] == ["decode lm_head"]
    assert [mark.name for mark in folded([row(layer=3)])] == ["decode decoder.3 experts"]


def test_what_a_logarithm_has_no_place_for_is_counted() -> None:
    assert chart([row(), row(tensor_flops=0), row(intensity=None)], H200, "bfloat16").undrawn == 2


def words(found: Chart) -> list[Label]:
    every = [*(roof.label for roof in found.roofs), *(point.label for point in found.points)]
    return [label for label in every if label is not None]


def check_free(found: Chart) -> None:
    """Hold that no label covers another, a line that is not its own, a mark, or the edge."""
    covered = [list(label.squares()) for label in words(found)]
    for one, two in combinations(covered, 2):
        assert all(abs(x - u) >= 13 or abs(y - v) >= 13 for x, y in one for u, v in two)
    for label, squares in zip(words(found), covered, strict=True):
        assert all(found.left < x < found.right and found.top < y < found.bottom for x, y in squares), label
        for roof in found.roofs:
            x1, y1, x2, y2 = roof.line
            if roof.label is label or x2 == x1:
                continue
            for x, y in squares:
                on = y1 + (x - x1) / (x2 - x1) * (y2 - y1)
                assert not (x1 <= x <= x2) or abs(y - on) > 6, (label, roof)
        for point in found.points:
            assert all(math.hypot(x - point.x, y - point.y) > 6 for x, y in squares), label


@pytest.mark.parametrize("roofs", [H200, MEASURED])
def test_roofs_have_their_names_and_nothing_lies_on_them(roofs: Ceilings) -> None:
    found = chart([row(layer=layer) for layer in range(12)], roofs, "bfloat16")
    named = [roof.label.text for roof in found.roofs if roof.label is not None]
    assert any(text.startswith("matrix bfloat16") for text in named)
    assert any(text.startswith("DRAM") for text in named)
    check_free(found)


places = st.tuples(st.floats(-1, 3.5), st.floats(7, 14.5), st.floats(4, 9))


@given(st.lists(places, min_size=1, max_size=60))
def test_no_word_lies_on_anything_wherever_rows_are(found: Sequence[tuple[float, float, float]]) -> None:
    rows = [
        row(
            f"kind{at}", None, intensity=10**i, weight_bytes=round(10 ** (9 - i)), wall_ns=round(10**wall),
            busy_owned_ns=max(round(10 ** (18 - rate)), 1),
        )
        for at, (i, rate, wall) in enumerate(found)
    ]  # fmt: skip
    check_free(chart(rows, MEASURED, "bfloat16"))


def test_the_largest_marks_have_names_first() -> None:
    rows = [row(f"kind{at}", None, intensity=10.0 ** (at % 3), wall_ns=10**6 * (at + 1)) for at in range(20)]
    drawn = chart(rows, H200, "bfloat16").points
    assert [point.rows[0] for point in drawn] == list(reversed(range(20)))
    assert drawn[0].label is not None
    assert drawn[0].label.text == "decode decoder kind19"
    assert all(point.label is None for point in drawn[12:])


def test_a_word_that_has_no_place_is_left_out() -> None:
    full = Words(0, 0, 100, 30, marks=[(50, 15, 60)])
    assert full.place(beside("anything", 50, 15, 3)) is None
    assert Words(0, 0, 100, 30).place(along("much too long for such a line", (0, 15, 50, 15))) is None
