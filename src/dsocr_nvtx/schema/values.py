"""Arrow arrays as numpy arrays of the same memory.

Arrow's own ``to_numpy`` imports pandas wherever that is installed, which takes longer than a small report's whole join;
``to_pandas_dtype`` of its releases before 26 does too, and fails where pandas is not installed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_NUMPY = {
    pa.bool_(): np.bool_,
    **{getattr(pa, name)(): getattr(np, name) for name in ("int8", "int16", "int32", "int64")},
    **{getattr(pa, name)(): getattr(np, name) for name in ("uint8", "uint16", "uint32", "uint64")},
    **{getattr(pa, name)(): getattr(np, name) for name in ("float16", "float32", "float64")},
}


def values_of(column: pa.Array) -> npt.NDArray[Any]:
    """Return the numbers or truth values of an array, the former read-only; under a null stands whatever stands there.

    Of a dictionary array they are the codes.
    """
    if pa.types.is_dictionary(column.type):
        return values_of(column.indices)
    end, dtype = column.offset + len(column), np.dtype(_NUMPY.get(column.type, np.object_))
    if pa.types.is_null(column.type) or not len(column):
        return np.zeros(len(column), dtype)
    if pa.types.is_boolean(column.type):
        bits = np.unpackbits(np.frombuffer(column.buffers()[1], np.uint8), count=end, bitorder="little")
        return bits[column.offset :].view(np.bool_)
    return np.frombuffer(column.buffers()[1], dtype, end)[column.offset :]
