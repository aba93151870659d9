"""Which GPU a process means by its device ordinal, from the target tables of an nsys export.

``deviceId`` is a CUDA ordinal, ``TARGET_INFO_GPU.id`` another numbering, and they differ in practice; the map is
``TARGET_INFO_CUDA_DEVICE`` (per process, since processes may see different devices), else ``cuDevice``.
"""

from collections.abc import Iterable
from typing import Any

from attrs import evolve

from dsocr_nvtx.ingest.bounds import DEVICE
from dsocr_nvtx.ingest.source import NULL, Source
from dsocr_nvtx.ingest.trace import Device

_COLUMNS = (
    "id", "cuDevice", "smCount", "clockRate", "l2CacheSize", "memoryBandwidth", "computeMajor", "computeMinor",
)  # fmt: skip


def read_devices(report: Source, used: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Device]:
    """Return the device behind each (process id, ordinal) in use, nameless where the report does not say."""
    gpus = _gpus(report)
    by_ordinal = {ordinal: gpu for gpu, ordinal in gpus.values() if ordinal != NULL}
    by_process = _by_process(report)
    return {
        (pid, ordinal): evolve(
            gpus[by_process[pid & 0xFFFFFF, ordinal]][0]
            if by_process.get((pid & 0xFFFFFF, ordinal)) in gpus
            else by_ordinal.get(ordinal, Device(ordinal=ordinal, name="")),
            ordinal=ordinal,
        )
        for pid, ordinal in used
    }


def possible_device(device: Device) -> Device:
    """Return a device without the figures that none has: they are not known."""
    told = {name: getattr(device, name) for name in DEVICE}
    known: dict[str, Any] = {n: v if DEVICE[n].low <= v <= DEVICE[n].high else 0 for n, v in told.items()}
    return evolve(device, **known)


def _gpus(report: Source) -> dict[int, tuple[Device, int]]:
    """Return GPU id -> (device, CUDA ordinal as far as the table knows it)."""
    table = "TARGET_INFO_GPU" if report.has("TARGET_INFO_GPU") else "TARGET_INFO_CUDA_GPU"
    if not report.has(table, "id", "name"):
        return {}
    numbers = report.integers(table, _COLUMNS)
    texts = zip(*(report.strings(table, column).to_pylist() for column in ("name", "uuid")), strict=True)
    found = {}
    for row, (name, identity) in enumerate(texts):
        known = {column: int(numbers[column][row]) for column in _COLUMNS}
        sizes = {column: max(known[column], 0) for column in _COLUMNS}
        device = Device(
            ordinal=sizes["cuDevice"],
            name=str(name or ""),
            sm_count=sizes["smCount"],
            clock_hz=sizes["clockRate"],
            l2_bytes=sizes["l2CacheSize"],
            uuid=str(identity or ""),
            bandwidth=sizes["memoryBandwidth"],
            capability=(sizes["computeMajor"], sizes["computeMinor"]),
        )
        found[known["id"]] = (possible_device(device), known["cuDevice"])
    return found


def _by_process(report: Source) -> dict[tuple[int, int], int]:
    c = report.integers("TARGET_INFO_CUDA_DEVICE", ("pid", "cudaId", "gpuId"))
    return {(int(p), int(o)): int(g) for p, o, g in zip(c["pid"], c["cudaId"], c["gpuId"], strict=True)}
