"""HOST_CALLS: every CUDA call once, in the step of the range that was open on its thread."""

from dsocr_nvtx.join.engine import join
from tests.builders.tables import Row, payload, trace
from tests.join.test_join_costs import packed


def test_calls_are_counted_in_the_step_of_their_range_and_those_outside_apart() -> None:
    ranges: list[Row] = [
        {
            "path": "model", "start_ns": 100 * step, "end_ns": 100 * step + 80,
            "payload": packed(payload(event_id=step + 1, step=step, tensor_flops=1)),
        }
        for step in range(2)
    ]  # fmt: skip
    launches: list[Row] = [
        {"name": name, "start_ns": start, "end_ns": start + length, "correlation_id": start, **more}
        for name, start, length, more in (
            ("cudaLaunchKernel", 10, 5, {}), ("cudaLaunchKernel", 20, 9, {}), ("cudaMalloc", 30, 40, {}),
            ("cudaLaunchKernel", 110, 6, {}), ("cudaLaunchKernel", 190, 3, {}),
            ("cudaLaunchKernel", 120, 2, {"tid": 9}),
        )
    ]  # fmt: skip
    operations: list[Row] = [{"start_ns": 16, "end_ns": 19, "correlation_id": 10}]
    told = [tuple(row.values()) for row in join(trace(ranges, operations, launches), "here").host_calls.to_pylist()]
    assert told == [
        (None, None, "cudaLaunchKernel", 2, 5, 3),
        ("decode", 0, "cudaLaunchKernel", 2, 14, 9),
        ("decode", 0, "cudaMalloc", 1, 40, 40),
        ("decode", 1, "cudaLaunchKernel", 1, 6, 6),
    ]
