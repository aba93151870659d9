"""A range's cost from its payload, its JSON, or what was announced: the same numbers, or a refusal."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.announcements import read_costs
from dsocr_nvtx.join.announced import read_announced
from dsocr_nvtx.join.columns import latest
from dsocr_nvtx.join.costs import CostSource, RangeCosts, range_costs
from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS, READ_FIELDS, Flag, announcement, growth_announcement
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import ANNOUNCEMENTS, NVTX
from tests.builders.tables import Row, filled, payload, payload_v1
from tests.join.test_join_nesting import column

SOURCES = list(CostSource)


def packed(values: Sequence[int]) -> bytes:
    """Return a payload as its bytes."""
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


def costs(ranges: Sequence[Row], marks: Sequence[Row] = ()) -> RangeCosts:
    """Return the costs of ranges."""
    return range_costs(filled(NVTX, ranges), read_announced(read_costs(filled(ANNOUNCEMENTS, marks))), "report")


def sources(found: RangeCosts) -> list[str]:
    """Return where each cost came from."""
    return [str(SOURCES[code]) for code in found.source.tolist()]


VALUES = payload(event_id=5, stage=2, step=3, tensor_flops=10)
OTHER = payload(event_id=5, stage=2, step=3, tensor_flops=11)
RANGE = {"path": "decoder", "stage": "decode", "start_ns": 100, "end_ns": 200}


def mark(values: list[int], time: int, path: str = "decoder", **more: object) -> Row:
    """Return an announcement."""
    return {"text": announcement(path, values), "time_ns": time, **more}


def test_binary_comes_before_json_before_announcements() -> None:
    binary, json = {"payload": packed(VALUES)}, {"json": packed(VALUES)}
    assert sources(costs([{**RANGE, **binary, **json}])) == ["binary"]
    assert sources(costs([{**RANGE, **json}])) == ["json"]
    assert sources(costs([RANGE], [mark(VALUES, 90)])) == ["announcement"]
    assert sources(costs([RANGE])) == ["none"]
    for rows, marks in (([{**RANGE, **binary}], []), ([{**RANGE, **json}], []), ([RANGE], [mark(VALUES, 90)])):
        assert costs(rows, marks).values.tolist() == [[*VALUES, 0, 2]]


@pytest.mark.parametrize(
    ("row", "marks"),
    [
        ({"payload": packed(VALUES), "json": packed(OTHER)}, []),
        ({"payload": packed(VALUES)}, [mark(OTHER, 90)]),
        ({"json": packed(VALUES)}, [mark(OTHER, 90)]),
    ],
)
def test_sources_that_disagree_are_refused_with_both_numbers(row: Row, marks: list[Row]) -> None:
    with pytest.raises(Refused, match=r"report: two costs for one range: tensor_flops of decoder is 10 and 11"):
        costs([{**RANGE, **row}], marks)


def test_an_announcement_of_another_step_or_event_disagrees_too() -> None:
    for field in ("event_id", "step"):
        other = payload(**{**dict(zip(PAYLOAD_FIELDS, VALUES, strict=True)), field: 77})
        with pytest.raises(Refused, match=f"{field} of decoder"):
            costs([{**RANGE, "payload": packed(VALUES)}], [mark(other, 90)])


@pytest.mark.parametrize(
    "mark_row",
    [
        mark(VALUES, 101),  # later than the range
        mark(VALUES, 90, path="decoder.0"),
        mark(payload(stage=1, event_id=5, tensor_flops=10), 90),
        mark(VALUES, 90, tid=2),
        mark(VALUES, 90, pid=2),
        {"text": "dsocr/2 decoder damaged", "time_ns": 90},
    ],
)
def test_an_announcement_holds_for_its_module_stage_and_thread_from_then_on(mark_row: Row) -> None:
    assert sources(costs([RANGE], [mark_row])) == ["none"]


def increments(**fields: int) -> list[int]:
    """Return what each more key adds to every field: nothing but to those given."""
    return [fields.get(name, 0) for name in PAYLOAD_FIELDS]


def test_an_announcement_that_grows_holds_at_the_models_length() -> None:
    """Two keys more than were told of, at three FLOPs each; before the model says so, as told; then a plain one."""
    more = growth_announcement(
        "decoder", payload(stage=2, keys=50, tensor_flops=10), increments(keys=1, tensor_flops=3)
    )
    model = payload(stage=2, keys=52)
    marks = [
        {"text": more, "time_ns": 10},
        mark(model, 150, "model"),
        mark(payload(stage=1, keys=90), 160, "model"),  # another stage's
        mark(payload(stage=2, keys=90), 160, "model", tid=3),  # another thread's
        mark(payload(stage=2, keys=60, tensor_flops=7), 300),
    ]
    rows = [{**RANGE, "start_ns": start, "end_ns": start + 20} for start in (100, 200, 400)]
    found = costs(rows, marks)
    assert found.field("tensor_flops").tolist() == [10, 16, 7]
    assert found.field("keys").tolist() == [50, 52, 60]
    assert sources(found) == ["announcement"] * 3


def test_what_version_1_tells_grows_with_each_sequence() -> None:
    """Three sequences, each with two keys more than were told of, at five FLOPs for a key in all of them."""
    told = WIRE_V1.growth_announcement(
        "decoder", payload_v1(stage=2, batch=3, kv_len=50, tensor_flops=10),
        [{"kv_len": 1, "tensor_flops": 5}.get(name, 0) for name in WIRE_V1.fields],
    )  # fmt: skip
    model = WIRE_V1.announcement("model", payload_v1(stage=2, batch=3, kv_len=52))
    found = costs([RANGE], [{"text": told, "time_ns": 10}, {"text": model, "time_ns": 20}])
    assert found.field("tensor_flops").tolist() == [20]
    assert found.field("keys").tolist() == [3 * 52]
    assert found.field("version").tolist() == [1]


def test_a_forward_of_which_nothing_is_known_makes_nothing_grow() -> None:
    told = growth_announcement(
        "decoder", payload(stage=2, keys=50, tensor_flops=100), increments(keys=1, tensor_flops=9)
    )
    marks = [{"text": told, "time_ns": 10}, mark(payload(stage=2, flags=Flag.UNKNOWN), 20, "model")]
    assert costs([RANGE], marks).field("tensor_flops").tolist() == [100]


def test_a_payload_and_what_is_told_to_grow_must_agree() -> None:
    told = growth_announcement("decoder", payload(stage=2, keys=50), increments(keys=1))
    marks = [{"text": told, "time_ns": 10}, mark(payload(stage=2, keys=53), 20, "model")]
    row = {**RANGE, "payload": packed(payload(stage=2, keys=53))}
    assert sources(costs([row], marks)) == ["binary"]
    with pytest.raises(Refused, match="keys of decoder is 52 and 53"):
        costs([{**RANGE, "payload": packed(payload(stage=2, keys=52))}], marks)


def test_a_range_without_a_cost_has_zeros_and_an_id_of_its_own() -> None:
    found = costs([RANGE, RANGE, {**RANGE, "payload": packed(VALUES)}])
    assert sources(found) == ["none", "none", "binary"]
    ids = found.field("event_id").tolist()
    assert ids[2] == 5
    assert len(set(ids)) == 3
    assert max(ids[:2]) < 0
    assert found.field("tensor_flops").tolist() == [0, 0, 10]
    assert found.field("layer").tolist() == [-1, -1, -1]
    assert found.field("flags").tolist() == [Flag.UNKNOWN, Flag.UNKNOWN, 0]
    assert found.field("kind").tolist()[:2] == [-1, -1]


@pytest.mark.parametrize("path", ["decode", "sampling", "decoder.3.rest"])
def test_what_is_no_call_costs_nothing_where_nothing_is_told(path: str) -> None:
    found = costs([{**RANGE, "path": path}, RANGE])
    assert sources(found) == ["none", "none"]
    assert found.field("flags").tolist() == [0, Flag.UNKNOWN]


def test_ids_and_steps_are_counted_on_from_the_last_announcement() -> None:
    # Thread 1 pushes 4 ranges; before the first and the third something was announced, with that range's id.
    ranges = [{**RANGE, "start_ns": start, "end_ns": start + 5} for start in (100, 110, 120, 130)]
    marks = [mark(payload(stage=2, event_id=40, step=0), 99), mark(payload(stage=2, event_id=42, step=1), 119)]
    found = costs(ranges, marks)
    assert found.field("event_id").tolist() == [40, 41, 42, 43]
    assert found.field("step").tolist() == [0, 0, 1, 1]


def test_ids_are_counted_within_nests() -> None:
    # outer 100..200 holds inner 110..120; both began at the same count on a second thread without announcements.
    outer, inner = {**RANGE, "path": "decoder"}, {**RANGE, "path": "decoder.0", "start_ns": 110, "end_ns": 120}
    step = payload(stage=2, event_id=7)
    found = costs(
        [inner, outer, {**outer, "tid": 2}], [mark(step, 99), mark(payload(stage=2, event_id=8), 109, "decoder.0")]
    )
    assert found.field("event_id").tolist()[:2] == [8, 7]
    assert sources(found) == ["announcement", "announcement", "none"]


# What a thread does: (path, announces first, cost, ranges inside), as a hooked model would emit it.
@st.composite
def emitted(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Draw ranges with payloads, and the announcements that go with them: first of a kind, changed, or repeated."""
    ranges: list[Row] = []
    marks: list[Row] = []
    for tid in (1, 2)[: draw(st.integers(1, 2))]:
        held: dict[tuple[str, int], tuple[int, ...]] = {}
        clock, event, steps = draw(st.integers(-50, 50)), tid << 40, [-1] * len(Stage)
        stage = 0
        for _ in range(draw(st.integers(1, 8))):
            is_step = not ranges or draw(st.booleans())
            if is_step:
                stage = draw(st.integers(0, 3))
                steps[stage] += 1
            path = "decode" if is_step else draw(st.sampled_from(["decoder", "decoder.0", "lm_head"]))
            step = max(steps[stage], 0)
            cost = 0 if is_step else draw(st.integers(0, 2))
            clock += draw(st.integers(1, 3))
            if is_step or held.get((path, stage)) != (cost,) or draw(st.booleans()):
                values = payload(event_id=event, stage=stage, step=step, tensor_flops=cost)
                marks.append(mark(values, clock, path, tid=tid))
                clock += draw(st.integers(0, 2))
                held[path, stage] = (cost,)
            clock += 1
            ranges.append(
                {
                    "tid": tid, "path": path, "stage": list(Stage)[stage], "start_ns": clock, "end_ns": clock + 1,
                    "payload": packed(payload(event_id=event, stage=stage, step=step, tensor_flops=cost)),
                }
            )  # fmt: skip
            clock += 1
            event += 1
    return draw(st.permutations(ranges)), draw(st.permutations(marks))


@given(emitted())
def test_announcements_say_what_payloads_say(run: tuple[list[Row], list[Row]]) -> None:
    ranges, marks = run
    whole = costs(ranges, marks)  # refuses where the two differ
    bare = [{name: value for name, value in row.items() if name != "payload"} for row in ranges]
    told = costs(bare, marks)
    if sources(told).count("announcement") == len(ranges):
        assert told.values.tolist() == whole.values.tolist()
    for row, source in enumerate(sources(told)):
        if source == "announcement":
            assert told.values[row].tolist() == whole.values[row].tolist()
    first_of_thread = {row["tid"]: True for row in ranges}
    assert first_of_thread  # every thread begins by announcing, so nothing is left without a cost
    assert set(sources(told)) == {"announcement"}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(-6, 6)), max_size=12),
)
def test_the_latest_entry_of_a_key(entries: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    found = latest(*(column([row[i] for row in rows]) for rows in (entries, asked) for i in (0, 1))).tolist()
    for (key, time), position in zip(asked, found, strict=True):
        before = [(t, i) for i, (k, t) in enumerate(entries) if k == key and t <= time]
        assert position == (max(before)[1] if before else -1)


def test_no_ranges_have_no_costs() -> None:
    assert costs([], [mark(VALUES, 1)]).values.shape == (0, len(READ_FIELDS))


def test_the_refusal_names_the_report() -> None:
    rows = [{**RANGE, "payload": packed(VALUES), "json": packed(OTHER)}]
    with pytest.raises(Refused, match=re.escape("/data/run.sqlite")):
        range_costs(filled(NVTX, rows), read_announced(read_costs(filled(ANNOUNCEMENTS, []))), "/data/run.sqlite")
