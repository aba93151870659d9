"""REQUESTS: what became of each request of a serving engine, and what its device did all that time.

A request is what its own marks and those of steps call by one name; a name that arrives again is another request, which
has the steps that begin from then on.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import define, field

from dsocr_nvtx.join.columns import Ints, numbers
from dsocr_nvtx.join.instants import Instants
from dsocr_nvtx.join.request_time import DeviceTimes, told_of
from dsocr_nvtx.join.served_marks import ServedMarks
from dsocr_nvtx.join.served_steps import Steps
from dsocr_nvtx.schema.served import RequestEvent
from dsocr_nvtx.schema.served_tables import REQUESTS
from dsocr_nvtx.schema.tables import conform


@define(eq=False)
class Request:
    """One request: when what happened to it, and its steps, as (place among those known, rows, decodes)."""

    name: str
    pid: int
    when: dict[RequestEvent, int] = field(factory=dict)
    tokens: int | None = None
    steps: list[tuple[int, int, bool]] = field(factory=list)

    def after(self, first: RequestEvent, last: int | None) -> int | None:
        """Return how long after an event an instant is, None where one is not told."""
        return None if last is None or first not in self.when else last - self.when[first]


def requests_table(marks: ServedMarks, steps: Steps, ranges: pa.Table, instants: Instants) -> pa.Table:
    """Return REQUESTS of a MEASURED table, whose rows the owners of ``instants`` are."""
    begins, ends, pids = (numbers(ranges, name)[steps.rows] for name in ("start_ns", "end_ns", "pid"))
    home = instants.home[steps.rows]
    requests = _requests(marks, steps, begins, pids)
    told = told_of(ranges, steps.inside)
    times = [DeviceTimes.of(one, told) for one in instants.devices]
    rows = []
    for one in requests:
        gpu = int(home[one.steps[0][0]]) if one.steps else 0 if len(times) == 1 else -1
        one.steps = [step for step in one.steps if home[step[0]] == gpu]  # of several GPUs, one speaks for all
        first = int(begins[one.steps[0][0]]) if one.steps else None
        rows.append(
            {
                "device": instants.devices[gpu].device if gpu >= 0 else None,
                **_life(one, first, ends),
                **_time(one, times[gpu] if gpu >= 0 else None, first),
            }
        )
    return conform({name: [row[name] for row in rows] for name in REQUESTS.names}, REQUESTS)


def _requests(marks: ServedMarks, steps: Steps, begins: Ints, pids: Ints) -> list[Request]:
    """Return the requests in order of arrival, else of their first step."""
    named: dict[str, list[Request]] = {}
    for pid, time, mark in marks.requests:
        of_name = named.setdefault(mark.name, [])
        if not of_name or (mark.what == RequestEvent.ARRIVED and of_name[-1].when):
            of_name.append(Request(mark.name, pid))
        if mark.what == RequestEvent.ARRIVED:
            time -= mark.number or 0  # noqa: PLW2901 - when it was, not when it was said
        if mark.what == RequestEvent.FINISHED:
            of_name[-1].tokens = mark.number
        of_name[-1].when.setdefault(mark.what, time)
    for at in np.argsort(begins, kind="stable").tolist():
        for sequence in steps.marks[at].sequences:
            of_name = named.setdefault(sequence.name, [Request(sequence.name, int(pids[at]))])
            _at(of_name, int(begins[at])).steps.append((at, sequence.rows, sequence.decodes))
    every = [one for of_name in named.values() for one in of_name]
    return sorted(every, key=lambda one: (_begin(one, begins), one.name))


def _at(of_name: Sequence[Request], time: int) -> Request:
    """Return the request of a name that had arrived last at an instant, else the first."""
    arrived = [one for one in of_name if one.when.get(RequestEvent.ARRIVED, time) <= time]
    return arrived[-1] if arrived else of_name[0]


def _begin(one: Request, begins: Ints) -> int:
    told = [*one.when.values(), *(int(begins[at]) for at, *_ in one.steps[:1])]
    return min(told)


def _life(one: Request, first: int | None, ends: Ints) -> dict[str, object]:
    """Return what became of a request: its first token comes with the step that ends its prefill."""
    prefills = [at for at, _, decodes in one.steps if not decodes]
    is_through = RequestEvent.FINISHED in one.when or any(decodes for *_, decodes in one.steps)
    return {
        "name": one.name,
        "pid": one.pid,
        **{f"{what}_ns": one.when.get(what) for what in RequestEvent},
        "first_step_ns": first,
        "first_token_ns": int(ends[prefills[-1]]) if prefills and is_through else None,
        "latency_ns": one.after(RequestEvent.ARRIVED, one.when.get(RequestEvent.FINISHED)),
        "waiting_ns": one.after(RequestEvent.ARRIVED, first),
        "steps": len(one.steps),
        "prompt_rows": sum(rows for _, rows, decodes in one.steps if not decodes),
        "tokens": one.tokens,
    }


_UNTOLD: dict[str, object] = {
    "busy_own_ns": None, "busy_others_ns": None, "idle_ns": None, "busy_own": [], "idle": [],
    "later_busy_others_ns": None, "later_idle": [],
}  # fmt: skip


def _time(one: Request, times: DeviceTimes | None, first: int | None) -> dict[str, object]:
    """Return what the device did from arrival to end, and since the first step; nothing where that is not known."""
    begin, end = (one.when.get(what) for what in (RequestEvent.ARRIVED, RequestEvent.FINISHED))
    if times is None or begin is None or end is None or end < begin:
        return _UNTOLD
    steps = [at for at, *_ in one.steps]
    whole, later = times.between(begin, end, steps), times.between(min(first or end, end), end, steps)
    return {
        "busy_own_ns": sum(whole.own.values()),
        "busy_others_ns": whole.busy_others,
        "idle_ns": sum(whole.idle.values()),
        "busy_own": _listed("stage", whole.own),
        "idle": _listed("owner", whole.idle),
        "later_busy_others_ns": later.busy_others,
        "later_idle": _listed("owner", later.idle),
    }


def _listed(key: str, times: Mapping[str, int]) -> list[dict[str, object]]:
    return [{key: word, "ns": ns} for word, ns in times.items()]
