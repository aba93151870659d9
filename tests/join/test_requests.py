"""Requests of a serving engine: when what happened, and a latency that is busy and idle time without remainder."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.join.instants import Stretches, time_before
from dsocr_nvtx.join.request_time import OUTSIDE, DeviceTimes, Told
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.served import RequestEvent
from tests.builders.nsys import NsysFile
from tests.builders.served import ENGINE, FRONT, ServedFile, two_pages
from tests.join.test_join_nesting import column

Row = dict[str, object]


def requests_of(file: ServedFile, path: Path) -> list[Row]:
    joined = join(read(file.file.write(path)), path.name)
    assert joined.accounting.balances()
    found: list[Row] = joined.served["requests"].to_pylist()
    return found


def times(row: Row, name: str, key: str = "owner") -> dict[str, int]:
    listed = row[name]
    assert isinstance(listed, list)
    return {one[key]: one["ns"] for one in listed}


def test_requests_by_hand(tmp_path: Path) -> None:
    a, b = requests_of(two_pages(), tmp_path / "s.sqlite")
    names = (
        "name", "pid", "device", "arrived_ns", "preprocessed_ns", "queued_ns", "first_step_ns", "first_token_ns",
        "finished_ns", "latency_ns", "waiting_ns", "steps", "prompt_rows", "tokens",
    )  # fmt: skip
    assert [tuple(row[name] for name in names) for row in (a, b)] == [
        ("a", FRONT, 0, 0, 300, 300, 320, 620, 1160, 1160, 320, 4, 900, 4),
        ("b", FRONT, 0, 300, 700, 700, 740, 1040, 1160, 860, 440, 2, 400, 2),
    ]  # fmt: skip
    # Busy: prefill 340..600 and 612..615; decode 650..710, 722..725; mixed 760..1020, 1032..1035; decode 1070..1130,
    # 1142..1145.
    assert times(a, "busy_own", "stage") == {"mixed": 263, "prefill": 263, "decode": 2 * 63}
    assert (a["busy_own_ns"], a["busy_others_ns"], a["idle_ns"]) == (652, 0, 508)
    assert times(b, "busy_own", "stage") == {"mixed": 263, "decode": 63}
    assert (b["busy_own_ns"], b["busy_others_ns"], b["idle_ns"]) == (326, 263 + 63, 208)
    # Of a's: preprocessing 0..300 and 620..630 (b's); outside 730..740 and 1040..1050; detokenizing 1150..1160.
    assert times(a, "idle") == {
        "host.preprocessing": 310, "decode": 40, "host.preparing": 36, "host.sampling": 32, "host.scheduling": 20,
        "mixed": 20, "prefill": 20, "outside": 20, "host.detokenizing": 10,
    }  # fmt: skip
    # Since b's first step at 740 nothing but its own steps ran.
    assert b["later_busy_others_ns"] == 0
    assert times(b, "later_idle") == {
        "decode": 20, "mixed": 20, "host.preparing": 18, "host.sampling": 16, "host.detokenizing": 10, "outside": 10,
    }  # fmt: skip
    for row in (a, b):
        parts = [row["waiting_ns"], row["busy_own_ns"], row["later_busy_others_ns"], *times(row, "later_idle").values()]
        assert sum(int(str(part)) for part in parts) == row["latency_ns"]


def test_what_is_not_told_of_a_request_is_null(tmp_path: Path) -> None:
    """One that never ended, one that nothing but steps tell of, one that never began, and one of chunked prefill."""
    file = ServedFile()
    file.request("open", RequestEvent.ARRIVED, 0)
    file.request("idle", RequestEvent.ARRIVED, 5)
    file.request("idle", RequestEvent.FINISHED, 1000, 0)
    file.step(100, 200, Stage.PREFILL, [("open", 9, 9, "p"), ("quiet", 4, 4, "p")])
    file.step(300, 400, Stage.MIXED, [("open", 3, 12, "p"), ("quiet", 1, 5, "d")])
    open_, idle, quiet = requests_of(file, tmp_path / "s.sqlite")
    names = (
        "arrived_ns",
        "first_step_ns",
        "first_token_ns",
        "latency_ns",
        "waiting_ns",
        "steps",
        "prompt_rows",
        "idle_ns",
    )
    assert [tuple(row[name] for name in names) for row in (open_, idle, quiet)] == [
        (0, 100, None, None, 100, 2, 12, None),  # whether its prefill is through, nothing says
        (5, None, None, 995, None, 0, 0, 995 - 2 * 63),
        (None, 100, 200, None, None, 2, 4, None),
    ]  # fmt: skip
    assert (quiet["pid"], idle["tokens"], open_["idle"], idle["busy_others_ns"]) == (ENGINE, 0, [], 2 * 63)


def test_a_name_that_arrives_again_is_another_request(tmp_path: Path) -> None:
    file = ServedFile()
    for begin in (0, 1000):
        file.request("a", RequestEvent.ARRIVED, begin)
        file.step(begin + 100, begin + 200, Stage.PREFILL, [("a", 9, 9, "p")])
        file.request("a", RequestEvent.FINISHED, begin + 300, 1)
    found = requests_of(file, tmp_path / "s.sqlite")
    assert [(row["arrived_ns"], row["first_step_ns"], row["finished_ns"], row["busy_own_ns"]) for row in found] == [
        (0, 100, 300, 63), (1000, 1100, 1300, 63),
    ]  # fmt: skip


def test_of_several_gpus_that_work_on_a_request_one_speaks_for_all(tmp_path: Path) -> None:
    """Two workers of one step each: the request has the first one's device, and its steps once."""
    file = two_pages()
    rows = file.file.rows
    for table in ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_KERNEL"):
        rows[table] += [_of_worker(row) for row in list(rows[table]) if _pid(row) == ENGINE]
    file.file.device(ordinal=1, identity=1, pids=[ENGINE + 1])
    a, _ = requests_of(file, tmp_path / "s.sqlite")
    assert (a["device"], a["steps"], a["prompt_rows"], a["busy_own_ns"], a["idle_ns"]) == (0, 4, 900, 652, 508)


def _pid(row: Row) -> int:
    return int(str(row.get("globalTid") or row.get("globalPid"))) >> 24 & 0xFFFFFF


def _of_worker(row: Row) -> Row:
    """Return a row of the engine's process as that of a second worker with its own GPU."""
    again = {**row}
    for name, packed in (("globalTid", True), ("globalPid", False)):
        if name in row:
            again[name] = int(str(row[name])) + (1 << 24) + (1 if packed else 0)
    if "deviceId" in row:
        again["deviceId"] = 1
    return again


@given(st.data())
def test_any_time_is_busy_and_idle_without_remainder(data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, 40), min_size=2, max_size=12)))
    count = len(edges) - 1
    kinds = data.draw(st.lists(st.tuples(st.booleans(), st.integers(-1, 3)), min_size=count, max_size=count))
    busy, owner = np.array([kind for kind, _ in kinds]), column([row for _, row in kinds])
    stretches = Stretches(0, column(edges[:-1]), column(edges[1:]), owner, busy)
    # Rows 0 and 1 lie in steps 0 and 1; 2 and 3 in none. Words: row 3 is told as row 1 is.
    inside, word = column([0, 1, -1, -1]), column([0, 1, 2, 1])
    device = DeviceTimes.of(stretches, Told(inside, column([0, 1, 2, 2]), word, ["x", "y", "z"]))
    begin, end = sorted(data.draw(st.tuples(st.integers(-5, 45), st.integers(-5, 45))))
    steps = data.draw(st.sampled_from([[], [0], [1], [0, 1]]))
    expected: dict[str, int] = {}
    for time in range(begin, end):
        at = next((at for at in range(count) if edges[at] <= time < edges[at + 1]), None)
        is_busy, row = kinds[at] if at is not None else (False, -1)
        own = is_busy and row in steps
        name = ("own x", "own y")[row] if own else "others" if is_busy else ["x", "y", "z", "y", OUTSIDE][row]
        expected[name] = expected.get(name, 0) + 1
    found = device.between(begin, end, steps)
    told = {**found.idle, **{f"own {stage}": ns for stage, ns in found.own.items()}, "others": found.busy_others}
    assert {name: ns for name, ns in told.items() if ns} == expected
    assert list(found.idle.values()) == sorted(found.idle.values(), reverse=True)


def test_time_before_instants_by_hand() -> None:
    start, end = column([10, 30]), column([20, 35])
    assert time_before(start, end, column([0, 10, 15, 25, 32, 99])).tolist() == [0, 0, 5, 10, 12, 15]
    assert time_before(column([]), column([]), column([7])).tolist() == [0]


def test_a_run_that_is_not_served_keeps_no_instants(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(1)
    file.schema()
    file.device(pids=[1])
    file.launch("gemm", 10, 20, 30)
    file.push_pop("model", 0, 40, values=[0] * 20)
    assert join(read(file.write(tmp_path / "s.sqlite")), "s").served == {}


def test_a_request_that_was_named_late_arrived_when_its_mark_says(tmp_path: Path) -> None:
    """Preprocessing is done before a request has its name: its mark tells how long ago it arrived."""
    file = ServedFile()
    file.request("a", RequestEvent.ARRIVED, 500, 400)
    file.request("a", RequestEvent.PREPROCESSED, 500)
    file.step(600, 700, Stage.PREFILL, [("a", 9, 9, "p")])
    file.request("a", RequestEvent.FINISHED, 800, 1)
    (a,) = requests_of(file, tmp_path / "s.sqlite")
    assert (a["arrived_ns"], a["preprocessed_ns"], a["latency_ns"], a["tokens"]) == (100, 500, 700, 1)


def test_images_inside_a_step_are_vision_and_no_sequences_cost(tmp_path: Path) -> None:
    """An encoder inside a prefill: the page is busy with vision, and the step costs what its sequences do."""
    file = two_pages()
    file.step(2000, 2400, Stage.PREFILL, [("c", 100, 100, "p")])
    file.range("sam", 2100, 2200, stage=0, kind=3, level=1, tensor_flops=7, rows=1, sequences=1)
    file.file.launch("gemm", 2110, 2382, 2386, pid=ENGINE)
    file.request("c", RequestEvent.ARRIVED, 1990)
    file.request("c", RequestEvent.FINISHED, 2500, 1)
    path = tmp_path / "s.sqlite"
    *_, c = requests_of(file, path)
    assert times(c, "busy_own", "stage") == {"prefill": 363, "vision": 4}
    *_, mixed, _, last = join(read(path), "s").served["served_steps"].to_pylist()
    assert last["tensor_flops"] == 1000 * 100 + 10 * 5050
    assert mixed["tensor_flops_prefill"] == 1000 * 400 + 10 * 80_200
