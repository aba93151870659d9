"""CUPTI in the process: buffers parsed to the record, clocks aligned, and a directory that joins as a report does."""

import ctypes
import os
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
import torch
from tests.hooks.networks import network, run

from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.hooks import hook
from dsocr_nvtx.ingest.cupti import run_directory
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.run.cupti_capture import CuptiCapture, usable_cupti
from dsocr_nvtx.run.cupti_library import CALLS, OPERATIONS, Cupti, _unwanted, demangler
from dsocr_nvtx.run.timing import choose_timing
from dsocr_nvtx.schema.files import read_table

OPERATION = np.dtype(
    [("kind", "<i4"), ("correlation_id", "<u4"), ("start", "<u8"), ("end", "<u8"), ("device_id", "<u4"),
     ("stream_id", "<u4"), ("graph_node_id", "<u8"), ("name", "<u8"), ("grid_x", "<i4"), ("grid_y", "<i4"),
     ("grid_z", "<i4"), ("block_x", "<i4"), ("block_y", "<i4"), ("block_z", "<i4"), ("bytes", "<u8"),
     ("copy_kind", "u1"), ("pad", "u1", 7)]
)  # fmt: skip
CALL = np.dtype([("kind", "<i4"), ("cbid", "<u4"), ("start", "<u8"), ("end", "<u8"), ("thread_id", "<u4"),
                 ("correlation_id", "<u4")])  # fmt: skip
NAME = ctypes.create_string_buffer(b"_ZN2at6native4gemmEv")
DRIVER, RUNTIME = CALLS
LAUNCH = 211
"""The number of a function of the runtime."""
AHEAD_NS = 5_000_000
"""How far the other clock is ahead of ours."""


class Library:
    """A CUPTI whose records are what a test puts into the buffers."""

    def __init__(self) -> None:
        self.layouts = {**dict.fromkeys(OPERATIONS, OPERATION), **dict.fromkeys(CALLS, CALL)}
        self.lost = 0
        self.callbacks: tuple[Any, Any] = (None, None)
        self.pending: list[np.ndarray] = []

    def enable(self, requested: Any, completed: Any) -> None:
        self.callbacks = (requested, completed)

    def disable(self) -> None:
        requested, completed = self.callbacks
        for records in self.pending:
            buffer, size, most = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
            requested(ctypes.byref(buffer), ctypes.byref(size), ctypes.byref(most))
            data = records.tobytes()
            assert len(data) <= size.value
            ctypes.memmove(buffer.value or 0, data, len(data))
            completed(None, 0, buffer, size, len(data))
        buffer, size, most = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        requested(ctypes.byref(buffer), ctypes.byref(size), ctypes.byref(most))
        completed(None, 0, buffer, size, 0)

    def listen(self, callback: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(1)

    def unlisten(self, subscriber: ctypes.c_void_p) -> None:
        assert subscriber.value == 1

    def clock(self) -> int:
        return perf_counter_ns() + AHEAD_NS

    def dropped(self, context: object, stream: int) -> int:
        return self.lost

    def offsets(self, block: np.ndarray, length: int) -> np.ndarray:
        found, at = [], 0
        while at < length:
            found.append(at)
            at += self.layouts[int(block[at : at + 4].view("<i4")[0])].itemsize
        return np.array(found)

    def function_name(self, kind: int, number: int) -> str:
        return "cudaLaunchKernel_v7000" if kind == RUNTIME else "cuLaunchKernel"


def kernel(correlation: int, start: int, kind: int = 10) -> np.ndarray:
    row = np.zeros(1, OPERATION)
    row["kind"], row["correlation_id"] = kind, correlation
    row["start"], row["end"] = start + AHEAD_NS, start + 1000 + AHEAD_NS
    row["name"], row["grid_x"], row["grid_y"], row["grid_z"] = ctypes.addressof(NAME), 4, 2, 1
    row["block_x"], row["block_y"], row["block_z"], row["bytes"], row["copy_kind"] = 128, 1, 1, 64, 1
    return row


def call(correlation: int, start: int, tid: int, kind: int = RUNTIME, function: int = LAUNCH) -> np.ndarray:
    row = np.zeros(1, CALL)
    row["kind"], row["correlation_id"], row["thread_id"], row["cbid"] = kind, correlation, tid, function
    row["start"], row["end"] = start + AHEAD_NS, start + 10 + AHEAD_NS
    return row


def captured(fill: Any) -> CuptiCapture:
    library = Library()
    capture = CuptiCapture(library)  # type: ignore[arg-type]
    with capture.recording():
        fill(library.pending)
    return capture


def bytes_of(*records: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"".join(record.tobytes() for record in records), np.uint8)


def test_records_of_every_kind_are_read_and_times_are_on_our_clock(tmp_path: Path) -> None:
    now = perf_counter_ns()
    first = bytes_of(call(1, now, 7), kernel(1, now + 50), call(2, now + 90, 7, DRIVER), call(2, now + 80, 7))
    second = bytes_of(kernel(2, now + 2000, kind=1), kernel(3, now + 4000, kind=2), call(3, now + 100, 7, DRIVER))
    capture = captured(lambda pending: pending.extend([first, second]))
    assert capture.write(tmp_path, {0: {"name": "NVIDIA H200"}}) == 3
    rows = read_table(tmp_path / "timings" / "operations.arrow").to_pylist()
    assert [row["operation"] for row in rows] == ["kernel", "memcpy", "memset"]
    assert rows[0]["name"] == "at::native::gemm()"
    assert (rows[0]["blocks"], rows[0]["threads"], rows[1]["bytes"]) == (8, 128, 64)
    assert [abs(row["start_ns"] - now - at) < 50_000 for row, at in zip(rows, (50, 2000, 4000), strict=True)]
    assert rows[0]["end_ns"] - rows[0]["start_ns"] == pytest.approx(1000, abs=5)
    assert rows[0]["graph_node_id"] is None
    calls = read_table(tmp_path / "timings" / "launches.arrow").to_pylist()
    # The driver's call 2 was made by the runtime's call 2, so it is the same launch.
    assert sorted((row["correlation_id"], row["name"]) for row in calls) == [
        (1, "cudaLaunchKernel_v7000"), (2, "cudaLaunchKernel_v7000"), (3, "cuLaunchKernel"),
    ]  # fmt: skip


def test_lost_records_are_an_error_with_their_number(tmp_path: Path) -> None:
    library = Library()
    capture = CuptiCapture(library)  # type: ignore[arg-type]
    with capture.recording():
        library.lost = 17
        library.pending.append(bytes_of(kernel(1, perf_counter_ns())))
    with pytest.raises(Unavailable, match="dropped 17 records"):
        capture.write(tmp_path, {})


def test_more_buffers_than_were_made_ahead_lose_nothing(tmp_path: Path) -> None:
    now = perf_counter_ns()
    many = [bytes_of(kernel(number, now + number)) for number in range(40)]
    capture = captured(lambda pending: pending.extend(many))
    assert capture.write(tmp_path, {}) == 40


def test_a_run_directory_joins_as_a_report_does(tmp_path: Path) -> None:
    model, library = network(), Library()
    capture = CuptiCapture(library)  # type: ignore[arg-type]
    with hook(model) as session, capture.recording():
        run(model, session, tokens=3)
        records = [r for r in session.stats.records if r.path in ("decoder.1.attention", "lm_head", "projector")]
        for number, record in enumerate(records, 1):
            at = (record.host_start_ns + record.host_end_ns) // 2
            launch = call(number, at, record.thread_id)
            library.pending.append(bytes_of(launch, kernel(number, at + 20_000_000 * number)))
    session.write(tmp_path)
    capture.write(tmp_path, {0: {"name": "NVIDIA H200", "sm_count": 132}})
    assert run_directory(tmp_path) == run_directory(tmp_path / "timings") == tmp_path
    assert run_directory(tmp_path.parent) is None
    trace = read_report(tmp_path)
    assert trace.devices[os.getpid(), 0].sm_count == 132
    joined = join(trace, "run")
    found = {row["event_id"]: row for row in joined.ranges.to_pylist()}
    assert {e for e, row in found.items() if row["launches"]} == {record.event_id for record in records}
    for record in records:
        row = found[record.event_id]
        assert (row["path"], row["stage"], row["step"]) == (record.path, str(record.stage), record.step)
        assert row["tensor_flops"] == record.cost.tensor_flops
    assert joined.accounting.cost_sources["binary"] == len(joined.ranges)


def test_calls_that_launch_or_wait_are_recorded_and_others_are_not() -> None:
    names = ("cudaGetDevice_v3020", "cudaLaunchKernel_v7000", "cuLaunchKernelEx", "cuGetProcAddress", "INVALID", "SIZE")

    class Member(int):
        name: str

    numbered = [Member(number) for number in range(len(names))]
    for number, name in zip(numbered, names, strict=True):
        number.name = name
    assert [names[number] for number in _unwanted(numbered)] == ["cudaGetDevice_v3020", "cuGetProcAddress"]


@pytest.mark.parametrize("calls", [(DRIVER, RUNTIME), (RUNTIME,), ()])
def test_only_what_is_wanted_is_enabled_and_the_same_disabled(calls: tuple[int, ...]) -> None:
    said: list[tuple[str, tuple[int, ...]]] = []

    class Functions:
        def __getattr__(self, name: str) -> Any:
            return lambda *given: said.append(
                (name.removeprefix("cupti"), tuple(getattr(g, "value", g) for g in given))
            )

    cupti = Cupti(Functions(), {}, {DRIVER: (5,), RUNTIME: (6, 7)}, calls)
    cupti.enable(None, None)
    kinds = {*OPERATIONS, *calls}
    assert {given[0] for name, given in said if name == "ActivityEnable"} == kinds
    assert (("ActivityEnableRuntimeApi", (6, 0)) in said) == (RUNTIME in calls)
    assert (("ActivityEnableDriverApi", (5, 0)) in said) == (DRIVER in calls)
    said.clear()
    cupti.disable()
    assert {given[0] for name, given in said if name == "ActivityDisable"} == kinds
    assert said[-1][0] == "ActivityFlushAll"


def test_another_tool_that_holds_cupti_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSYS_PROFILING_SESSION_ID", "1")
    with pytest.raises(Unavailable, match="Nsight Systems holds CUPTI"):
        usable_cupti()


def test_timing_is_what_was_asked_or_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSYS_PROFILING_SESSION_ID", raising=False)
    monkeypatch.delenv("NVTX_INJECTION64_PATH", raising=False)
    cuda, said = torch.device("cuda"), list[str]()

    def unavailable() -> CuptiCapture:
        raise Unavailable("no CUPTI")

    assert choose_timing("none", cuda, said.append) == ("none", None)
    assert choose_timing("events", cuda, said.append) == ("events", None)
    assert choose_timing("auto", torch.device("cpu"), said.append) == ("none", None)
    assert choose_timing("auto", cuda, said.append, unavailable) == ("events", None)
    assert said == ["no CUPTI; CUDA events instead"]
    with pytest.raises(Unavailable):
        choose_timing("cupti", cuda, said.append, unavailable)
    with pytest.raises(UsageError, match="--device cpu"):
        choose_timing("cupti", torch.device("cpu"), said.append)
    monkeypatch.setenv("NSYS_PROFILING_SESSION_ID", "1")
    assert choose_timing("auto", cuda, said.append, unavailable) == ("none", None)


def test_names_are_as_in_the_source() -> None:
    readable = demangler()
    assert readable(b"_Z3addii") == "add(int, int)"
    assert readable(b"triton_kernel_0") == "triton_kernel_0"
