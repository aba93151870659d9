"""Marks of a serving engine: what was written is read back, and damage is other text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.schema.served import (
    LONGEST_NAME,
    RequestEvent,
    RequestMark,
    ServedMark,
    ServedSequence,
    parse_request_mark,
    parse_served_mark,
    request_mark,
    request_name,
    served_mark,
)

names = st.text(max_size=80)
counts = st.integers(0, 10**9)
sequences = st.builds(
    lambda name, rows, more, decodes: ServedSequence(request_name(name), rows, rows + more, decodes),
    names, counts, counts, st.booleans(),
)  # fmt: skip


def test_marks_by_hand() -> None:
    two = (ServedSequence("page-1", 512, 900, False), ServedSequence("page-2", 1, 1201, True))
    assert served_mark(7, 520, two) == "dsocr/2s 7 520 page-1:512:900:p page-2:1:1201:d"
    assert served_mark(7, 0, ()) == "dsocr/2s 7 0"
    assert request_mark("page-1", RequestEvent.ARRIVED) == "dsocr/2r page-1 arrived"
    assert request_mark("page-1", RequestEvent.ARRIVED, 5_000) == "dsocr/2r page-1 arrived 5000"
    assert request_mark("page-1", RequestEvent.FINISHED, 128) == "dsocr/2r page-1 finished 128"


@given(counts, counts, st.lists(sequences, max_size=5))
def test_a_step_is_read_as_it_was_told(event: int, padded: int, told: list[ServedSequence]) -> None:
    assert parse_served_mark(served_mark(event, padded, told)) == ServedMark(event, padded, tuple(told))


@given(names, st.sampled_from(list(RequestEvent)), counts)
def test_a_request_is_read_as_it_was_told(name: str, what: RequestEvent, tokens: int) -> None:
    number = tokens if what in (RequestEvent.FINISHED, RequestEvent.ARRIVED) else None
    assert parse_request_mark(request_mark(name, what, number)) == RequestMark(request_name(name), what, number)


@given(names)
def test_any_id_has_a_name_that_marks_can_hold(text: str) -> None:
    name = request_name(text)
    assert 1 <= len(name) <= LONGEST_NAME
    assert name.isprintable()
    assert not set(name) & set(" :")
    assert request_name(name) == name


def test_characters_that_would_break_a_mark_are_replaced() -> None:
    assert request_name("chat:cmpl 1\n2") == "chat_cmpl_1_2"
    assert request_name("") == "_"


@pytest.mark.parametrize(
    "text",
    [
        "", "dsocr/2s", "dsocr/2s 7", "dsocr/2s 7 520 page", "dsocr/2s 7 520 page:1:2", "dsocr/2s 7 520 page:1:2:x",
        "dsocr/2s -7 520", "dsocr/2s 7 520  page:1:2:p", "dsocr/2s 7 520 page:1:2:p ", "dsocr/2s 7 520\npage:1:2:p",
        "dsocr/2s 7 520 page:3:2:p", "dsocr/2s 7 520 a:b:1:2:p", f"dsocr/2s {'9' * 19} 0",
        f"dsocr/2s 7 0 {'a' * 65}:1:2:p", "dsocr/2s 7 0 :1:2:p",
    ],
)  # fmt: skip
def test_damage_is_no_step(text: str) -> None:
    """Fewer keys than rows cannot be either: a sequence's own rows are among its keys."""
    assert parse_served_mark(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "dsocr/2r", "dsocr/2r page", "dsocr/2r page left", "dsocr/2r page queued 3", "dsocr/2r page finished",
        "dsocr/2r page finished -1", "dsocr/2r a:b arrived", "dsocr/2r  arrived", "dsocr/2r page arrived\n",
        f"dsocr/2r page finished {'1' * 16}",
    ],
)  # fmt: skip
def test_damage_is_nothing_that_happened(text: str) -> None:
    assert parse_request_mark(text) is None


@given(st.text())
def test_any_text_after_a_prefix_is_read_or_left(text: str) -> None:
    assert parse_served_mark(f"dsocr/2s {text}") is None or not text.startswith(" ")
    assert parse_request_mark(f"dsocr/2r {text}") is None or not text.startswith(" ")
