"""What every integer column of a report and every field of a payload may hold: the one place that says so."""

from collections.abc import Mapping

from attrs import frozen

from dsocr_nvtx.ingest.source import NULL, Ints, Mask
from dsocr_nvtx.schema.payload import Flag
from dsocr_nvtx.schema.records import DTYPE_BYTES, LayerKind, Level, Stage


@frozen
class Bounds:
    """What a column may hold: from ``low`` to ``high``, and NULL where it may be missing."""

    low: int
    high: int
    null: bool = False

    def broken(self, values: Ints) -> Mask | None:
        """Return the rows that hold something else; None where there are none."""
        low, high = extent(values)
        if self.low <= low and high <= self.high:
            return None
        broken = (values < self.low) | (values > self.high)
        if self.null:
            broken &= values != NULL
        return broken if broken.any() else None


_WORD = (1 << 63) - 1
_ID = Bounds(0, (1 << 32) - 1)
_PACKED = Bounds(-_WORD, _WORD)
_COUNT = Bounds(0, _WORD)
_DEVICE = Bounds(0, (1 << 16) - 1)
_OPERATION = {
    "globalPid": _PACKED,
    "deviceId": _DEVICE,
    "streamId": _ID,
    "correlationId": Bounds(-(1 << 31), (1 << 32) - 1, null=True),
    "demangledName": _COUNT,
    "gridX*gridY*gridZ": _COUNT,
    "blockX*blockY*blockZ": Bounds(0, (1 << 31) - 1),
    "bytes": Bounds(0, 1 << 50),
    "copyKind": Bounds(0, 255),
}
_EVENT = {"globalTid": _PACKED, "domainId": Bounds(0, _WORD, null=True)}
BOUNDS: Mapping[str, Mapping[str, Bounds]] = {
    "CUPTI_ACTIVITY_KIND_KERNEL": _OPERATION,
    "CUPTI_ACTIVITY_KIND_MEMCPY": _OPERATION,
    "CUPTI_ACTIVITY_KIND_MEMSET": _OPERATION,
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": _OPERATION,
    "CUPTI_ACTIVITY_KIND_RUNTIME": {
        "globalTid": _PACKED,
        "correlationId": Bounds(-(1 << 31), (1 << 32) - 1, null=True),
        "nameId": _COUNT,
    },
    "NVTX_EVENTS": _EVENT,
    "CUDA_GRAPH_NODE_EVENTS": {"globalTid": _PACKED, "graphNodeId": _PACKED},
    "CUDA_GRAPH_EVENTS": {"globalTid": _PACKED, "graphNodeId": _PACKED},
}
"""By table and column (or product of columns). A product that does not fit is NULL (`dsocr_nvtx.ingest.source`)."""

DEVICE: Mapping[str, Bounds] = {
    "sm_count": Bounds(1, 1 << 12),
    "clock_hz": Bounds(10**8, 10**10),
    "l2_bytes": Bounds(1 << 16, 1 << 40),
    "bandwidth": Bounds(10**9, 10**15),
}
"""What is told of a GPU. What it cannot have is not known, which is zero."""

_MOST = 1 << 61
"""No count or cost of one call reaches this."""

_CODES = {"stage": len(Stage), "kind": len(LayerKind), "level": len(Level), "dtype": len(DTYPE_BYTES)}


def payload_bounds(name: str) -> Bounds:
    """Return what a field of a payload may hold: a code of what there is, a layer, or a count."""
    if name in _CODES:
        return Bounds(-1 if name == "kind" else 0, _CODES[name] - 1)
    return _FIELDS.get(name, Bounds(0, _MOST))


_FIELDS = {"layer": Bounds(-1, (1 << 16) - 1), "keys": Bounds(0, 1 << 30), "flags": Bounds(0, int(~Flag(0)))}
INCREMENT = Bounds(-(1 << 30), 1 << 30)
"""What a key more may add: with as many keys as there may be, no sum leaves 64 bits."""


def extent(values: Ints) -> tuple[int, int]:
    """Return the least and the largest value; of none, zeros."""
    if not len(values):
        return 0, 0
    if values.strides == (0,):
        return int(values[0]), int(values[0])
    return int(values.min()), int(values.max())
