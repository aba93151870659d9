"""`mcp`: what the tools answer is what the tables hold; the server itself is tried where its SDK is installed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx.cli.mcp import server, told
from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.report.answers import ANSWERS, budget, diff, gated, kernels, rows, stalls, verdict
from dsocr_nvtx.schema.files import read_table


def held(out: Path, evidence: dict[str, Any]) -> None:
    """Hold figures to the row of the table that they say they are from."""
    row = read_table(out / evidence["table"]).to_pylist()[evidence["row"]]
    assert {name: evidence[name] for name in row} == row


def test_every_figure_is_in_the_table_and_row_that_is_named(demo_out: Path) -> None:
    out = str(demo_out)
    for stage in verdict(out)["stages"]:
        held(demo_out, stage["evidence"])
    for one in (*rows(out, count=7)["rows"], *rows(out, "vision")["rows"], *kernels(out, "prefill")["kernels"]):
        held(demo_out, one)
    assert {one["stage"] for one in rows(out, "vision")["rows"]} == {"vision"}
    noted = json.loads((demo_out / "join.json").read_text())["stalls"]
    for one in stalls(out, 3)["stalls"]:
        at = int(one["entry"].removeprefix("stalls[").removesuffix("]"))
        assert (one["ns"], one["path"]) == (noted[at]["ns"], noted[at]["path"])


def test_the_verdict_has_the_remedy_and_the_budget_adds_up(demo_out: Path) -> None:
    decode = verdict(str(demo_out))["stages"][-1]
    assert decode["verdict"].startswith("decode is waiting for the host")
    assert any("--no-cudnn-sdpa" in line for line in decode["advice"])
    *parts, wall = budget(str(demo_out))["parts"]
    for stage, ns in wall["ns"].items():
        assert sum(part["ns"][stage] for part in parts) == ns, stage


def test_runs_are_compared_and_held_against_rules(demo_out: Path) -> None:
    out = str(demo_out)
    same = diff(out, out)
    assert [one["verdict"] for one in same["stages"]] == ["same"] * 3
    assert same["causes"] == []
    assert gated(out, ["decode.busy_ns<=+3%"], out)["outcome"] == "pass"
    assert gated(out, ["decode.busy_ns<=1us"])["outcome"] == "fail"


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_what_cannot_be_answered_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    more: dict[str, tuple[object, ...]] = {"diff": (str(tmp_path),), "gate": (["decode.busy_ns<=1us"],)}
    said = told(ANSWERS[name])(str(tmp_path), *more.get(name, ()))
    assert said == {
        "refused": f"{tmp_path}: no join.json in it; "
        "name a directory that dsocr-nvtx join wrote, or join the report again"
    }


def test_no_answer_has_more_rows_than_an_assistant_can_read(demo_out: Path) -> None:
    found = rows(str(demo_out), count=10**6)
    assert len(found["rows"]) == 50
    assert found["more"] == len(read_table(demo_out / "roofline.arrow")) - 50
    assert len(json.dumps(found)) < 200_000


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(Unavailable, match=r"pip install 'dsocr-nvtx\[mcp\]'"):
        server()


def test_the_server_has_every_tool_and_each_only_reads(demo_out: Path) -> None:
    pytest.importorskip("mcp.server.mcpserver", reason="the Model Context Protocol's SDK is not installed")
    import anyio

    made = server()
    tools = anyio.run(made.list_tools)
    assert {tool.name for tool in tools} == set(ANSWERS)
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    found = anyio.run(made.call_tool, "verdict", {"out": str(demo_out)})
    assert "decode is waiting for the host" in str(found)
