"""Version 1 of the wire, as captures up to November 2026 have it, read into the fields of version 2.

Its costs are inclusive: a range's cost holds that of the ranges inside it, and ``own_activation_bytes`` is what is left
of ``activation_bytes`` when those are reported apart (lower bounds of activations do not subtract). The sequences of a
call are of one length, and nothing says that a cost is not known.
"""

import numpy as np

from dsocr_nvtx.schema.payload import FIELD_INDEX, READ_FIELDS, WIRE
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.wire import Ints, Wire

PAYLOAD_FIELDS_V1: tuple[str, ...] = (
    "event_id", "stage", "step", "layer", "kind", "level", "dtype", "batch", "tokens", "kv_len",
    *COST_FIELDS, "own_activation_bytes",
)  # fmt: skip
FIELD_INDEX_V1: dict[str, int] = {name: position for position, name in enumerate(PAYLOAD_FIELDS_V1)}


def _read(values: Ints) -> Ints:
    found = _shared(values)
    batch, tokens, kv_len = (values[:, FIELD_INDEX_V1[name]] for name in ("batch", "tokens", "kv_len"))
    found[:, FIELD_INDEX["sequences"]] = batch
    found[:, FIELD_INDEX["rows"]] = _product(batch, tokens)
    found[:, FIELD_INDEX["keys"]] = _product(batch, kv_len)
    found[:, READ_FIELDS.index("version")] = 1
    return found


def _read_increments(values: Ints, increments: Ints) -> Ints:
    """Return what one key more in each sequence adds: the number of sequences stays."""
    found, batch = _shared(increments), values[:, FIELD_INDEX_V1["batch"]]
    for name, whole in (("tokens", "rows"), ("kv_len", "keys")):
        found[:, FIELD_INDEX[whole]] = _product(batch, increments[:, FIELD_INDEX_V1[name]])
    return found


def _product(one: Ints, other: Ints) -> Ints:
    """Return products; -1, which no count is, where one does not fit 64 bits."""
    return np.where(np.abs(one.astype(np.float64) * other) < 2.0**62, one * other, -1)


def _shared(values: Ints) -> Ints:
    found = np.zeros((len(values), len(READ_FIELDS)), np.int64)
    for place, name in enumerate(PAYLOAD_FIELDS_V1):
        if name in READ_FIELDS:
            found[:, READ_FIELDS.index(name)] = values[:, place]
    return found


WIRE_V1 = Wire(fields=PAYLOAD_FIELDS_V1, prefix="dsocr/1", read=_read, read_increments=_read_increments)

WIRES = (WIRE, WIRE_V1)
"""Every version that readers know."""
