"""A trace viewer, slow and obvious: what slices, flows and counters mean, read from the JSON text itself."""

import gzip
import json
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import define, field


@define
class Slice:
    """One slice. Times are nanoseconds."""

    name: str
    pid: int
    tid: int
    start: int
    end: int
    args: dict[str, Any]


@define
class Viewer:
    """A trace as a viewer understands it; reading fails where one would drop something."""

    origin: int
    about: dict[str, Any]
    processes: dict[int, str] = field(factory=dict)
    threads: dict[tuple[int, int], str] = field(factory=dict)
    slices: list[Slice] = field(factory=list)
    begins: dict[int, Slice | None] = field(factory=dict)
    ends: dict[int, Slice | None] = field(factory=dict)
    counters: dict[tuple[int, str], list[tuple[int, Fraction]]] = field(factory=lambda: defaultdict(list))

    def integral(self, pid: int, series: str) -> Fraction:
        """Return value times seconds of a counter; it must end at 0."""
        points = self.counters[pid, series]
        assert points == sorted(points, key=lambda point: point[0])
        assert not points or points[-1][1] == 0
        steps = pairwise(points)
        return sum((value * (after - at) for (at, value), (after, _) in steps), Fraction(0)) / 10**9

    def on(self, pid: int) -> list[Slice]:
        """Return the slices of a process."""
        return [one for one in self.slices if one.pid == pid]


def read_text(text: str) -> Viewer:
    """Read a trace; every number exactly."""
    whole = json.loads(text, parse_float=Decimal)
    viewer = Viewer(whole["otherData"]["origin_ns"], whole["otherData"])
    events = whole["traceEvents"]
    for event in events:
        if event["ph"] == "X":
            start = _ns(event["ts"]) + viewer.origin
            slice_ = Slice(event["name"], event["pid"], event["tid"], start, start + _ns(event["dur"]), event["args"])
            viewer.slices.append(slice_)
        elif event["name"] == "process_name":
            viewer.processes[event["pid"]] = event["args"]["name"]
        elif event["name"] == "thread_name":
            viewer.threads[event["pid"], event["tid"]] = event["args"]["name"]
        elif event["ph"] == "C":
            (value,) = event["args"].values()
            viewer.counters[event["pid"], event["name"]].append((_ns(event["ts"]) + viewer.origin, Fraction(value)))
    _nest(viewer.slices)
    for event in events:
        if event["ph"] in ("s", "f"):
            mine = [one for one in viewer.slices if (one.pid, one.tid) == (event["pid"], event["tid"])]
            into = viewer.begins if event["ph"] == "s" else viewer.ends
            assert event["id"] not in into
            assert event["ph"] == "s" or event["bp"] == "e"
            into[event["id"]] = _open_at(mine, _ns(event["ts"]) + viewer.origin)
    return viewer


def read_file(path: Path) -> Viewer:
    """Read a trace from a file, packed or not."""
    data = path.read_bytes()
    return read_text((gzip.decompress(data) if path.suffix == ".gz" else data).decode())


def _ns(microseconds: Decimal | int) -> int:
    ns = Fraction(microseconds) * 1000
    assert ns.denominator == 1, microseconds
    assert round(float(microseconds) * 1000) == ns, "a double would lose nanoseconds"
    return int(ns)


def _nest(slices: list[Slice]) -> None:
    stacks: dict[tuple[int, int], list[Slice]] = defaultdict(list)
    for one in sorted(slices, key=lambda s: (s.start, -s.end)):  # stable: of equals the first in the file is outside
        stack = stacks[one.pid, one.tid]
        while stack and stack[-1].end <= one.start:
            stack.pop()
        assert not stack or one.end <= stack[-1].end, f"{one} would be dropped: it outlasts {stack[-1]}"
        stack.append(one)


def _open_at(slices: list[Slice], time: int) -> Slice | None:
    inside = [one for one in slices if one.start <= time < one.end]
    return max(inside, key=lambda one: one.start - one.end) if inside else None
