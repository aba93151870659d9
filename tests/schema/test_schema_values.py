"""Arrow arrays as numpy arrays, without pandas."""

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.schema.values import values_of


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, -2, 3, 4], pa.int64()),
        pa.array([1, 2, 3, 4], pa.uint8()),
        pa.array([0.5, 2.0, -3.0, 4.0]),
        pa.array([True, False, False, True] * 5),
        pa.array([], pa.int32()),
        pa.array([], pa.bool_()),
    ],
)
def test_values_are_those_that_arrow_gives(column: pa.Array) -> None:
    for first in range(3):
        part = column[first:]
        assert values_of(part).tolist() == part.to_pylist()
        assert values_of(part).dtype == np.dtype(part.type.to_pandas_dtype())


def test_of_words_they_are_the_codes() -> None:
    column = pa.array(["b", "a", "b"]).dictionary_encode()
    assert values_of(column[1:]).tolist() == [1, 0]
