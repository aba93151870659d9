"""The fields of payloads as they are gathered, in as few bytes as they need."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.ingest.column import least_kind
from dsocr_nvtx.ingest.source import Ints, Mask
from dsocr_nvtx.schema.payload import READ_FIELDS


class Fields:
    """`READ_FIELDS` of payloads as they come, each field in as few bytes as its numbers fit."""

    def __init__(self, rows: int) -> None:
        self._known = np.zeros(rows, bool)
        self._columns: list[npt.NDArray[np.signedinteger[Any]]] = [np.empty(rows, np.int8) for _ in READ_FIELDS]
        self._least, self._most = np.zeros((2, len(READ_FIELDS)), np.int64)

    def put(self, rows: Ints | slice, values: Ints, known: Mask) -> None:
        """Take some rows' fields, [rows, fields], and which of them have any."""
        if not len(values):
            return
        self._known[rows] = known
        fields = np.ascontiguousarray(values.T)
        least, most = np.minimum(fields.min(axis=1), self._least), np.maximum(fields.max(axis=1), self._most)
        for at in np.flatnonzero((least < self._least) | (most > self._most)).tolist():
            kind = least_kind(int(least[at]), int(most[at]))
            self._columns[at] = self._columns[at].astype(kind, copy=False)
        self._least, self._most = least, most
        for column, field in zip(self._columns, fields, strict=True):
            column[rows] = field

    def array(self) -> pa.StructArray:
        """Return all rows, null where there is no payload."""
        unknown = ~self._known
        if unknown.all():
            return pa.nulls(len(unknown), pa.struct([(name, pa.int8()) for name in READ_FIELDS]))
        for column in self._columns if unknown.any() else ():
            column[unknown] = 0
        mask = pa.array(unknown) if unknown.any() else None
        return pa.StructArray.from_arrays([pa.array(column) for column in self._columns], READ_FIELDS, mask=mask)
