"""Perfetto's own trace processor loads a trace, drops nothing, and its sums are the Arrow tables'."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dsocr_nvtx.cli.join import demo, join_report
from dsocr_nvtx.cli.trace import write_trace
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.roofline.least import MOVED
from dsocr_nvtx.roofline.own import own_costs
from dsocr_nvtx.schema.files import read_table
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload
from tests.cli.commands import hooked
from tests.join.test_engine_replays import graph_file
from tests.perfetto.processor import Processor, loaded

THREADS = """
SELECT p.name AS process, t.name AS thread, s.name AS slice, s.ts, s.dur
FROM slice s JOIN thread_track k ON s.track_id = k.id
JOIN thread t USING (utid) JOIN process p USING (upid)
"""
INTEGRALS = """
SELECT p.name AS process, t.name AS series, sum(value * held) AS integral FROM (
    SELECT track_id, value, lead(ts) OVER (PARTITION BY track_id ORDER BY ts, id) - ts AS held FROM counter
) c JOIN process_counter_track t ON c.track_id = t.id JOIN process p USING (upid) GROUP BY 1, 2
"""
FLOWS = """
SELECT a.int_value AS call, b.int_value AS operation
FROM flow f JOIN slice o ON f.slice_out = o.id JOIN slice i ON f.slice_in = i.id
JOIN args a ON o.arg_set_id = a.arg_set_id AND a.key = 'args.row'
JOIN args b ON i.arg_set_id = b.arg_set_id AND b.key = 'args.row'
"""


def small(folder: Path) -> Path:
    """Join a small export with two GPUs, two processes, overlap on a stream, a time of length 0 and odd names."""
    file = hooked()
    file.device(identity=1, ordinal=1, pids=[1, 2])
    file.domain(2)
    values = payload(event_id=4, kind=13, stage=2, tensor_flops=5, weight_bytes=3)
    file.push_pop('"quotes", \\ and \u202eleft', 5_000, 95_000, pid=2, tid=77, values=values)
    for number in range(3):
        file.launch(f"side \x01 {number}", 61_000 + number, 75_000 + number, 99_000 - number)
        file.launch("other GPU", 71_000 + number, 76_000 + number, 76_000 + 2 * number, pid=2, tid=77, device=1)
    join_report(file.write(folder / "r.sqlite"), run=None, out=folder / "o", hardware=None, ceilings=None, force=False)
    return folder / "o"


def replays(folder: Path) -> Path:
    """Join a small export with a replayed CUDA graph."""
    report = graph_file().write(folder / "r.sqlite")
    join_report(report, run=None, out=folder / "o", hardware=None, ceilings=None, force=False)
    return folder / "o"


def shipped(folder: Path) -> Path:
    """Join the capture inside the package: 26,000 operations of an H200."""
    demo(folder / "o", force=False)
    return folder / "o"


@pytest.mark.parametrize(("made", "suffix"), [(small, ".json"), (replays, ".json"), (shipped, ".json.gz")])
def test_queries_of_the_trace_are_sums_of_the_tables(made: Callable[[Path], Path], suffix: str, tmp_path: Path) -> None:
    directory = made(tmp_path)
    write_trace(directory, tmp_path / f"t{suffix}")
    kernels, ranges, rows = (read_table(directory / f"{n}.arrow") for n in ("kernels", "ranges", "roofline"))
    with loaded(tmp_path / f"t{suffix}") as trace:
        assert trace.query("SELECT name, value FROM stats WHERE value > 0 AND severity != 'info'") == []
        check_slices(trace, kernels, ranges)
        check_calls(trace, read_table(directory / "api_calls.arrow"), ranges)
        check_flows(trace, kernels, ranges)
        check_counters(trace, ranges, rows)


def check_slices(trace: Processor, kernels: pa.Table, ranges: pa.Table) -> None:
    """Each slice of the host is a call, each of a stream an operation: names, begins and lengths, per thread."""
    every = Counter((process, thread.split(" (")[0], *rest) for process, thread, *rest in trace.query(THREADS))
    lanes = ("steps", "layers", "CUDA calls")
    drawn = Counter({one: count for one, count in every.items() if not one[1].startswith(lanes)})
    expected = Counter(
        (f"process {r['pid']}", f"thread {r['tid']}", r["path"], r["start_ns"], r["end_ns"] - r["start_ns"])
        for r in ranges.to_pylist()
        if r["origin"] != "replayed"
    )
    expected += Counter(
        (gpu(k), f"stream {k['stream']}", shown(short_name(k["name"])), k["start_ns"], k["end_ns"] - k["start_ns"])
        for k in kernels.to_pylist()
    )
    beside = Counter({slice_: count for slice_, count in drawn.items() if slice_[1].startswith("replayed")})
    assert drawn - beside == expected
    with_work = [r for r in ranges.to_pylist() if r["origin"] == "replayed" and r["inclusive_launches"]]
    assert Counter(name for _, _, name, _, _ in beside.elements()) == Counter(r["path"] for r in with_work)
    lengths = trace.query("SELECT sum(dur) FROM slice WHERE category IN (SELECT DISTINCT category FROM slice)")
    assert lengths[0][0] == sum(length * count for (*_, length), count in every.items())


def check_calls(trace: Processor, calls: pa.Table, ranges: pa.Table) -> None:
    """Each CUDA call of a process with hooked calls is a slice, as long as it lasted."""
    drawn = Counter(tuple(rest) for _, thread, *rest in trace.query(THREADS) if thread.startswith("CUDA calls"))
    pids = set(ranges["pid"].to_pylist())
    assert drawn == Counter(
        (c["call"], c["start_ns"], c["end_ns"] - c["start_ns"]) for c in calls.to_pylist() if c["pid"] in pids
    )


def gpu(row: dict[str, object]) -> str:
    """Return the name of an operation's process in the trace."""
    return f"GPU {row['device']} of process {row['pid']}: NVIDIA H200"


def shown(name: str) -> str:
    """Return a name as the trace processor has it: it keeps JSON's escapes of control characters as they are."""
    return "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in name)


def check_flows(trace: Processor, kernels: pa.Table, ranges: pa.Table) -> None:
    """Each operation of a call has one flow, from that call or from the one around its graph's launch."""
    flows = trace.query(FLOWS)
    assert len(flows) == len(trace.query("SELECT id FROM flow"))
    calls = {(r["pid"], r["event_id"]): (at, r) for at, r in enumerate(ranges.to_pylist())}
    expected = []
    for number, kernel in enumerate(kernels.to_pylist()):
        at, call = calls.get((kernel["pid"], kernel["event_id"]), (-1, None))
        while call and call["origin"] == "replayed":
            at, call = calls[call["pid"], call["parent_id"]]
        if call and kernel["end_ns"] > kernel["start_ns"]:
            expected.append((at, number))
    assert sorted(flows) == sorted(expected)
    assert expected


def check_counters(trace: Processor, ranges: pa.Table, rows: pa.Table) -> None:
    """Integrals over time are the work of the calls, and the least time of the rows, that own busy time."""
    totals = Counter[str]()
    for process, series, integral in trace.query(INTEGRALS):
        assert process.startswith("GPU ")
        totals[series] += integral
    own = own_costs(ranges)
    timed = ranges["busy_owned_ns"].to_numpy() > 0
    assert totals["FLOP/s achieved"] / 1e9 == pytest.approx(own["tensor_flops"][timed].sum())
    assert totals["B/s achieved"] / 1e9 == pytest.approx(sum(own[name][timed].sum() for name in MOVED))
    of_rows = rows.filter(pc.greater(rows["busy_owned_ns"], 0))
    assert totals["roof share achieved"] == pytest.approx(pc.sum(of_rows["roofline_ns"]).as_py())


def test_every_nanosecond_survives_in_clocks_of_the_epoch(tmp_path: Path) -> None:
    file, shift = NsysFile(), 1_764_000_000_123_456_789
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("lm_head", shift, shift + 3_000_000_000_001, values=payload(event_id=1, tensor_flops=7, stage=2))
    odd = [1 + number * 29_999_999_983 // 7 for number in range(200)]
    for at in odd:
        file.launch("gemm", shift + at, shift + at + 2, shift + at + 2 + at % 1_013)
    report = file.write(tmp_path / "r.sqlite")
    join_report(report, run=None, out=tmp_path / "o", hardware=None, ceilings=None, force=False)
    write_trace(tmp_path / "o", tmp_path / "t.json.gz")
    with loaded(tmp_path / "t.json.gz") as trace:
        got = trace.query("SELECT ts, dur FROM slice WHERE name = 'gemm' ORDER BY ts")
        assert trace.query("SELECT ts, dur FROM slice WHERE name = 'lm_head'") == [(0, 3_000_000_000_001)]
    assert got == [(at + 2, at % 1_013) for at in odd]


def test_the_shipped_captures_trace_is_small(tmp_path: Path) -> None:
    write_trace(shipped(tmp_path), tmp_path / "t.json.gz")
    assert (tmp_path / "t.json.gz").stat().st_size < 10_000_000
