"""Which roofs a report is held against: a file the user names, a device the user names, or the report's own device.

A file is a table that `dsocr-nvtx ceilings` measured, or one JSON object.
"""

from collections.abc import Iterable
from pathlib import Path

from attrs import NOTHING, evolve, fields

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.roofline.measured import read_measured
from dsocr_nvtx.schema.checking import read_json
from dsocr_nvtx.schema.hardware import Ceilings, datasheet

_NONE = "give the file that dsocr-nvtx ceilings -o FILE.arrow wrote, or --hardware NAME for a datasheet"
_REMEDY = "write the fields of dsocr_nvtx.schema.hardware.Ceilings as one JSON object"


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
    """Return the roofs for a report's devices, with the L2 size that the report states.

    Refused: devices of different names (their rows would not compare), a device whose roofs are not known, and roofs
    measured on another kind of device.
    """
    present = list(devices)
    if path is not None:
        return read_measured(path, present) if path.suffix == ".arrow" else read_ceilings(path)
    names = sorted({device.name for device in present})
    if hardware is None and len(names) > 1:
        raise Refused(", ".join(names), "several kinds of GPU in one report", "pass --hardware NAME or --ceilings FILE")
    found = datasheet(hardware or (names[0] if names else ""))
    l2_bytes = max((device.l2_bytes for device in present if device.name == found.device), default=0)
    return evolve(found, l2_bytes=l2_bytes or found.l2_bytes)
