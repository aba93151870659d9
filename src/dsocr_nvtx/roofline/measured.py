"""Roofs that `dsocr-nvtx ceilings` measured, read from its table, and what it measured of launching.

The roof of a matrix or vector rate is the fastest row, burst or sustained; memory's is the best read; the L2's, where
it was measured, the best read from it. Rates nobody measured are the datasheet's, and ``source`` says which.
"""

from pathlib import Path

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.gauges import CEILINGS
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings
from dsocr_nvtx.schema.ranks import gpu_identity

_REMEDY = "measure them with dsocr-nvtx ceilings -o FILE.arrow"
_LAUNCHING = ("host_launch", "stream_period", "replay_period", "shortest_kernel")
_RATED = ("quantity", "median", "is_roof")
_MOST = 1e18
"""No rate and no time that is measured reaches this, in a second or in nanoseconds."""


def read_measured(path: Path, present: list[Device]) -> Ceilings:
    """Return the roofs in a CEILINGS table; refuse one of another kind of GPU than all of ``present``.

    Another card of the same name is taken, and ``source`` says so.
    """
    table = _read(path)
    about = _about(table)
    name = about.get("device", "")
    others = sorted({device.name for device in present} - {name})
    if others:
        raise Refused(path, f"the roofs of {name or 'a nameless GPU'}, not of {', '.join(others)}", _REMEDY)
    roofs = {(row["quantity"], row["dtype"]): row for row in table.to_pylist() if row["is_roof"]}
    tensor = {str(dtype): round(row["median"]) for (quantity, dtype), row in roofs.items() if quantity == "matmul"}
    read, vector, l2 = (roofs.get(key) for key in (("read", None), ("vector", "float32"), ("l2_read", None)))
    known = DATASHEET.get(name)
    if not tensor or read is None or (vector is None and known is None):
        lacking = "matmul" if not tensor else "read" if read is None else "vector"
        raise Refused(path, f"no roof for {lacking}", _REMEDY)
    clock = _tensor_clock(list(roofs.values()), about, known)
    return Ceilings(
        device=name,
        tensor=tensor,
        vector=round(vector["median"]) if vector is not None else known.vector if known is not None else 0,
        bandwidth=round(read["median"]),
        l2_bytes=_whole(about, "l2_bytes") or max((d.l2_bytes for d in present), default=0) or _l2_of(known),
        l2_bandwidth=round(l2["median"]) if l2 is not None else None,
        tensor_clock_hz=clock[0],
        max_clock_hz=clock[1],
        source=_source(path, about, present, has_vector=vector is not None),
    )


def read_launching(path: Path) -> dict[str, str]:
    """Return what a CEILINGS table says of launching, in ns, as text for a table's metadata; JSON says nothing."""
    if path.suffix != ".arrow":
        return {}
    rows = {row["quantity"]: row["median"] for row in _read(path).to_pylist() if row["quantity"] in _LAUNCHING}
    return {f"{name}_ns": str(round(value)) for name, value in rows.items()}


def _read(path: Path) -> pa.Table:
    table = read_table(path, CEILINGS, remedy=_REMEDY)
    for quantity, median, is_roof in zip(*(table[name].to_pylist() for name in _RATED), strict=True):
        if (is_roof or quantity in _LAUNCHING) and not 0 < median < _MOST:  # nor NaN
            raise Refused(path, f"{quantity} is {median}", _REMEDY)
    return table


def _about(table: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def _whole(about: dict[str, str], name: str) -> int:
    text = about.get(name, "")
    return int(text) if text.isdigit() else 0


def _l2_of(known: Ceilings | None) -> int:
    return known.l2_bytes if known is not None else 0


def _tensor_clock(rows: list[dict[str, object]], about: dict[str, str], known: Ceilings | None) -> tuple[int, int]:
    """Return (the lowest clock at which a matrix roof was reached, the highest clock of the device), in Hz.

    Without NVML both are the highest clock known: nothing is then said to lie above a roof for its clock.
    """
    held = [row["sm_clock_mhz"] for row in rows if row["quantity"] in ("matmul", "vector")]
    clocks = [round(mhz * 1e6) for mhz in held if isinstance(mhz, float) and mhz > 0]
    highest = max([_whole(about, "max_sm_clock_mhz") * 10**6, known.max_clock_hz if known is not None else 0, *clocks])
    return (min(clocks) if clocks else highest or 1), highest or 1


def _source(path: Path, about: dict[str, str], present: list[Device], *, has_vector: bool) -> str:
    text = f"measured {about.get('date', '')}, {path.name}"
    cards = {gpu_identity(device.uuid) for device in present if device.uuid}
    if cards and about.get("uuid") and cards != {gpu_identity(about["uuid"])}:
        text += ", on another card of this name"
    return text if has_vector else f"{text}; vector rate by the datasheet"
