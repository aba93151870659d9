"""Nodes of CUDA graphs noted as CUPTI calls back: through C function pointers, with C structures built by hand."""

import ctypes
import json
import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import get_native_id
from time import perf_counter_ns
from typing import Any

import pytest
from tests.builders.tables import filled

from dsocr_nvtx.run import capture as one
from dsocr_nvtx.run import conveyor, cupti_capture
from dsocr_nvtx.run.cupti_capture import CuptiCapture
from dsocr_nvtx.run.cupti_library import NODE_EVENT, Cupti, ResourceData
from dsocr_nvtx.run.cupti_nodes import GraphNodes
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.workload import RunOptions
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.tables import GRAPH_NODES, OPERATIONS

RESOURCES, CREATED, CLONED = 3, 13, 20
"""CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED and _CLONED of cupti_callbacks.h."""
BUSY, INVALID = 39, 1
NAMES = {BUSY: b"CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED", INVALID: b"CUPTI_ERROR_INVALID_PARAMETER"}
NODE = 0x7F00_0000_1000
"""A handle of a node, wider than 32 bits as pointers are; its id is the number behind it."""


class Library:
    """The functions of libcupti that nodes need: one subscriber at a time, and ids of the handles from `NODE` on."""

    def __init__(self, *, taken: bool = False, deaf: bool = False) -> None:
        self.taken, self.deaf = taken, deaf
        self.enabled: list[tuple[int, int, int]] = []
        self.called: Any = None

    def cuptiSubscribe(self, handle: Any, callback: Any, _given: object) -> int:  # noqa: N802
        if self.taken:
            return BUSY
        # As C keeps it: an address, called with the C convention.
        self.taken, self.called = True, NODE_EVENT(ctypes.cast(callback, ctypes.c_void_p).value or 0)
        handle._obj.value = 77
        return 0

    def cuptiEnableCallback(self, on: int, subscriber: Any, domain: int, event: int) -> int:  # noqa: N802
        assert subscriber.value == 77
        self.enabled.append((on, domain, event))
        return INVALID if self.deaf else 0

    def cuptiUnsubscribe(self, subscriber: Any) -> int:  # noqa: N802
        assert subscriber.value == 77
        self.taken, self.called = False, None
        return 0

    def cuptiGetGraphNodeId(self, node: Any, number: Any) -> int:  # noqa: N802
        if (node.value or 0) < NODE:
            return INVALID
        number._obj.value = node.value - NODE
        return 0

    def cuptiGetResultString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = NAMES[status]
        return 0

    def tell(self, event: int, node: int, original: int = 0) -> None:
        """Call back as CUPTI does: the structures lie in memory as the header lays them out, and only meanwhile."""
        graph = struct.pack("<4QI4x2Q", 0xA, 0xB, node, original, 0, 0xC, 0xD)
        held = ctypes.create_string_buffer(graph, len(graph))
        resource = struct.pack("<3Q", 0xE, 0xF, ctypes.addressof(held))
        given = ctypes.create_string_buffer(resource, len(resource))
        self.called(None, RESOURCES, event, ctypes.cast(given, ctypes.POINTER(ResourceData)))
        ctypes.memset(held, 0xFF, len(graph))


def nodes_of(library: Library) -> GraphNodes:
    """Return a listener on a library."""
    return GraphNodes(Cupti(library, {}))


def rows(nodes: GraphNodes) -> Sequence[tuple[int, int | None]]:
    """Return (node, original) of what was noted."""
    return [(row["graph_node_id"], row["original_node_id"]) for row in nodes.table(1).to_pylist()]


def test_nodes_clones_and_clones_of_clones_are_noted_where_and_when_they_were_made() -> None:
    nodes = nodes_of(library := Library())
    begun = perf_counter_ns()
    with nodes.listening():
        assert library.enabled == [(1, RESOURCES, CREATED), (1, RESOURCES, CLONED)]
        library.tell(CREATED, NODE + 5)
        between = perf_counter_ns()
        library.tell(CREATED, NODE + 105)
        library.tell(CLONED, NODE + 105, NODE + 5)
        library.tell(CLONED, NODE + (1 << 40), NODE + 105)
    assert not library.taken
    assert rows(nodes) == [(5, None), (105, None), (105, 5), (1 << 40, 105)]
    table = nodes.table(31)
    assert table.schema.names == GRAPH_NODES.names
    assert set(table["pid"].to_pylist()) == {31}
    assert set(table["tid"].to_pylist()) == {get_native_id()}
    times = table["time_ns"].to_pylist()
    assert times == sorted(times)
    assert begun <= times[0] <= between <= times[1] <= times[-1] <= perf_counter_ns()
    assert (nodes.failed, nodes.trouble) == (0, "")


def test_a_node_that_cannot_be_identified_is_counted_and_nothing_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = nodes_of(library := Library())
    with nodes.listening():
        library.tell(CREATED, 0)
        library.tell(CREATED, NODE + 5)
        library.tell(CLONED, NODE + 6, 0)  # of what it is a clone is not known: such a row would call it captured
        library.called(None, RESOURCES, CREATED, ctypes.POINTER(ResourceData)())
    assert rows(nodes) == [(5, None)]
    assert nodes.failed == 3
    assert "3 of 4 times" in nodes.trouble
    assert "CUPTI_ERROR_INVALID_PARAMETER" in nodes.trouble
    assert capsys.readouterr().err == ""  # where ctypes reports what a callback raised


@pytest.mark.parametrize("how", ["taken", "deaf"])
def test_where_nobody_can_listen_the_run_goes_on_and_says_why(how: str) -> None:
    library = Library(taken=how == "taken", deaf=how == "deaf")
    nodes, ran = nodes_of(library), False
    with nodes.listening():
        ran = True
    assert ran
    assert not len(nodes)
    reason = NAMES[BUSY] if how == "taken" else NAMES[INVALID]
    assert reason.decode() in nodes.trouble
    assert "stay with their steps" in nodes.trouble
    assert library.taken is (how == "taken")  # the other tool's subscription is left alone, ours is given up


def test_listening_ends_with_a_block_that_fails() -> None:
    nodes = nodes_of(library := Library())
    with pytest.raises(KeyError), nodes.listening():
        raise KeyError
    assert not library.taken


class Recorder(Cupti):
    """A CUPTI that records nothing but nodes."""

    def enable(self, requested: object, completed: object, *, driver: bool = True) -> None:
        """Record nothing."""

    def disable(self, *, driver: bool = True) -> None:
        """Hand nothing over."""

    def clock(self) -> int:
        """Return our own time."""
        return perf_counter_ns()


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("taken", [True, False])
def test_a_run_directory_has_the_nodes_and_a_run_with_graphs_its_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, graphs: bool, taken: bool
) -> None:
    library = Library(taken=taken)
    capture = CuptiCapture(Recorder(library, {}))
    operations = filled(OPERATIONS, [{"graph_node_id": 5 if graphs else None}])
    monkeypatch.setattr(capture, "records", dict)
    monkeypatch.setattr(capture, "_operations", lambda _records: operations)
    monkeypatch.setattr(cupti_capture, "launches_of", lambda *_: operations)
    with capture.recording():
        if graphs and not taken:
            library.tell(CREATED, NODE + 5)
    capture.write(tmp_path, {})
    found = tmp_path / "timings" / "graph_nodes.arrow"
    assert found.is_file() is (graphs and not taken)
    if found.is_file():
        assert [(r["pid"], r["graph_node_id"]) for r in read_table(found).to_pylist()] == [(os.getpid(), 5)]
    assert bool(capture.note) is (graphs and taken)


def test_a_graph_of_which_no_node_was_told_is_said() -> None:
    nodes = nodes_of(Library())
    with nodes.listening():
        pass
    assert "no node" in nodes.trouble


class Noting:
    """What recorded a run and missed something."""

    note = "operations of CUDA graphs stay with their steps: somebody else listened"

    def recording(self) -> AbstractContextManager[None]:
        return nullcontext()

    opened = True

    def write(self, directory: Path, devices: object) -> int:
        return 0


@pytest.mark.parametrize(("module", "pages"), [(one, 1), (conveyor, 2)])
def test_what_a_run_could_not_see_is_said_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], module: Any, pages: int
) -> None:
    monkeypatch.setattr(module, "choose_timing", lambda *_: ("cupti", Noting()))
    names = tuple(str(tmp_path / f"{number}.png") for number in range(pages))
    for name in names:
        draw_page(300, 400, 1).save(name)
    options = RunOptions(
        config="tiny", device="cpu", mode="tiny", max_new_tokens=2, pages=names, out=tmp_path / "run", hooks=False
    )
    found = json.loads((one.capture(options) / "run.json").read_text())
    assert (found["timing"], found["timing_note"]) == ("cupti", Noting.note)
    assert Noting.note in capsys.readouterr().err
