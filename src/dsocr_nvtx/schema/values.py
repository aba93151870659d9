"""Arrow arrays as numpy arrays of the same memory.

Arrow's own ``to_numpy`` imports pandas wherever that is installed, which takes longer than a small report's whole join.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def values_of(column: pa.Array) -> npt.NDArray[Any]:
    """Return the numbers or truth values of an array, the former read-only; under a null stands whatever stands there.

    Of a dictionary array they are the codes.
    """
    if pa.types.is_dictionary(column.type):
        return values_of(column.indices)
    end = column.offset + len(column)
    if pa.types.is_null(column.type) or not len(column):
        return np.zeros(len(column), column.type.to_pandas_dtype())
    if pa.types.is_boolean(column.type):
        bits = np.unpackbits(np.frombuffer(column.buffers()[1], np.uint8), count=end, bitorder="little")
        return bits[column.offset :].view(np.bool_)
    return np.frombuffer(column.buffers()[1], column.type.to_pandas_dtype(), end)[column.offset :]
