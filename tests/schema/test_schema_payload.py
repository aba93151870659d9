"""The payload follows `Cost`; its text twin says the same numbers; damage is not read as numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.schema.payload import (
    ANNOUNCE_PREFIX,
    FIELD_INDEX,
    PAYLOAD_DTYPE,
    PAYLOAD_FIELDS,
    announcement,
    growth_announcement,
    parse_announcement,
    parse_growth_announcement,
)
from dsocr_nvtx.schema.records import COST_FIELDS, Stage
from tests.builders.tables import payload

words = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(PAYLOAD_FIELDS), max_size=len(PAYLOAD_FIELDS))
paths = st.from_regex(r"[a-z_0-9.]+", fullmatch=True)


def test_the_payload_is_the_header_the_cost_and_the_own_activations() -> None:
    assert (
        "event_id", "stage", "step", "layer", "kind", "level", "dtype", "batch", "tokens", "kv_len", *COST_FIELDS,
        "own_activation_bytes",
    ) == PAYLOAD_FIELDS  # fmt: skip
    assert PAYLOAD_DTYPE.itemsize == 152  # 19 words of 8 bytes
    assert {PAYLOAD_DTYPE[name] for name in PAYLOAD_FIELDS} == {np.dtype("<i8")}
    assert [PAYLOAD_DTYPE.fields[name][1] for name in PAYLOAD_FIELDS] == list(range(0, 152, 8))  # type: ignore[index]


def test_an_announcement_by_hand() -> None:
    values = list(range(1, 20))
    values[FIELD_INDEX["stage"]] = 2
    text = "dsocr/1 decoder.3.attn 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"
    assert announcement("decoder.3.attn", values) == text
    assert parse_announcement(text) == ("decoder.3.attn", values)


@given(paths, words, st.integers(0, len(Stage) - 1))
def test_an_announcement_is_read_back_as_it_was_made(path: str, values: list[int], stage: int) -> None:
    values[FIELD_INDEX["stage"]] = stage
    assert parse_announcement(announcement(path, values)) == (path, values)


WHOLE = announcement("decoder", payload(stage=2, event_id=7, tensor_flops=10))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dsocr/1 ",
        "dsocr/2 " + WHOLE.removeprefix(ANNOUNCE_PREFIX),  # another version's
        "x" + WHOLE,
        WHOLE.removesuffix(" 0"),  # one field short
        WHOLE + " 0",  # one too many
        WHOLE.replace(" 10 ", " ten "),
        WHOLE.replace(" 10 ", " 1e1 "),
        WHOLE.replace(" 10 ", " 1_0 "),
        WHOLE.replace(" 10 ", " \u0661\u0660 "),  # digits of another script
        WHOLE.replace(" 10 ", f" {2**63} "),  # does not fit the payload's words
        WHOLE.replace(" 10 ", f" -{2**63 + 1} "),
        WHOLE.replace(" 10 ", " " + "9" * 5000 + " "),
        WHOLE.replace(" 7 2 ", " 7 4 "),  # no such stage
        WHOLE.replace(" 7 2 ", " 7 -1 "),
        WHOLE.replace("decoder ", " "),  # no path
        WHOLE[:40],
    ],
)
def test_damage_is_no_announcement(text: str) -> None:
    assert parse_announcement(WHOLE) is not None
    assert text != WHOLE
    assert parse_announcement(text) is None


@given(paths, words, words, st.integers(0, len(Stage) - 1))
def test_what_grows_is_read_back_as_it_was_told(path: str, values: list[int], more: list[int], stage: int) -> None:
    values[FIELD_INDEX["stage"]] = stage
    text = growth_announcement(path, values, more)
    assert parse_growth_announcement(text) == (path, values, more)
    assert parse_announcement(text) is None


GROWING = growth_announcement("decoder", payload(stage=2, event_id=7, tensor_flops=10), payload(kv_len=1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        WHOLE,
        GROWING.replace("dsocr/1k", "dsocr/2k"),
        GROWING.removesuffix(" 0"),
        GROWING + " 0",
        GROWING.replace(" 10 ", f" {2**63} "),
        GROWING.replace(" 1 ", f" {2**63} "),  # an increment
        GROWING.replace(" 7 2 ", " 7 4 "),
        GROWING.replace("decoder ", " "),
        GROWING[:80],
    ],
)
def test_damage_is_no_growth(text: str) -> None:
    assert parse_growth_announcement(GROWING) is not None
    assert text != GROWING
    assert parse_growth_announcement(text) is None


@given(st.text())
def test_any_text_after_the_prefix_is_read_or_left(text: str) -> None:
    found = parse_announcement(ANNOUNCE_PREFIX + text)
    assert found is None or len(found[1]) == len(PAYLOAD_FIELDS)
