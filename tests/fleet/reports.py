"""Tiny reports of ranks, and work for crews that must be found by their name in another process."""

import os
import signal
import time
from pathlib import Path

from dsocr_nvtx.schema.ranks import Rank, rank_mark
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload


def write_report(path: Path, rank: int = 0, *, world: int = 8, steps: int = 2, busy: int = 40, pace: int = 100) -> Path:
    """Write a report of one rank: ``steps`` calls of a layer, each with a kernel of ``busy`` ns, every ``pace`` ns."""
    file = NsysFile()
    file.device(identity=rank, pids=[7])
    file.domain(7)
    file.schema()
    file.mark(rank_mark(Rank(rank=rank, world_size=world, host=f"node-{rank // 2}")), 1, pid=7)
    for step in range(steps):
        begin = 100 + pace * step
        values = payload(
            event_id=step, step=step, stage=2, kind=4, level=2, layer=0, tensor_flops=10**6, weight_bytes=10**4
        )
        file.push_pop("decoder.0.mlp", begin, begin + pace, pid=7, values=values)
        file.launch("gemm", begin + 1, begin + 10, begin + 10 + busy, pid=7)
    return file.write(path)


def write_uneven(folder: Path) -> Path:
    """Write reports of three ranks 0: the median of wall time is 20 ms, of busy and of idle time 16 ms each."""
    folder.mkdir()
    for at, (busy, pace, steps) in enumerate(((2, 10, 2), (8, 10, 2), (8, 30, 4))):
        write_report(folder / f"r{at}.sqlite", 0, busy=busy * 10**6, pace=pace * 10**6, steps=steps)
    return folder


def deadly(number: int) -> int:
    """Return the square of a number; 3 kills its process."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def deadly_once(path: str) -> str:
    """Kill the process that comes first, and no other."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"
