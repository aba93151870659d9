"""The process and thread in nsys's packed ids: ``globalTid`` and ``globalPid``."""

from dsocr_nvtx.ingest.source import Ints, mapped


def pid_of(global_id: Ints) -> Ints:
    """Return the process id packed in a globalTid or globalPid."""
    return mapped(lambda packed: (packed >> 24) & 0xFFFFFF, global_id)


def tid_of(global_id: Ints) -> Ints:
    """Return the thread id packed in a globalTid."""
    return mapped(lambda packed: packed & 0xFFFFFF, global_id)
