"""Which roofs a report is held against: a file the user names, a device the user names, or the report's own device.

A file is a table that `dsocr-nvtx ceilings` measured, or one JSON object.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from attrs import NOTHING, evolve, fields

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.join.columns import coded, numbers
from dsocr_nvtx.roofline.devices import device_roofs
from dsocr_nvtx.roofline.measured import read_measured
from dsocr_nvtx.schema.checking import read_json
from dsocr_nvtx.schema.hardware import Ceilings, datasheet, no_roofs

_NONE = "give the file that dsocr-nvtx ceilings -o FILE.arrow wrote, or --hardware NAME for a datasheet"
_REMEDY = (
    'write one JSON object such as {"device": "NVIDIA H200", "source": "by hand", '
    '"tensor": {"bfloat16": 989500000000000}, "vector": 66900000000000, "bandwidth": 4800000000000, '
    '"l2_bytes": 62914560, "tensor_clock_hz": 1830000000, "max_clock_hz": 1980000000}: FLOP/s, bytes/s, bytes, Hz'
)


def check_ceilings(path: Path) -> None:
    """Refuse what is no file: known before a report is read."""
    if not path.is_file():
        raise Refused(path, "a directory" if path.is_dir() else "no such file", _NONE)


def read_ceilings(path: Path) -> Ceilings:
    """Return the roofs in a JSON file; a missing, extra or wrong field is refused by name."""
    check_ceilings(path)
    if path.suffix == ".json":
        found = read_json(path, "not a readable JSON file, or not a JSON object", _REMEDY)
    else:
        found = read_json(path, "neither a table that ceilings wrote (.arrow) nor JSON of an object", _NONE)
    names = {field.name: field.default is NOTHING for field in fields(Ceilings)}
    for name in names.keys() | found.keys():
        if name not in names:
            raise Refused(path, f"unknown field {name!r}", _REMEDY)
        if names[name] and name not in found:
            raise Refused(path, f"field {name!r} is missing", _REMEDY)
        if name in found and not _fits(name, found[name]):
            raise Refused(path, f"field {name!r} is {found[name]!r}", _REMEDY)
    return Ceilings(**found)


def _fits(name: str, value: object) -> bool:
    if name in ("device", "source"):
        return isinstance(value, str)
    if name == "tensor":
        return isinstance(value, dict) and bool(value) and all(_rate(rate) for rate in value.values())
    return _rate(value) or (name == "l2_bandwidth" and value is None)


def _rate(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def roofs_of(devices: Iterable[Device], hardware: str | None, path: Path | None) -> Ceilings:
    """Return the roofs for a report's devices: measured, of a datasheet, or derived from what the report states.

    Where nothing tells them, or the report's devices are of several kinds (their rows would not compare), there are
    none (`no_roofs`). Refused: a device that the user names and nobody knows, and roofs measured on another kind.
    """
    present = list(devices)
    if path is not None:
        return read_measured(path, present) if path.suffix == ".arrow" else read_ceilings(path)
    if hardware is not None:
        found = datasheet(hardware)
        l2_bytes = max((device.l2_bytes for device in present if device.name == found.device), default=0)
        return evolve(found, l2_bytes=l2_bytes or found.l2_bytes)
    names = ", ".join(sorted({device.name for device in present if device.name}))
    kinds = list({evolve(device, ordinal=0, uuid=""): device for device in present}.values())
    if len(kinds) > 1:
        return no_roofs(names, f"none: several kinds of GPU in one report; {_NAME_ONE}")
    roofs = device_roofs(kinds[0]) if kinds else None
    return roofs or no_roofs(names, f"none: none are known for {names or 'a GPU without a name'}; {_NAME_ONE}")


_NAME_ONE = "pass --hardware NAME or --ceilings FILE, as dsocr-nvtx ceilings measures them"


def for_types(roofs: Ceilings, ranges: pa.Table) -> Ceilings:
    """Return the roofs if they have the matrix rate of every element type that MEASURED ranges multiply, else none."""
    codes, words = coded(ranges, "dtype")
    used = {words[code] for code in np.unique(codes[numbers(ranges, "tensor_flops") > 0])}
    lacking = sorted(word for word in used if roofs.tensor_peak(word) is None)
    if not roofs.is_known or not lacking:
        return roofs
    return no_roofs(roofs.device, f"none: {roofs.device} has no matrix rate for {', '.join(lacking)}; {_NAME_ONE}")
