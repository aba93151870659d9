"""Columns that come in parts: the numbers that were put, in no more bytes than they need."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.column import Column, least_kind, narrowed
from dsocr_nvtx.ingest.source import NULL

numbers = st.one_of(st.integers(-3, 3), st.integers(-(2**31) - 2, 2**31 + 2), st.just(NULL), st.just(2**63 - 1))
alike = st.tuples(numbers, st.integers(0, 4)).map(lambda one: [one[0]] * one[1])
parts = st.lists(st.one_of(alike, st.lists(numbers, max_size=5)), max_size=5)


@given(parts, st.booleans())
def test_what_was_put_comes_back_in_the_bytes_that_it_needs(pieces: list[list[int]], small: bool) -> None:
    whole = [value for piece in pieces for value in piece]
    column, first = Column(len(whole), small=small), 0
    for piece in pieces:
        column.put(first, np.array(piece, np.int64))
        first += len(piece)
    found = column.values()
    assert found.tolist() == whole
    fits = all(-(2**31) <= value < 2**31 for value in whole)
    assert found.dtype == (np.int32 if small and fits else np.int64)
    assert (found.strides == (0,)) == (len(set(whole)) <= 1)
    at_once = narrowed(np.array(whole, np.int64))
    assert at_once.tolist() == whole
    assert at_once.dtype == (np.int32 if fits else np.int64)


@given(numbers, numbers, st.sampled_from([8, 16, 32, 64]))
def test_the_least_type_holds_both_ends_and_no_smaller_one_does(one: int, other: int, bits: int) -> None:
    low, high = sorted((one, other))
    found = np.iinfo(least_kind(low, high, bits=bits))
    assert found.bits >= bits
    assert found.min <= low <= high <= found.max
    smaller = 2 ** (found.bits // 2 - 1)
    assert found.bits == bits or not -smaller <= low <= high < smaller
