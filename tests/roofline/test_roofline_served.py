"""Rows of a served run: mixed steps apart from both, host work without a roof, and all of it adds up."""

from pathlib import Path

import pytest

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.report.words import place, verdict
from dsocr_nvtx.roofline.joined import judged
from dsocr_nvtx.roofline.ladder import ladder
from dsocr_nvtx.roofline.points import Roofline
from tests.builders.served import ENGINE, FRONT, two_pages

Row = dict[str, object]


@pytest.fixture(name="served")
def join_two_pages(tmp_path: Path) -> tuple[Joined, Roofline]:
    trace = read(two_pages().file.write(tmp_path / "served.sqlite"))
    joined = join(trace, "served")
    return joined, judged(trace, joined, None, None, "served")


def test_mixed_steps_have_rows_of_their_own(served: tuple[Joined, Roofline]) -> None:
    _, found = served
    stages = {(row["pid"], row["stage"]): row for row in found.stages.to_pylist()}
    assert list(stages) == [
        (ENGINE, "prefill"), (ENGINE, "decode"), (ENGINE, "mixed"), (FRONT, "host"), (ENGINE, "host"),
    ]  # fmt: skip
    assert {key: (row["steps"], row["tokens"], row["calls"]) for key, row in stages.items() if key[1] != "host"} == {
        (ENGINE, "prefill"): (1, 900, 2), (ENGINE, "decode"): (2, 1 + 2, 4), (ENGINE, "mixed"): (1, 401, 2),
    }  # fmt: skip
    # rows 1 + 400; pairs 902 of the one that decodes, 400 x 401 / 2 = 80,200 of the one that prefills
    mixed = [row for row in found.rows.to_pylist() if (row["stage"], row["kind"]) == ("mixed", "attention")]
    assert [row["tensor_flops"] for row in mixed] == [1000 * 401 + 10 * (902 + 80_200)]
    assert all(stages[ENGINE, name]["bound"] and stages[ENGINE, name]["mfu"] for name in ("prefill", "decode", "mixed"))


def test_host_work_has_no_roof_and_no_verdict(served: tuple[Joined, Roofline]) -> None:
    _, found = served
    for row in [*found.rows.to_pylist(), *found.stages.to_pylist()]:
        if "host" in (row["stage"], row.get("kind")):
            judged_by = ("efficiency", "bound", "above_roof", "achieved_tflops", "mfu", "mbu")
            assert [row.get(name) for name in judged_by] == [None] * 6
            assert row["calls"] == row["tensor_flops"] == row["roofline_ns"] == 0
    assert "host" not in ladder(served[0].kernels, found.stages)["stage"].to_pylist()
    (front,) = (row for row in found.stages.to_pylist() if row["pid"] == FRONT)
    assert verdict({**front, "idle_owned_ns": 2_500_000}) == "host work outside steps: the GPU waits 2.50 ms for it"


def test_what_the_host_did_is_told_by_its_name_and_all_rows_add_up(served: tuple[Joined, Roofline]) -> None:
    joined, found = served
    rows = found.rows.to_pylist()
    of_host = {(str(row["stage"]), place(row)): row["idle_owned_ns"] for row in rows if row["kind"] == "host"}
    # a's preprocessing 0..300; b's while the engine's thread has a range open owns nothing but 620..630.
    assert of_host["host", "host.preprocessing"] == 300 + 10
    # from 1145, when the last kernel ends, sampling of the last step to 1149 and the step to 1150; then 1150..1200
    assert of_host["host", "host.detokenizing"] == 50
    assert of_host["host", "host.scheduling"] == 20
    # four steps: preparing 1..10 each
    assert sum(ns for (_, what), ns in of_host.items() if what == "host.preparing") == 4 * 9
    (device,) = joined.accounting.devices
    owned = sum(row["busy_owned_ns"] + row["idle_owned_ns"] for row in rows)
    assert owned + device.idle_ns["none"] == device.wall_ns == 1200
    assert device.idle_ns["none"] == 10 + 10  # 730..740 and 1040..1050
