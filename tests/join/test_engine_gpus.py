"""GPUs are told apart by what they are, not by the number that a process gives them."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.columns import numbers
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.report.scene import lay_out
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.roofline.rates import rates
from tests.builders.nsys import NsysFile
from tests.builders.tables import Row, payload, trace
from tests.join.test_join_engine import called
from tests.roofline.test_roofline_least import ROUND


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


# One thread. decoder.0 [0 .......... 500] launches a on GPU 0; decoder.1 [500 ..... 1000] launches b and c on GPU 1,
# then d on GPU 0. GPU 0: a 20..400, d 900..1000; idle 0..20 and 400..900. GPU 1: b 620..700, c 720..800; idle 0..620,
# 700..720, 800..1000.
SPLIT = trace(
    nvtx=[called("decoder.0", 0, 0, 500), called("decoder.1", 1, 500, 1000)],
    launches=[
        {"name": "cudaLaunchKernel", "start_ns": 10, "end_ns": 15, "correlation_id": 1},
        {"name": "cudaLaunchKernel", "start_ns": 600, "end_ns": 610, "correlation_id": 2},
        {"name": "cudaLaunchKernel", "start_ns": 710, "end_ns": 715, "correlation_id": 3},
        {"name": "cudaLaunchKernel", "start_ns": 880, "end_ns": 890, "correlation_id": 4},
    ],
    operations=[
        {"name": "gemm", "start_ns": 20, "end_ns": 400, "correlation_id": 1, "device": 0},
        {"name": "gemm", "start_ns": 620, "end_ns": 700, "correlation_id": 2, "device": 1},
        {"name": "gemm", "start_ns": 720, "end_ns": 800, "correlation_id": 3, "device": 1},
        {"name": "gemm", "start_ns": 900, "end_ns": 1000, "correlation_id": 4, "device": 0},
    ],
)


def test_of_one_process_on_two_gpus_each_row_has_the_time_of_one() -> None:
    """Idle time of both GPUs is no sum that one of them has: each is as long as the window."""
    joined = join(SPLIT, "by hand")
    times = {
        (row["path"], row["device"]): (row["busy_owned_ns"], row["idle_owned_ns"], row["launches"], row["origin"])
        for row in joined.ranges.to_pylist()
    }
    assert times == {
        ("decoder.0", 0): (380, 20 + 100, 1, "call"),
        ("decoder.0", 1): (0, 500, 0, "elsewhere"),
        ("decoder.1", 1): (160, 120 + 20 + 200, 2, "call"),
        ("decoder.1", 0): (100, 400, 1, "elsewhere"),
    }
    found = roofline(joined.operations, joined.ranges, ROUND)
    stages = {row["device"]: row for row in found.stages.to_pylist()}
    assert {device: row["wall_ns"] for device, row in stages.items()} == {0: 1000, 1: 1000}
    # One call and 10 FLOP of each layer, on its own GPU alone; a step on both.
    assert {device: (row["calls"], row["tensor_flops"], row["steps"]) for device, row in stages.items()} == {
        0: (1, 10, 1), 1: (1, 10, 1),
    }  # fmt: skip


def test_the_call_still_knows_what_it_launched_on_all_gpus() -> None:
    inclusive = {
        (row["path"], row["device"]): (row["inclusive_launches"], row["inclusive_kernel_ns"])
        for row in join(SPLIT, "by hand").ranges.to_pylist()
    }
    assert inclusive[("decoder.1", 1)] == (3, 260)  # b and c on its own, d on the other
    assert inclusive[("decoder.1", 0)] == (1, 100)
    assert inclusive[("decoder.0", 0)] == (1, 380)


def test_every_operation_lies_in_a_row_of_its_own_gpu() -> None:
    joined = join(SPLIT, "by hand")
    device = {row["event_id"]: row["device"] for row in joined.ranges.to_pylist()}
    for kernel in joined.kernels.to_pylist():
        assert device[kernel["event_id"]] == kernel["device"]
    drawn = lay_out(
        joined.kernels,
        joined.ranges,
        rates(joined.kernels, joined.ranges, roofline(joined.operations, joined.ranges, ROUND).rows, "by hand"),
        "GPU",
    )
    assert len(drawn.operations.row) == 4
    assert len(drawn.flows.operation) == 4


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=8))
def test_rows_of_each_gpu_add_up_to_its_wall_time(drawn: list[tuple[int, int, int]]) -> None:
    launches: list[Row] = [
        {"name": "cudaLaunchKernel", "start_ns": start, "end_ns": start + 1, "correlation_id": at}
        for at, (start, _, _) in enumerate(drawn, 1)
    ]
    operations: list[Row] = [
        {"name": "gemm", "start_ns": start + 1, "end_ns": start + 1 + ns, "correlation_id": at, "device": gpu}
        for at, (start, ns, gpu) in enumerate(drawn, 1)
    ]
    nvtx = [called("decoder.3", 0, 0, 60), called("decoder.3.mlp", 1, 10, 30), called("decoder.3.gate", 2, 30, 45)]
    joined = join(trace(nvtx=nvtx, launches=launches, operations=operations), "drawn")
    assert joined.accounting.balances()
    device, wall = (numbers(joined.ranges, name) for name in ("device", "wall_ns"))
    kernel_gpu, kernel_ns = numbers(joined.ranges, "device"), numbers(joined.ranges, "kernel_ns")
    for gpu in joined.accounting.devices:
        assert wall[device == gpu.device].sum() + gpu.idle_ns["none"] == gpu.wall_ns
        ran = sum(ns for _, ns, one in drawn if one == gpu.device)
        assert kernel_ns[kernel_gpu == gpu.device].sum() == ran
    assert len(set(joined.ranges["event_id"].to_pylist())) == len(joined.ranges)
    assert np.count_nonzero(numbers(joined.ranges, "tensor_flops")) == 3
