"""A real capture of vLLM on an H200 (full CUDA graphs, marked layers), its steps told as a hooked engine would."""

import lzma
import sqlite3
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.schema.records import LayerKind, Stage, code_of
from dsocr_nvtx.schema.served import RequestEvent, ServedSequence, request_mark, served_mark
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload

CAPTURE = Path(__file__).parents[2] / ".." / "shared" / "data" / "serving" / "vllm-marked.sqlite.xz"
PID, DOMAIN, PROMPT = 498, 77, 914
DECODE, HOST = code_of(Stage.DECODE), code_of(LayerKind.HOST)
RUN = "SELECT start, end FROM NVTX_EVENTS WHERE text = 'generate:full:24'"
LAUNCHES = """SELECT start, end FROM CUPTI_ACTIVITY_KIND_RUNTIME r JOIN StringIds s ON s.id = r.nameId
    WHERE s.value LIKE 'cudaGraphLaunch%' AND start BETWEEN ? AND ? ORDER BY start"""

pytestmark = pytest.mark.skipif(not CAPTURE.is_file(), reason="the capture in ../shared/data/serving is not here")


def told(launches: list[tuple[int, int]], begin: int, end: int) -> NsysFile:
    """Return what a hooked engine adds: a step around each launch of a graph, scheduling between, and one request."""
    file = NsysFile()
    file.domain(PID, domain=DOMAIN)
    file.mark(request_mark("a", RequestEvent.ARRIVED), begin, pid=PID)
    last = begin
    for step, (start, returned) in enumerate(launches):
        before, after, event = start - 40_000, returned + 30_000, 3 * step
        extent = {"stage": DECODE, "step": step, "kind": 13, "level": 0}
        sums = {"sequences": 1, "rows": 1, "keys": PROMPT + step, "pairs": PROMPT + step}
        ranges = (
            ("host.scheduling", last, before, payload(event_id=event, stage=5, kind=HOST, rows=0, sequences=0)),
            ("step.decode", before, after, payload(event_id=event + 1, rows=0, sequences=0, **extent)),
            ("model", before + 1000, after - 1000, payload(event_id=event + 2, **extent, **sums)),
        )
        for path, first, until, values in ranges:
            file.push_pop(path, first, until, pid=PID, values=values, binary=False, json=True, domain=DOMAIN)
        file.mark(served_mark(event + 1, 8, [ServedSequence("a", 1, PROMPT + step, True)]), before + 500, pid=PID)
        last = after
    file.mark(request_mark("a", RequestEvent.FINISHED, len(launches)), end, pid=PID)
    return file


@pytest.fixture(scope="module", name="served")
def serve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Joined, int]:
    """Return the join of the capture with those steps, and how many GPU operations the capture has."""
    path = tmp_path_factory.mktemp("served") / "vllm.sqlite"
    path.write_bytes(lzma.decompress(CAPTURE.read_bytes()))
    connection = sqlite3.connect(path)
    ((begin, end),) = connection.execute(RUN).fetchall()
    file = told(connection.execute(LAUNCHES, (begin, end)).fetchall(), begin, end)
    ((highest,),) = connection.execute("SELECT max(id) FROM StringIds").fetchall()
    connection.executemany(
        "INSERT INTO StringIds VALUES (?, ?)", [(highest + i, text) for text, i in file.strings.items()]
    )
    for row in file.rows["NVTX_EVENTS"]:
        if row.get("textId") is not None:
            row["textId"] = highest + int(str(row["textId"]))
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO NVTX_EVENTS ({names}) VALUES ({marks})", list(row.values()))
    layer = "'decoder.' || replace(substr(text, 2), '.attn', '.attention')"
    unknown = code_of(Stage.UNKNOWN) + 1
    connection.execute(
        f"UPDATE NVTX_EVENTS SET text = {layer}, domainId = {DOMAIN}, category = {unknown} WHERE text GLOB 'L[0-9]*'"
    )
    kinds = ("KERNEL", "MEMCPY", "MEMSET")
    count = sum(connection.execute(f"SELECT count(*) FROM CUPTI_ACTIVITY_KIND_{kind}").fetchone()[0] for kind in kinds)
    connection.commit()
    connection.close()
    return join(read(path), "vllm"), count


def test_every_operation_is_there_once_and_every_nanosecond_has_an_owner(served: tuple[Joined, int]) -> None:
    joined, count = served
    assert joined.accounting.balances()
    assert joined.accounting.operations + sum(one.records for one in joined.accounting.set_apart) == count
    (device,) = joined.accounting.devices
    rows = joined.ranges.to_pylist()
    assert sum(row["idle_owned_ns"] for row in rows) + device.idle_ns["none"] == sum(device.idle_ns.values())


def test_steps_are_the_schedulers_and_have_all_twelve_layers(served: tuple[Joined, int]) -> None:
    joined, _ = served
    steps = joined.served["served_steps"].to_pylist()
    assert len(steps) >= 20
    assert [(row["rows"], row["keys"], row["agrees"]) for row in steps] == [
        (1, PROMPT + at, True) for at in range(len(steps))
    ]
    assert joined.accounting.served.contradicted == 0
    replayed = [row for row in joined.ranges.to_pylist() if row["origin"] == "replayed" and row["layer"] is None]
    layers: dict[int, set[str]] = {}
    for row in replayed:
        layers.setdefault(row["step"], set()).add(row["path"])
    for step in range(len(steps)):
        assert {f"decoder.{layer}.mlp" for layer in range(12)} <= layers[step]
    assert all(row["busy_owned_ns"] > 0 for row in steps)


def test_the_requests_latency_is_busy_and_idle_and_most_idle_time_has_a_name(served: tuple[Joined, int]) -> None:
    (request,) = served[0].served["requests"].to_pylist()
    assert request["busy_own_ns"] + request["busy_others_ns"] + request["idle_ns"] == request["latency_ns"]
    idle = {one["owner"]: one["ns"] for one in request["idle"]}
    assert sum(idle.values()) == request["idle_ns"]
    assert idle["host.scheduling"] + idle["decode"] > 0.8 * request["idle_ns"]
