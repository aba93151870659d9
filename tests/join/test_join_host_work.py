"""Idle time that no range of the launching thread owns goes to host ranges elsewhere: against a loop over instants."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.host_work import HostWork
from dsocr_nvtx.join.ownership import Cause, IdlePieces
from dsocr_nvtx.schema.tables import NVTX
from tests.builders.nsys import NsysFile
from tests.builders.tables import filled, payload
from tests.join.slow import Span, nested
from tests.join.test_join_nesting import column, forest

CAUSES = list(Cause)
HOST, NONE, SYNC = (CAUSES.index(cause) for cause in (Cause.HOST, Cause.NONE, Cause.SYNC))


def host_work(spans: list[Span], is_host: list[bool]) -> HostWork:
    """Return the host work among spans, as the join finds it."""
    paths = ["host.scheduling" if host else "decoder.0" for host in is_host]
    return HostWork.of(filled(NVTX, [{"path": path} for path in paths]), forest(spans))


def of_none(start: int, end: int) -> IdlePieces:
    return IdlePieces(column([start]), column([end]), column([-1]), column([NONE]))


def rows_of(pieces: IdlePieces) -> list[tuple[int, int, int, int]]:
    columns = (pieces.start, pieces.end, pieces.owner, pieces.cause)
    return sorted(zip(*(values.tolist() for values in columns), strict=True))


def test_the_latest_begun_host_range_of_any_thread_owns_by_hand() -> None:
    # A of process 1 0..60, B of process 2 20..30 and C inside it 22..25, D of process 2 55..80.
    spans = [Span(1, 1, 0, 60), Span(2, 7, 20, 30), Span(2, 7, 22, 25), Span(2, 7, 55, 80)]
    work = host_work(spans, [True] * 4)
    a, b, c, d = (int(np.flatnonzero(forest(spans).order == row)[0]) for row in range(4))
    found = work.claimed(of_none(-10, 90))
    assert rows_of(found) == [
        (-10, 0, -1, NONE), (0, 20, a, HOST), (20, 22, b, HOST), (22, 25, c, HOST), (25, 30, b, HOST),
        (30, 55, a, HOST), (55, 60, d, HOST), (60, 80, d, HOST), (80, 90, -1, NONE),
    ]  # fmt: skip
    assert work.span == (0, 80)
    assert [work.open_at(time) for time in (-1, 0, 24, 70, 81)] == [-1, a, c, d, -1]


def test_what_has_an_owner_keeps_it_and_ranges_of_the_model_claim_nothing() -> None:
    work = host_work([Span(1, 1, 0, 60), Span(2, 2, 0, 60)], [False, True])
    owned = IdlePieces(column([10, 20]), column([20, 40]), column([5, -1]), column([SYNC, NONE]))
    assert rows_of(work.claimed(owned)) == [(10, 20, 5, SYNC), (20, 40, 1, HOST)]


def test_without_host_ranges_nothing_is_done() -> None:
    pieces = of_none(0, 10)
    assert host_work([Span(1, 1, 0, 60)], [False]).claimed(pieces) is pieces
    assert host_work([], []).span == ()


def owner_of(spans: list[Span], is_host: list[bool], time: int) -> Span | None:
    """The rule in one line: of the host ranges open at an instant, the one begun last, of several the shortest."""
    here = [s for s, host in zip(spans, is_host, strict=True) if host and s.start <= time < s.end]
    return min(here, key=lambda s: (-s.start, s.end), default=None)


@given(st.data())
def test_every_nanosecond_keeps_one_owner(data: st.DataObject) -> None:
    spans = data.draw(nested(8))
    is_host = data.draw(st.lists(st.booleans(), min_size=len(spans), max_size=len(spans)))
    edges = sorted(data.draw(st.sets(st.integers(-25, 25), min_size=2, max_size=10)))
    given_owner = data.draw(st.lists(st.sampled_from([-1, -1, 0]), min_size=len(edges) - 1, max_size=len(edges) - 1))
    cause = column([NONE if owner < 0 else SYNC for owner in given_owner])
    pieces = IdlePieces(column(edges[:-1]), column(edges[1:]), column(given_owner), cause)
    found: dict[int, tuple[tuple[int, int] | None, int]] = {}
    work, order = host_work(spans, is_host), forest(spans).order
    for start, end, owner, why in rows_of(work.claimed(pieces)):
        assert start < end
        for time in range(start, end):
            assert time not in found
            span = spans[order[owner]] if owner >= 0 and why == HOST else None
            found[time] = ((span.start, span.end) if span is not None else None, why)
    for start, end, owner, why in rows_of(pieces):
        for time in range(start, end):
            span = owner_of(spans, is_host, time) if owner < 0 else None
            assert found.pop(time) == (((span.start, span.end), HOST) if span is not None else (None, why))
    assert not found


def two_processes(path: Path, gpus: int = 1) -> Joined:
    """Join a server of two processes: 1 preprocesses a page, 2 launches on ``gpus`` GPUs.

    Process 1: host.preprocessing 0..400, host.tokenizing inside it 100..150, host.detokenizing 900..1000.
    Process 2: model 500..700, in it a launch at 510 for the kernel 520..600; before and after no range is open.
    """
    file = NsysFile()
    file.schema()
    for pid in (1, 2):
        file.domain(pid)
    nothing = payload(kind=13, stage=2, level=0, rows=0, sequences=0)
    for path_, event, start, end in (
        ("host.preprocessing", 0, 0, 400), ("host.tokenizing", 1, 100, 150), ("host.detokenizing", 2, 900, 1000),
    ):  # fmt: skip
        file.push_pop(path_, start, end, pid=1, values=[event, *nothing[1:]])
    file.push_pop("model", 500, 700, pid=2, values=payload(event_id=0, stage=2, kind=13, level=0, tensor_flops=5))
    for device in range(gpus):
        file.device(ordinal=device, identity=device, pids=[2])
        file.launch("gemm", 510 + device, 520, 600, pid=2, device=device)
    joined = join(read(file.write(path)), path.name)
    assert joined.accounting.balances()
    return joined


def test_a_device_that_waits_for_another_process_says_for_what_by_hand(tmp_path: Path) -> None:
    found = two_processes(tmp_path / "two.sqlite")
    idle = {row["path"]: (row["idle_owned_ns"], row["idle_host_ns"], row["device"]) for row in found.ranges.to_pylist()}
    # 400 less the 50 of tokenizing; model 500..510, 512..520 and 600..700 host, 510..512 in the launch call.
    assert idle == {
        "host.preprocessing": (350, 350, None), "host.tokenizing": (50, 50, None), "model": (120, 118, 0),
        "host.detokenizing": (100, 100, None),
    }  # fmt: skip
    (device,) = found.accounting.devices
    # The window is that of everything: 0..1000; nobody owns 400..500 and 700..900.
    assert (device.window, device.busy_ns, device.idle_ns["none"]) == ((0, 1000), 80, 300)


def test_two_gpus_that_wait_for_one_process_both_count(tmp_path: Path) -> None:
    found = two_processes(tmp_path / "two.sqlite", gpus=2)
    rows = [row for row in found.ranges.to_pylist() if row["path"] == "host.preprocessing"]
    assert sum(row["idle_owned_ns"] for row in rows) == 2 * 350
    assert {row["device"] for row in rows} == {None}


def test_a_stall_before_which_no_range_was_open_is_named_by_the_host_work(tmp_path: Path) -> None:
    file = NsysFile()
    file.schema()
    file.domain(1)
    file.device(pids=[1])
    file.push_pop("host.scheduling", 0, 900, tid=5, values=payload(event_id=1, stage=2, step=7, kind=13))
    file.launch("gemm", 800, 810, 850)
    longest = join(read(file.write(tmp_path / "s.sqlite")), "s").accounting.stalls[0]
    assert (longest.ns, longest.path, longest.step) == (810, "host.scheduling", 7)


def test_the_engines_loop_counts_only_where_no_other_host_work_does() -> None:
    """Process 2's loop is open all the time and began last; what process 1 does meanwhile is what is waited for."""
    spans = [Span(1, 1, 0, 30), Span(2, 2, 10, 60)]
    paths = ["host.preprocessing", "host.engine"]
    work = HostWork.of(filled(NVTX, [{"path": path} for path in paths]), forest(spans))
    assert rows_of(work.claimed(of_none(-5, 70))) == [
        (-5, 0, -1, NONE), (0, 30, 0, HOST), (30, 60, 1, HOST), (60, 70, -1, NONE),
    ]  # fmt: skip
    assert work.span == (0, 60)
    assert [work.open_at(time) for time in (20, 40, 65)] == [0, 1, -1]


def test_host_work_and_steps_of_which_nothing_is_told_cost_nothing_and_lack_nothing(tmp_path: Path) -> None:
    """In a default export they have neither payload nor announcement: they need none."""
    file = NsysFile()
    file.schema()
    file.domain(1)
    file.device(pids=[1])
    file.push_pop("step.decode", 0, 100, stage="decode")
    file.push_pop("host.sampling", 80, 95, stage="decode")
    file.push_pop("model", 10, 70, values=payload(event_id=3, stage=2, kind=13, level=0, tensor_flops=5))
    file.launch("gemm", 12, 20, 60)
    joined = join(read(file.write(tmp_path / "s.sqlite")), "s")
    assert joined.accounting.cost_sources == {"binary": 1, "json": 0, "announcement": 0, "none": 0}
    assert joined.accounting.unknown_costs == {}
    kinds = {row["path"]: (row["kind"], row["module"], row["cost_state"]) for row in joined.ranges.to_pylist()}
    assert kinds["host.sampling"] == ("host", "host.sampling", "known")
    assert kinds["step.decode"] == ("rest", "model", "known")
