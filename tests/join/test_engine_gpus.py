"""GPUs are told apart by what they are, not by the number that a process gives them."""

from pathlib import Path

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload


def _two_processes(identities: tuple[int, int], path: Path) -> list[tuple[int, int, int]]:
    """Two processes, each with its own device 0; return (device, operations, busy) of every GPU found."""
    file = NsysFile()
    for identity in sorted(set(identities)):
        pids = [pid for pid, own in zip((1, 2), identities, strict=True) if own == identity]
        file.device(identity=identity, pids=pids)
    file.schema()
    for pid in (1, 2):
        file.domain(pid)
        file.push_pop("lm_head", 100, 500, pid=pid, values=payload(event_id=pid))
        file.launch("gemm", 110, 200, 300, pid=pid)
    joined = join(read(file.write(path)), path.name)
    assert joined.accounting.balances()
    return [(gpu.device, gpu.operations, gpu.busy_ns) for gpu in joined.accounting.devices]


def test_two_gpus_of_one_number_are_two(tmp_path: Path) -> None:
    """Each kernel runs from 200 to 300 on a GPU of its own: 100 ns busy on both."""
    assert _two_processes((0, 1), tmp_path / "two.sqlite") == [(0, 1, 100), (0, 1, 100)]


def test_one_gpu_of_two_processes_is_one(tmp_path: Path) -> None:
    """Both kernels run from 200 to 300 on the same GPU: 100 ns busy together."""
    assert _two_processes((0, 0), tmp_path / "one.sqlite") == [(0, 2, 100)]
