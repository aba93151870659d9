"""Projection: NVIDIA's own answers on every public export, and a slow obvious version on random ranges and calls."""

import csv
import io
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsocr_nvtx.ingest.report import read_projectable
from dsocr_nvtx.join.projection import project
from dsocr_nvtx.schema.tables import EVERY_RANGE, LAUNCHES, OPERATIONS, PROJECTED, conform
from tests.builders.nsys import NsysFile, global_id

EXPORTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "nsys"
GOLDEN = sorted(EXPORTS.glob("*.nvtx_gpu_proj_trace.csv.xz"))

Row = tuple[object, ...]
Range = tuple[int, int, int, int | None, str]
Call = tuple[int, int, int, int]


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a projection as sorted tuples."""
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=_order)


def _order(row: Row) -> Row:
    return row[:12]  # none of these is null, and the last tells ranges apart


@pytest.mark.skipif(not GOLDEN, reason="the public exports in ../shared/data/nsys are not here")
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name.split(".")[0])
def test_projection_equals_nvidias_row_for_row(golden: Path) -> None:
    found = read_projectable(golden.with_name(golden.name.split(".")[0] + ".sqlite.xz"))
    lines = csv.DictReader(io.StringIO(lzma.decompress(golden.read_bytes()).decode()))
    expected = [
        (
            line["Name"], line["Style"], int(line["PID"]), int(line["TID"]), int(line["Orig Start (ns)"]),
            int(line["Orig Duration (ns)"]), int(line["Projected Start (ns)"]), int(line["Projected Duration (ns)"]),
            int(line["NumGPUOps"]), int(line["Lvl"]), int(line["NumChild"]), int(line["RangeId"]),
            int(line["ParentId"]) if line["ParentId"] else None, line["RangeStack"],
        )
        for line in lines
    ]  # fmt: skip
    assert rows_of(project(found.ranges, found.operations, found.launches)) == sorted(expected, key=_order)


def slow(ranges: list[Range], calls: list[Call], works: list[list[tuple[int, int]]], *, as_nsys: bool) -> list[Row]:
    """Project by the words of the rules: every range against every call and every other range."""
    numbered = [(r, number) for number, r in enumerate(ranges, 1) if not as_nsys or r[4] != "elsewhere"]
    kept, number_of = [r for r, _ in numbered], [number for _, number in numbered]
    seen = [e for _, _, _, e, _ in ranges if e is not None]
    if not as_nsys:
        seen += [call[3] for call in calls] + [end for work in works for _, end in work]
    last = max(seen, default=-100)
    closed = [(p, t, s, max(s, last) if e is None else e, kind) for p, t, s, e, kind in kept]
    answer: list[Row] = []
    for at, (pid, tid, start, end, kind) in enumerate(closed):
        inside = [
            work for call, work in zip(calls, works, strict=True)
            if call[:2] == (pid, tid) and start <= call[2] and call[3] <= end and work
        ]  # fmt: skip
        if inside:
            first, last = min(b for work in inside for b, _ in work), max(e for work in inside for _, e in work)
            style = "StartEnd" if kind in ("start", "elsewhere") else "PushPop"
            around = [number_of[i] for i in containers(closed, at)]
            stack = "".join(f":{number}" for number in [*around[::-1], number_of[at]])
            answer.append((
                ":r", style, pid, tid, start, end - start, first, last - first, len(inside), len(around), 0,
                number_of[at], around[0] if around else None, stack,
            ))  # fmt: skip
    parents = [row[-2] for row in answer]
    return sorted(((*row[:10], parents.count(row[11]), *row[11:]) for row in answer), key=_order)


def containers(ranges: list[tuple[int, int, int, int, str]], at: int) -> list[int]:
    """Return the chain of tightest containers; of equal ranges the one that comes first contains the other."""
    pid, tid, start, end, _ = ranges[at]
    around = [
        i for i, (p, t, s, e, _) in enumerate(ranges)
        if (p, t) == (pid, tid) and s <= start and e >= end and i != at and ((s, e) != (start, end) or i < at)
    ]  # fmt: skip
    if not around:
        return []
    tightest = min(around, key=lambda i: (ranges[i][3] - ranges[i][2], -ranges[i][2], -i))
    return [tightest, *containers(ranges, tightest)]


times = st.integers(-20, 20)
threads = st.tuples(st.integers(1, 2), st.integers(1, 2))
lengths = st.integers(0, 15)
range_lists = st.lists(
    st.builds(
        lambda thread, start, length, kind, opened: (*thread, start, None if opened else start + length, kind),
        threads, times, lengths, st.sampled_from(["push", "start", "elsewhere"]), st.sampled_from([False] * 9 + [True]),
    ),
    max_size=14,
)  # fmt: skip
call_lists = st.lists(st.builds(lambda t, s, n: (*t, s, s + n), threads, times, lengths), max_size=12)


@settings(max_examples=300, deadline=None)
@given(range_lists, call_lists, st.data(), st.booleans())
def test_projection_equals_the_slow_version(
    ranges: list[Range], calls: list[Call], data: st.DataObject, as_nsys: bool
) -> None:
    works = [
        [(b, b + n) for b, n in data.draw(st.lists(st.tuples(st.integers(0, 60), lengths), max_size=3))] for _ in calls
    ]
    table = conform(
        {
            "pid": [r[0] for r in ranges], "tid": [r[1] for r in ranges], "start_ns": [r[2] for r in ranges],
            "end_tid": [7 if r[4] == "elsewhere" else None for r in ranges], "end_ns": [r[3] for r in ranges],
            "name": [":r"] * len(ranges), "style": ["PushPop" if r[4] == "push" else "StartEnd" for r in ranges],
            "range_id": range(1, len(ranges) + 1),
        },
        EVERY_RANGE,
    )  # fmt: skip
    # Correlation ids repeat across processes: numbered per process.
    ids = [sum(other[0] == call[0] for other in calls[:at]) for at, call in enumerate(calls)]
    launches = conform(
        {
            "pid": [c[0] for c in calls], "tid": [c[1] for c in calls], "start_ns": [c[2] for c in calls],
            "end_ns": [c[3] for c in calls], "correlation_id": ids, "name": ["launch"] * len(calls),
        },
        LAUNCHES,
    )  # fmt: skip
    flat = [(calls[at][0], ids[at], b, e) for at, work in enumerate(works) for b, e in work]
    nothing = [0] * len(flat)
    operations = conform(
        {
            "pid": [f[0] for f in flat], "device": nothing, "stream": nothing, "start_ns": [f[2] for f in flat],
            "end_ns": [f[3] for f in flat], "correlation_id": [f[1] for f in flat], "operation": ["kernel"] * len(flat),
            "name": ["k"] * len(flat), "blocks": nothing, "threads": nothing, "bytes": nothing,
            "graph_node_id": [None] * len(flat),
        },
        OPERATIONS,
    )  # fmt: skip
    found = project(table, operations, launches, as_nsys=as_nsys)
    assert found.schema.equals(PROJECTED)
    assert rows_of(found) == slow(ranges, calls, works, as_nsys=as_nsys)


def test_every_domain_is_named_and_plain_and_registered_texts_are_read(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(1, "mine", 3, categories=False)
    file.domain(2, "theirs", 3, categories=False)
    common = {"start": 100, "end": 200, "eventType": 59}
    file.add("NVTX_EVENTS", globalTid=global_id(1, 1), textId=file.text("a"), domainId=3, **common)
    file.add("NVTX_EVENTS", globalTid=global_id(1, 1), text="plain: b", domainId=0, **common)
    file.add("NVTX_EVENTS", globalTid=global_id(2, 2), text="c", domainId=3, **common)
    file.launch("k", 110, 120, 130, pid=1)
    file.launch("k", 110, 120, 130, pid=2)
    found = read_projectable(file.write(tmp_path / "r.sqlite"))
    table = project(found.ranges, found.operations, found.launches)
    assert sorted(table["name"].to_pylist()) == [":plain: b", "mine:a", "theirs:c"]


def test_beyond_nsys_graphs_of_one_piece_and_ends_elsewhere_count(tmp_path: Path) -> None:
    file = NsysFile()
    file.add(
        "NVTX_EVENTS", start=0, end=90, eventType=60, globalTid=global_id(1, 1), endGlobalTid=global_id(1, 5), text="x",
        domainId=0,
    )  # fmt: skip
    file.launch("k", 10, 20, 30)
    found = read_projectable(file.write(tmp_path / "r.sqlite"))
    assert not len(project(found.ranges, found.operations, found.launches))
    (row,) = project(found.ranges, found.operations, found.launches, as_nsys=False).to_pylist()
    assert (row["name"], row["style"], row["projected_start_ns"], row["gpu_ops"]) == (":x", "StartEnd", 20, 1)


def test_a_report_without_ranges_or_without_gpu_work_projects_to_no_rows(tmp_path: Path) -> None:
    for fill in ("kernel", "range"):
        file = NsysFile()
        if fill == "kernel":
            file.launch("k", 10, 20, 30)
        else:
            file.push_pop("a", 0, 10)
        found = read_projectable(file.write(tmp_path / f"{fill}.sqlite"))
        table = project(found.ranges, found.operations, found.launches)
        assert table.schema.equals(PROJECTED)
        assert not len(table)
