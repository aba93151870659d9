"""Hooks that make a call at both ends of every range, for whoever records calls and not ranges."""

from collections import Counter
from itertools import count
from time import perf_counter_ns
from typing import Any

import pytest
import torch

from dsocr_nvtx.hooks import edge_emitter, hook
from dsocr_nvtx.hooks.emit import Edges
from dsocr_nvtx.run.loop import Decoding, Unobserved, run_pages
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.schema.records import Stage
from tests.builders.emitters import Listener
from tests.hooks.networks import network, page, run


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("level", ["stage", "layer", "op"])
@pytest.mark.parametrize("decode", ["eager", "static"])
def test_each_range_has_an_edge_just_outside_of_both_its_ends(
    model: Any, decode: str, level: str, observe: bool
) -> None:
    """Sorted by time, ends of ranges and edges take turns as brackets do: no call of a model fits in between."""
    edges: list[int] = []
    views = page()
    ids = prompt_ids(views.image_tokens(), model.config)
    emitter = Edges(lambda: edges.append(perf_counter_ns()))
    with hook(model, level=level, observe_experts=observe, emitter=emitter) as session:
        decoding = Decoding(max_new_tokens=6, mode=decode)
        tokens = run_pages(model, views.model_inputs(), ids, decoding, session)
    assert not session.errors
    records = session.stats.records
    assert len(edges) == 2 * len(records)
    ends = sorted([(r.host_start_ns, "begins") for r in records] + [(r.host_end_ns, "ends") for r in records])
    times = [0, *(time for time, _ in ends), perf_counter_ns()]
    for number, (edge, (time, what)) in enumerate(zip(edges, ends, strict=True), 1):
        assert (times[number - 1] <= edge <= time) if what == "begins" else (time <= edge <= times[number + 1])
    assert torch.equal(tokens, run_pages(model, views.model_inputs(), ids, decoding, Unobserved()))


def test_an_edge_that_fails_is_noted_and_the_model_goes_on(model: Any) -> None:
    def fail() -> None:
        raise RuntimeError("the device is lost")

    with hook(model, emitter=Edges(fail)) as session:
        tokens = run(model, session, tokens=5)
    assert any("the device is lost" in error for error in session.errors)
    with hook(model, emitter=Edges(lambda: None)) as quiet:
        assert torch.equal(tokens, run(model, quiet, tokens=5))


def test_one_edge_that_fails_spoils_nothing_after_it(model: Any) -> None:
    """Whichever it is: what is open afterwards is what was, and each other range has its row."""
    with hook(model, level="layer", emitter=Edges(lambda: None)) as quiet:
        tokens = run(model, quiet, tokens=6)
    whole = Counter((r.path, r.stage) for r in quiet.stats.records)
    ends = sorted((getattr(r, f"host_{end}_ns"), r.path, r.step, end) for r in quiet.stats.records for end in ENDS)
    # One of each kind: read forwards and repeated ones, steps and what is in them.
    chosen = {(path, step, end): number for number, (_, path, step, end) in enumerate(ends, 1)}
    for path, step in (("vision", 0), ("prefill", 0), ("sam", 0), ("decode", 1), ("decode", 4)):
        for inside in {path, *(("model", "decoder.1") if path == "decode" else ())}:
            for end in ENDS:
                _fails(model, chosen[inside, step, end], tokens, whole)


ENDS = ("start", "end")


def _fails(model: Any, failing: int, tokens: torch.Tensor, whole: Counter[tuple[str, Stage]]) -> None:
    edges = count(1)

    def fail_once() -> None:
        if next(edges) == failing:
            raise RuntimeError("the device is lost")

    with hook(model, level="layer", emitter=Edges(fail_once)) as session:
        assert torch.equal(tokens, run(model, session, tokens=6))
        assert session._shared.threads.state.open == []
    assert len(session.errors) == 1
    found = Counter((r.path, r.stage) for r in session.stats.records)
    assert (whole - found).total() <= 1  # a range that could not be opened has no row
    assert not found - whole
    steps = [(r.step, r.parent_id) for r in session.stats.records if r.path == "decode"]
    assert steps == sorted({(step, None) for step, _ in steps})


def test_captures_that_overlap_leave_the_session_as_it_was(model: Any) -> None:
    with hook(model, emitter=Listener()) as session:
        shared = session._shared
        first, second = shared.captured(), shared.captured()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert (shared.capturing, shared.is_capturing()) == (False, False)


def test_a_tool_that_listens_needs_no_edges(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsocr_nvtx.hooks.attach.nvtx_emitter", Listener)
    assert edge_emitter().edge is None
    monkeypatch.setattr("dsocr_nvtx.hooks.attach.nvtx_emitter", lambda: Listener(active=False))
    emitter = edge_emitter()
    assert (emitter.active, emitter.edge is not None) == (False, True)
    with hook(model, emitter=emitter) as session:
        assert session.edges
    with hook(model) as session:
        assert not session.edges
    with hook(model, record=False, emitter=emitter) as session:
        assert not session.edges  # nothing is attached
