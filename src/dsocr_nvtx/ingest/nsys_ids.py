"""The process and thread in nsys's packed ids: ``globalTid`` and ``globalPid``."""

from dsocr_nvtx.ingest.source import Ints


def pid_of(global_id: Ints) -> Ints:
    """Return the process id packed in a globalTid or globalPid."""
    return (global_id >> 24) & 0xFFFFFF


def tid_of(global_id: Ints) -> Ints:
    """Return the thread id packed in a globalTid."""
    return global_id & 0xFFFFFF
