"""CUPTI in the process: buffers parsed to the record, clocks aligned, and a directory that joins as a report does."""

import ctypes
import os
from itertools import count
from pathlib import Path
from threading import get_native_id
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
import torch
from tests.hooks.networks import network, run
from transformers import DynamicCache

from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.hooks import hook
from dsocr_nvtx.hooks.emit import Edges
from dsocr_nvtx.ingest.cupti import run_directory
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.run import capture as one
from dsocr_nvtx.run import conveyor, cupti_capture
from dsocr_nvtx.run import cupti_library as library_module
from dsocr_nvtx.run.cupti_capture import CuptiCapture, usable_cupti
from dsocr_nvtx.run.cupti_launches import UNRECORDED, launches_of
from dsocr_nvtx.run.cupti_library import CALLS, OPERATIONS, Cupti, _unwanted, demangler
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.timing import choose_timing
from dsocr_nvtx.run.workload import RunOptions
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
LAUNCH, EDGE = 211, 317
"""Numbers of the runtime's functions."""
AHEAD_NS = 5_000_000
"""How far the other clock is ahead of ours."""


class Library:
    """A CUPTI whose records are what a test puts into the buffers."""

    def __init__(self) -> None:
        self.layouts = {**dict.fromkeys(OPERATIONS, OPERATION), **dict.fromkeys(CALLS, CALL)}
        self.lost = 0
        self.callbacks: tuple[Any, Any] = (None, None)
        self.pending: list[np.ndarray] = []
        self.driver = True

    def enable(self, requested: Any, completed: Any, *, driver: bool = True) -> None:
        self.callbacks, self.driver = (requested, completed), driver

    def disable(self, *, driver: bool = True) -> None:
        assert driver == self.driver
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
        if number == EDGE:
            return "cudaStreamIsCapturing_v10000"
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


def captured(fill: Any, *, edges: bool = False) -> CuptiCapture:
    library = Library()
    capture = CuptiCapture(library)  # type: ignore[arg-type]
    with capture.recording(edges=edges):
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


def test_a_launch_that_was_not_recorded_lies_between_the_calls_around_it(tmp_path: Path) -> None:
    """One made by the driver; where the calls around it are of two threads it could be either's, and has no launch."""
    now = perf_counter_ns()
    records = [
        kernel(2, now + 5000),  # before any call that was recorded
        call(3, now + 10_000, 7), kernel(3, now + 30_000), kernel(5, now + 60_000), kernel(5, now + 12_000),
        call(6, now + 20_000, 7, function=EDGE),
        kernel(8, now + 26_000), call(9, now + 90_000, 7),  # it ran before the next call: so it was launched before
        kernel(10, now + 110_000), call(11, now + 100_000, 8),
        kernel(12, now + 90_000), call(13, now + 130_000, 8),  # it ran before the call ahead of it was made
        kernel(14, now + 120_000),  # nor after the last one
    ]  # fmt: skip
    capture = captured(lambda pending: pending.append(bytes_of(*records)), edges=True)
    assert capture.write(tmp_path, {}, ends=1) == 8
    calls = {row["correlation_id"]: row for row in read_table(tmp_path / "timings" / "launches.arrow").to_pylist()}
    assert set(calls) == {3, 5, 8, 9, 11, 13}
    assert capture.note == (
        "2 launches through the driver are written as instants, so idle time in them counts as the host's; "
        "4 operations have no range: who launched them was not recorded"
    )
    assert [calls[number]["name"] == UNRECORDED for number in (3, 5, 8)] == [False, True, True]
    # Clocks that are read within microseconds of each other differ in rate, so places are told in parts of a stretch.
    stretch = calls[9]["start_ns"] - calls[3]["start_ns"]
    for number, first, last in ((5, 10_010, 12_000), (8, 20_010, 26_000)):
        assert calls[number]["tid"] == 7
        assert calls[number]["start_ns"] == calls[number]["end_ns"]
        part = (calls[number]["start_ns"] - calls[3]["start_ns"]) / stretch
        assert part == pytest.approx(((first + last) / 2 - 10_000) / 80_000, abs=1e-3)


@pytest.mark.parametrize("records", [[], ["call"], ["edge"], ["kernel"]])
def test_with_little_or_nothing_recorded_nothing_is_guessed(tmp_path: Path, records: list[str]) -> None:
    now = perf_counter_ns()
    known = {"call": call(1, now, 7), "edge": call(1, now, 7, function=EDGE), "kernel": kernel(1, now)}
    capture = captured(lambda pending: pending.append(bytes_of(*(known[name] for name in records))), edges=True)
    assert capture.write(tmp_path, {}, ends=2) == records.count("kernel")
    assert len(read_table(tmp_path / "timings" / "launches.arrow")) == records.count("call")
    assert ("0 of 2 edges" in capture.note) is ("kernel" in records)


def test_where_edges_of_ranges_were_not_recorded_no_launch_is_guessed(tmp_path: Path) -> None:
    now = perf_counter_ns()
    records = [call(1, now, 7), call(2, now + 20, 7, function=EDGE), kernel(3, now + 90), call(4, now + 60, 7)]
    capture = captured(lambda pending: pending.append(bytes_of(*records)), edges=True)
    assert capture.write(tmp_path, {}, ends=2) == 1
    calls = read_table(tmp_path / "timings" / "launches.arrow").to_pylist()
    assert [row["correlation_id"] for row in calls] == [1, 4]
    assert "1 operations have no range" in capture.note
    assert "1 of 2 edges" in capture.note


def test_calls_that_ask_for_a_capture_are_recorded_and_others_that_ask_are_not() -> None:
    names = ("cudaStreamIsCapturing_v10000", "cudaGetDevice_v3020", "cudaLaunchKernel_v7000", "INVALID", "SIZE")

    class Member(int):
        name: str

    numbered = [Member(number) for number in range(len(names))]
    for number, name in zip(numbered, names, strict=True):
        number.name = name
    assert [names[number] for number in _unwanted(numbered)] == ["cudaGetDevice_v3020"]
    assert names[0].startswith(library_module.EDGE)


@pytest.mark.parametrize("driver", [True, False])
def test_only_what_is_wanted_is_enabled_and_the_same_disabled(driver: bool) -> None:
    said: list[tuple[str, tuple[int, ...]]] = []

    class Functions:
        def __getattr__(self, name: str) -> Any:
            return lambda *given: said.append(
                (name.removeprefix("cupti"), tuple(getattr(g, "value", g) for g in given))
            )

    cupti = Cupti(Functions(), {}, {DRIVER: (5,), RUNTIME: (6, 7)})
    cupti.enable(None, None, driver=driver)
    kinds = {*OPERATIONS, RUNTIME, *([DRIVER] if driver else [])}
    assert {given[0] for name, given in said if name == "ActivityEnable"} == kinds
    assert ("ActivityEnableRuntimeApi", (6, 0)) in said
    assert (("ActivityEnableDriverApi", (5, 0)) in said) is driver
    said.clear()
    cupti.disable(driver=driver)
    assert {given[0] for name, given in said if name == "ActivityDisable"} == kinds
    assert said[-1][0] == "ActivityFlushAll"


@pytest.mark.parametrize(("module", "pages"), [(one, 1), (conveyor, 2)])
@pytest.mark.parametrize("hooks", [True, False])
def test_a_run_under_cupti_leaves_the_driver_out_where_it_has_ranges(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, pages: int, hooks: bool
) -> None:
    """The ranges' edges are recorded as calls here, and their number is that of the ranges' ends."""
    library, driver = Library(), count(1)
    capture = CuptiCapture(library)  # type: ignore[arg-type]

    def edge() -> bool:
        if capture.opened:
            library.pending.append(bytes_of(call(next(driver), perf_counter_ns(), get_native_id(), function=EDGE)))
        return False

    monkeypatch.setattr("dsocr_nvtx.hooks.attach.stream_is_capturing", edge)
    monkeypatch.setattr(module, "choose_timing", lambda *_: ("cupti", capture))
    asked = list[int | None]()

    def asking(*given: Any) -> Any:
        asked.append(given[-1])
        return launches_of(*given)

    monkeypatch.setattr(cupti_capture, "launches_of", asking)
    names = tuple(str(tmp_path / f"{number}.png") for number in range(pages))
    for name in names:
        draw_page(300, 400, 1).save(name)
    one.capture(
        RunOptions(config="tiny", device="cpu", mode="tiny", max_new_tokens=3, pages=names, out=tmp_path / "run",
                   hooks=hooks, power=False)
    )  # fmt: skip
    assert library.driver is not hooks
    ranges = len(read_table(tmp_path / "run" / "ranges.arrow")) if hooks else 0
    assert asked == [2 * ranges if hooks else None]
    assert next(driver) - 1 == 2 * ranges


class Clock:
    """A clock that only its readings and `pause` move on: no other process can come between two of them."""

    def __init__(self) -> None:
        self.now = perf_counter_ns()

    def __call__(self) -> int:
        self.now += 10
        return self.now

    def pause(self, ns: int) -> None:
        self.now += ns


class Driver:
    """Launches through the driver, which nothing records but the edges around: what each was launched by is kept."""

    def __init__(self, library: Library, clock: Clock) -> None:
        self.library, self.clock, self.numbers = library, clock, count(1)
        self.owners: list[str] = []
        self.later = clock() + 60_000_000_000

    def edge(self) -> None:
        self.library.pending.append(call(next(self.numbers), self.clock(), get_native_id(), function=EDGE))

    def launch(self, owner: str) -> None:
        number = next(self.numbers)
        self.clock.pause(2000)
        self.owners.append(owner)
        self.library.pending.append(kernel(number, self.later + 2000 * number))


def test_ranges_with_edges_need_no_calls_of_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Long pauses beside each end of a range: a launch that is not told from them would lie on the other side."""
    model, library, clock = network(), Library(), Clock()
    for name in ("forwards", "repeats", "session", "steps", "tap", "wrappers"):
        monkeypatch.setattr(f"dsocr_nvtx.hooks.{name}.perf_counter_ns", clock)
    monkeypatch.setattr(cupti_capture, "perf_counter_ns", clock)
    monkeypatch.setattr(library, "clock", lambda: clock() + AHEAD_NS)
    capture, driver = CuptiCapture(library), Driver(library, clock)  # type: ignore[arg-type]
    text, long = model.model.language_model, 3_000_000
    layer = text.layers[1]

    def ending() -> None:
        clock.pause(long)
        driver.edge()  # as any call that is recorded, just before the forward's last launch
        driver.launch("model")

    handles = [
        layer.self_attn.register_forward_pre_hook(lambda *_: clock.pause(long)),
        layer.self_attn.q_proj.register_forward_hook(lambda *_: driver.launch("decoder.1.attention")),
        layer.self_attn.register_forward_hook(lambda *_: clock.pause(long)),
        layer.mlp.register_forward_pre_hook(lambda *_: driver.launch("decoder.1")),
        text.embed_tokens.register_forward_pre_hook(lambda *_: clock.pause(long)),
        model.lm_head.register_forward_hook(lambda *_: ending()),
    ]
    try:
        with hook(model, emitter=Edges(driver.edge)) as session, capture.recording(edges=session.edges):
            cache = DynamicCache(config=model.config.text_config)
            for _ in range(6):
                with session.step("decode"):
                    driver.launch("decode")
                    model(input_ids=torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, logits_to_keep=1)
                    driver.launch("decode")
                clock.pause(long)
        session.write(tmp_path)
    finally:
        for handle in handles:
            handle.remove()
    assert not session.errors
    capture.write(tmp_path, {0: {"name": "NVIDIA H200", "sm_count": 132}}, ends=2 * len(session.stats.rows))
    assert "no range" not in capture.note
    joined = join(read_report(tmp_path), "run")
    paths = {row["event_id"]: row["path"] for row in joined.ranges.to_pylist()}
    found = [paths[row["event_id"]] for row in joined.kernels.sort_by("start_ns").to_pylist()]
    assert found == driver.owners


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
