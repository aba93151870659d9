"""The time of a served page: parts that add up, whatever is told of it; batches and padding by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.roofline.batches import batches, composition, counted
from dsocr_nvtx.roofline.pages import PagePart, page_parts, page_time
from dsocr_nvtx.roofline.review import IdleShares, served_review
from dsocr_nvtx.schema.served_tables import REQUESTS, SERVED_STEPS
from tests.builders.served import two_pages
from tests.builders.tables import Row, filled


@pytest.fixture(name="served")
def join_two_pages(tmp_path: Path) -> Joined:
    return join(read(two_pages().file.write(tmp_path / "s.sqlite")), "s")


def test_the_time_of_two_pages_by_hand(served: Joined) -> None:
    found = page_time(served.served["requests"])
    assert found is not None
    # a 0..1160, preprocessed at 300, begun at 320; b 300..1160, preprocessed at 700, begun at 740.
    assert (found.pages, found.untold, found.latency_ns) == (2, 0, 1160 + 860)
    assert found.parts[:5] == (
        PagePart("preparing", "", 300 + 400), PagePart("waiting", "", 20 + 40),
        PagePart("own", "mixed", 2 * 263), PagePart("own", "prefill", 263), PagePart("own", "decode", 126 + 63),
    )  # fmt: skip
    assert (found.group("others"), found.group("own")) == (0, 652 + 326)
    assert sum(part.ns for part in found.parts) == found.latency_ns
    assert (found.median_latency_ns, found.median_waiting_ns, found.median_first_token_ns) == (
        1010,
        380,
        (620 + 740) / 2,
    )
    assert (found.tokens, found.tokens_per_s) == (6, 6 / 1160 * 1e9)
    assert found.gpu_idle[0] == PagePart("idle", "host.preprocessing", 310 + 10)


times = st.integers(0, 100)


@given(st.data())
def test_parts_add_up_to_the_latency_whatever_is_told(data: st.DataObject) -> None:
    arrived, waiting = data.draw(st.integers(0, 50)), data.draw(st.none() | times)
    own, others, idle = data.draw(st.lists(times, max_size=2)), data.draw(times), data.draw(st.lists(times, max_size=2))
    since = sum(own) + others + sum(idle)
    latency = data.draw(times) if waiting is None else waiting + since
    row = {
        "arrived_ns": arrived, "waiting_ns": waiting, "latency_ns": latency,
        "preprocessed_ns": data.draw(st.none() | st.integers(-10, 300)),
        "busy_own": [] if waiting is None else [{"stage": f"s{at}", "ns": ns} for at, ns in enumerate(own)],
        "later_busy_others_ns": others, "later_idle": [{"owner": f"o{at}", "ns": ns} for at, ns in enumerate(idle)],
    }  # fmt: skip
    parts = list(page_parts(row))
    assert sum(part.ns for part in parts) == latency
    assert all(part.ns >= 0 for part in parts)


def test_pages_of_which_not_all_is_told_are_counted_and_left_out() -> None:
    rows: list[Row] = [{"name": "open", "arrived_ns": 5, "busy_own": [], "idle": [], "later_idle": []}]
    assert page_time(filled(REQUESTS, rows)) is None
    done: Row = {
        "name": "done", "arrived_ns": 0, "finished_ns": 10, "latency_ns": 10, "busy_own_ns": 0, "busy_others_ns": 0,
        "idle_ns": 10, "busy_own": [], "idle": [{"owner": "outside", "ns": 10}], "later_idle": [],
    }  # fmt: skip
    found = page_time(filled(REQUESTS, [*rows, done]))
    assert found is not None
    assert (found.pages, found.untold, found.tokens, found.parts) == (1, 1, 0, (PagePart("waiting", "", 10),))


def test_batches_and_padding_by_hand(served: Joined) -> None:
    prefill, decode, mixed = batches(served.served["served_steps"])
    assert (decode.stage, decode.steps, decode.prefill, decode.decode, decode.most, decode.rows) == (
        "decode",
        2,
        0,
        1.5,
        2,
        1.5,
    )
    # run with 1 and 4 rows, of which 1 and 2 are sequences'
    assert (decode.padded_rows, decode.padding_rows, decode.waste) == (5, 2, 0.4)
    assert (mixed.rows, mixed.waste) == (401, 7 / 408)
    assert (prefill.waste, prefill.step_ns) == (None, 300)
    review = served_review(served.served, served.accounting.served)
    assert review is not None
    assert review.padding == (2 + 7) / (5 + 408)
    assert served_review({}, served.accounting.served) is None


def test_whose_the_idle_time_is(served: Joined) -> None:
    """From a's arrival at 0 to both ends at 1160: what is before and after, such as loading a model, does not count."""
    idle = served.accounting.served.idle_ns
    assert sum(idle.values()) == 1160 - 652
    assert (idle["host.preprocessing"], idle["outside"], idle["prefill"], idle["host.detokenizing"]) == (
        310,
        20,
        20,
        10,
    )
    found = IdleShares.of(idle)
    assert (found.total, found.outside, found.model) == (508, 20, 40 + 20 + 20)
    assert found.host == 508 - 20 - 80


def test_sequences_over_time_by_hand() -> None:
    """Four intervals of 25: one decodes 0..60, beside two that prefill from 40 on; nothing until 75, one to 100."""
    rows: list[Row] = [
        {"start_ns": 0, "end_ns": 40, "sequences_decode": 1, "requests": ["a"]},
        {"start_ns": 40, "end_ns": 60, "sequences_decode": 1, "sequences_prefill": 2, "requests": ["a", "b", "c"]},
        {"start_ns": 75, "end_ns": 100, "sequences_decode": 1, "requests": ["c"]},
    ]
    found = composition(filled(SERVED_STEPS, rows), most=4)
    assert found is not None
    assert (found.begin_ns, found.interval_ns) == (0, 25)
    assert found.decode.tolist() == [1, 1, 10 / 25, 1]
    assert found.prefill.tolist() == [0, 2 * 10 / 25, 2 * 10 / 25, 0]
    assert composition(SERVED_STEPS.empty_table()) is None


def test_of_workers_that_tell_the_same_steps_one_counts() -> None:
    """Processes 1 and 2 share a request, so they are workers of one engine; 3 is another engine."""
    rows: list[Row] = [
        {"pid": pid, "stage": "decode", "requests": [name]}
        for pid, name in ((1, "a"), (2, "a"), (3, "b"), (1, "c"), (2, "c"))
    ]
    assert counted(filled(SERVED_STEPS, rows))["pid"].to_pylist() == [1, 3, 1]
