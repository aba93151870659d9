"""Arrow arrays as numpy arrays, without pandas."""

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.schema.values import values_of


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([1, -2, 3, 4], pa.int64()), np.int64),
        (pa.array([1, 2, 3, 4], pa.uint8()), np.uint8),
        (pa.array([0.5, 2.0, -3.0, 4.0]), np.float64),
        (pa.array([0.5, 2.0, -3.0, 4.0], pa.float32()), np.float32),
        (pa.array([True, False, False, True] * 5), np.bool_),
        (pa.array([], pa.int32()), np.int32),
        (pa.array([], pa.bool_()), np.bool_),
        (pa.array([], pa.string()), np.object_),
    ],
)
def test_values_are_those_that_arrow_gives(column: pa.Array, dtype: type[np.generic]) -> None:
    """Without pandas: `to_pandas_dtype` of pyarrow 15 to 25 fails where pandas is not installed."""
    for first in range(3):
        part = column[first:]
        assert values_of(part).tolist() == part.to_pylist()
        assert values_of(part).dtype == dtype


def test_of_words_they_are_the_codes() -> None:
    column = pa.array(["b", "a", "b"]).dictionary_encode()
    assert values_of(column[1:]).tolist() == [1, 0]
