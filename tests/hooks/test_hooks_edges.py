"""Hooks that make a call at both ends of every range, for whoever records calls and not ranges."""

from time import perf_counter_ns
from typing import Any

import pytest
import torch

from dsocr_nvtx.hooks import edge_emitter, hook
from dsocr_nvtx.hooks.emit import Edges
from dsocr_nvtx.run.loop import Decoding, Unobserved, run_pages
from dsocr_nvtx.run.prompt import prompt_ids
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
    begun, ended = (sorted(getattr(r, f"host_{end}_ns") for r in records) for end in ("start", "end"))
    # Each beginning has the edge before it, each end the edge after it, and no other end of a range lies between.
    ends = sorted([(time, "begins") for time in begun] + [(time, "ends") for time in ended])
    for edge, (time, what) in zip(edges, ends, strict=True):
        assert edge <= time if what == "begins" else edge >= time
    assert torch.equal(tokens, run_pages(model, views.model_inputs(), ids, decoding, Unobserved()))


def test_an_edge_that_fails_is_noted_and_the_model_goes_on(model: Any) -> None:
    def fail() -> None:
        raise RuntimeError("the device is lost")

    with hook(model, emitter=Edges(fail)) as session:
        tokens = run(model, session, tokens=5)
    assert any("the device is lost" in error for error in session.errors)
    with hook(model, emitter=Edges(lambda: None)) as quiet:
        assert torch.equal(tokens, run(model, quiet, tokens=5))


def test_a_tool_that_listens_needs_no_edges(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsocr_nvtx.hooks.attach.nvtx_emitter", Listener)
    assert edge_emitter().edge is None
    monkeypatch.setattr("dsocr_nvtx.hooks.attach.nvtx_emitter", lambda: Listener(active=False))
    emitter = edge_emitter()
    assert (emitter.active, emitter.edge is not None) == (False, True)
    with hook(model, emitter=emitter) as session:
        assert session.marks_edges
    with hook(model) as session:
        assert not session.marks_edges
