"""The process and thread in nsys's packed ids: ``globalTid`` and ``globalPid``."""

from dsocr_nvtx.ingest.source import Ints, mapped

_USUAL = 1 << 24


def pid_of(global_id: Ints) -> Ints:
    """Return the number of the process packed in a globalTid or globalPid: of its machine, its virtual one and its id.

    For machine 0 and virtual machine 1, which all reports of one machine say, it is the system's process id.
    """
    return mapped(lambda packed: (packed >> 24) ^ _USUAL, global_id)


def system_pid(process: Ints) -> Ints:
    """Return the system's own process ids, which several machines share, of numbers of processes."""
    return mapped(lambda number: number & 0xFFFFFF, process)


def tid_of(global_id: Ints) -> Ints:
    """Return the thread id packed in a globalTid."""
    return mapped(lambda packed: packed & 0xFFFFFF, global_id)
