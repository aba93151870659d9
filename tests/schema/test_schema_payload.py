"""The payload follows `Cost`; its text twin says the same numbers; damage is not read as numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.schema.payload import (
    FIELD_INDEX,
    PAYLOAD_DTYPE,
    PAYLOAD_FIELDS,
    READ_FIELDS,
    STATE_FLAGS,
    WIRE,
    announcement,
    growth_announcement,
)
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1, WIRE_V1, WIRES
from dsocr_nvtx.schema.records import COST_FIELDS, CostState, Stage
from dsocr_nvtx.schema.wire import Wire

paths = st.from_regex(r"[a-z_0-9.]+", fullmatch=True)
wires = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.prefix)


def words(wire: Wire) -> st.SearchStrategy[list[int]]:
    """Draw the fields of a payload with a stage that exists."""
    size = len(wire.fields)
    drawn = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size)
    at = wire.fields.index("stage")
    stages = st.integers(0, len(Stage) - 1)
    return st.tuples(drawn, stages).map(lambda both: [*both[0][:at], both[1], *both[0][at + 1 :]])


def fields(wire: Wire, **named: int) -> list[int]:
    """Return a payload's fields, zero where not named."""
    return [named.get(name, 0) for name in wire.fields]


def test_a_payload_is_the_header_the_extent_and_the_cost() -> None:
    assert (
        "event_id", "stage", "step", "layer", "kind", "level", "dtype", "flags", "sequences", "rows", "keys", "pairs",
        *COST_FIELDS,
    ) == PAYLOAD_FIELDS  # fmt: skip
    assert PAYLOAD_DTYPE.itemsize == 160  # 20 words of 8 bytes
    assert {PAYLOAD_DTYPE[name] for name in PAYLOAD_FIELDS} == {np.dtype("<i8")}
    assert [PAYLOAD_DTYPE.fields[name][1] for name in PAYLOAD_FIELDS] == list(range(0, 160, 8))  # type: ignore[index]


def test_version_1_is_the_header_the_cost_and_the_own_activations() -> None:
    assert (
        "event_id", "stage", "step", "layer", "kind", "level", "dtype", "batch", "tokens", "kv_len", *COST_FIELDS,
        "own_activation_bytes",
    ) == PAYLOAD_FIELDS_V1  # fmt: skip


def test_announcements_by_hand() -> None:
    values = list(range(1, 21))
    values[FIELD_INDEX["stage"]] = 4
    said = "1 4 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"
    assert announcement("decoder.3.attn", values) == f"dsocr/2 decoder.3.attn {said}"
    assert growth_announcement("decoder", values, values) == f"dsocr/2k decoder {said} {said}"
    assert WIRE_V1.parse("dsocr/1 decoder 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19") == (
        "decoder",
        list(range(1, 20)),
    )


@wires
@given(path=paths, data=st.data())
def test_an_announcement_is_read_back_as_it_was_made(wire: Wire, path: str, data: st.DataObject) -> None:
    values = data.draw(words(wire))
    assert wire.parse(wire.announcement(path, values)) == (path, values)


@wires
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dsocr/", "dsocr/3"),  # another version's
        ("dsocr/", "xdsocr/"),
        (" 0 END", ""),  # one field short
        (" END", " 0"),  # one too many
        (" 10 ", " ten "),
        (" 10 ", " 1e1 "),
        (" 10 ", " 1_0 "),
        (" 10 ", " \u0661\u0660 "),  # digits of another script
        (" 10 ", f" {2**63} "),  # does not fit the payload's words
        (" 10 ", f" -{2**63 + 1} "),
        (" 10 ", " " + "9" * 5000 + " "),
        (" 7 2 ", " 7 6 "),  # no such stage
        (" 7 2 ", " 7 -1 "),
        ("decoder ", " "),  # no path
        (" 10 ", "\n"),
    ],
)
def test_damage_is_no_announcement(wire: Wire, old: str, new: str) -> None:
    whole = wire.announcement("decoder", fields(wire, stage=2, event_id=7, tensor_flops=10)) + " END"
    assert wire.parse(whole.removesuffix(" END")) is not None
    assert old in whole
    assert wire.parse(whole.replace(old, new).removesuffix(" END")) is None


def test_no_version_reads_another_ones() -> None:
    for wire in WIRES:
        text, grows = wire.announcement("a", fields(wire)), wire.growth_announcement("a", fields(wire), fields(wire))
        assert [one.parse(text) is not None for one in WIRES] == [one is wire for one in WIRES]
        assert [one.parse_growth(grows) is not None for one in WIRES] == [one is wire for one in WIRES]
        assert wire.parse(grows) is None
        assert wire.parse_growth(text) is None


@wires
@given(path=paths, data=st.data())
def test_what_grows_is_read_back_as_it_was_told(wire: Wire, path: str, data: st.DataObject) -> None:
    values, more = data.draw(words(wire)), data.draw(words(wire))
    assert wire.parse_growth(wire.growth_announcement(path, values, more)) == (path, values, more)


@wires
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("k ", " "),
        (" 0 END", ""),
        (" END", " 0"),
        (" 10 ", f" {2**63} "),
        (" 31 ", f" {2**63} "),  # an increment
        (" 7 2 ", " 7 6 "),
        ("decoder ", " "),
    ],
)
def test_damage_is_no_growth(wire: Wire, old: str, new: str) -> None:
    values, more = fields(wire, stage=2, event_id=7, tensor_flops=10), fields(wire, vector_flops=31)
    whole = wire.growth_announcement("decoder", values, more) + " END"
    assert wire.parse_growth(whole.removesuffix(" END")) is not None
    assert old in whole
    assert wire.parse_growth(whole.replace(old, new).removesuffix(" END")) is None


@wires
@given(text=st.text())
def test_any_text_after_the_prefix_is_read_or_left(wire: Wire, text: str) -> None:
    found = wire.parse(wire.announced + text)
    assert found is None or len(found[1]) == len(wire.fields)


def read(wire: Wire, **named: int) -> dict[str, int]:
    """Return a payload as readers take it."""
    return dict(zip(READ_FIELDS, wire.read(np.array([fields(wire, **named)]))[0].tolist(), strict=True))


def test_version_1_is_read_as_sums_over_its_sequences() -> None:
    found = read(WIRE_V1, event_id=9, batch=3, tokens=5, kv_len=7, tensor_flops=11, own_activation_bytes=13)
    told = {"event_id": 9, "sequences": 3, "rows": 15, "keys": 21, "tensor_flops": 11}
    assert found == dict.fromkeys(READ_FIELDS, 0) | told | {"own_activation_bytes": 13, "version": 1}


def test_version_2_is_read_as_it_is() -> None:
    told = {name: place for place, name in enumerate(PAYLOAD_FIELDS)}
    assert read(WIRE, **told) == told | {"own_activation_bytes": 0, "version": 2}


def test_every_state_of_a_cost_is_on_the_wire() -> None:
    assert list(STATE_FLAGS) == list(CostState)
    assert [int(flag) for flag in STATE_FLAGS.values()] == [0, 4, 2, 1]
