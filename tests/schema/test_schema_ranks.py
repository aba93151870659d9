"""Rank marks: what is written is read, what is damaged is other text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.schema.ranks import Rank, gpu_identity, parse_rank_mark, rank_mark, ranks_text

HOSTS = st.text(max_size=30).filter(lambda text: text != "-" and "\ud800" not in text)


@given(st.integers(0, 10**8), st.integers(1, 10**8), HOSTS.filter(lambda t: t.isprintable()))
def test_a_mark_says_what_the_rank_is(rank: int, more: int, host: str) -> None:
    one = Rank(rank=rank, world_size=rank + more, host=host, gpu_uuid="GPU-0a1b")
    assert parse_rank_mark(rank_mark(one)) == one


@pytest.mark.parametrize(
    "text",
    [
        "", "dsocr/1r", "dsocr/1r 0 1 host", "dsocr/1r 0 1 host gpu more", "dsocr/1r x 1 host gpu", "dsocr/1r -1 2 h g",
        "dsocr/1r 2 2 host gpu", "dsocr/1r 0 0 host gpu", "dsocr/1r 0 9999999999 host gpu", "dsocr/1r 0 1 ho\nst gpu",
        "dsocr/1r 0 1 " + 300 * "h" + " gpu", "dsocr/1 decoder.0 1 2", "dsocr/1r 0 1  gpu",
    ],
)  # fmt: skip
def test_damaged_marks_are_other_text(text: str) -> None:
    assert parse_rank_mark(text) is None


def test_a_host_that_is_not_known_is_empty() -> None:
    assert rank_mark(Rank()) == "dsocr/1r 0 1 - -"
    assert parse_rank_mark("dsocr/1r 0 1 - -") == Rank()


@pytest.mark.parametrize("text", ["GPU-0A1B-2", "0a1b-2", " gpu-0a1b-2 "])
def test_one_gpu_has_one_spelling(text: str) -> None:
    assert gpu_identity(text) == "GPU-0a1b-2"


def test_a_slice_of_a_gpu_is_not_the_gpu() -> None:
    assert gpu_identity("MIG-0a1b") == "MIG-0a1b"
    assert gpu_identity("") == ""


def test_metadata_lists_ranks_by_process() -> None:
    found = json.loads(ranks_text({9: Rank(rank=1, world_size=2), 3: Rank(rank=0, world_size=2, host="a")}))
    assert [(one["pid"], one["rank"], one["host"]) for one in found] == [(3, 0, "a"), (9, 1, "")]
