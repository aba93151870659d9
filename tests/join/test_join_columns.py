"""Columns as numpy arrays: in one piece or many, of one value or several, and rows found by number."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.columns import numbers, rows_of, rows_with
from dsocr_nvtx.schema.tables import repeat

VALUES = st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=6)


@given(VALUES, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4))
def test_pieces_of_one_column_read_as_they_are_printed(values: list[int | None], cuts: list[tuple[int, int]]) -> None:
    """Pieces may share their memory, as slices do, without being one value."""
    piece = pa.array(values, pa.int64())
    column = pa.chunked_array([piece.slice(start, length) for start, length in cuts] or [piece], pa.int64())
    table = pa.table({"n": column})
    assert numbers(table, "n", -7).tolist() == [-7 if value is None else value for value in column.to_pylist()]


@pytest.mark.parametrize("value", [None, 5])
@pytest.mark.parametrize("length", [0, 1, 3, 300_000])
def test_a_repeated_value_reads_as_itself(value: int | None, length: int) -> None:
    column = repeat(pa.scalar(value, pa.int64()), length)
    assert len(column) == length
    assert set(numbers(pa.table({"n": column}), "n", -1).tolist()) <= {-1 if value is None else value}


NUMBERS = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.integers(-3, 6), st.integers(2**60, 2**60 + 3))), max_size=8
)


@given(NUMBERS.filter(bool), NUMBERS)
def test_rows_are_found_by_process_and_number(have: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    pid, number = np.array(have, np.int64).reshape(-1, 2).T
    asked_pid, asked = np.array(wanted, np.int64).reshape(-1, 2).T
    assert rows_of(pid, number, asked_pid, asked).tolist() == [have.index(one) if one in have else -1 for one in wanted]


def test_a_null_is_no_word() -> None:
    """Under a null stands some code all the same, here that of the word asked for; pieces have dictionaries apart."""
    pieces = [pa.array(["b", None, "c"]).dictionary_encode(), pa.array(["c", "b"]).dictionary_encode()]
    table = pa.table({"word": pa.chunked_array(pieces)})
    assert rows_with(table, "word", "b").tolist() == [True, False, False, False, True]
    assert rows_with(table, "word", "b", "c").tolist() == [True, False, True, True, True]
    assert not rows_with(table, "word", "a").any()
