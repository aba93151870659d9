"""Decode modes: a static cache and a replayed graph choose the tokens of a growing cache, at the same costs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from tests.builders.emitters import Listener
from tests.builders.graphs import HostGraph, HostGraphed
from tests.hooks.networks import network, page

from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.hooks import hook
from dsocr_nvtx.run import decoding as modes
from dsocr_nvtx.run.capture import capture
from dsocr_nvtx.run.decoding import Decoding, Static
from dsocr_nvtx.run.loop import Unobserved, run_pages
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.run.workload import RunOptions
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.payload import FIELD_INDEX, WIRE, parse_experts_mark
from dsocr_nvtx.schema.records import COST_FIELDS, Cost, Stage


@pytest.fixture(scope="module")
def model() -> Any:
    return network(experts="batched_mm")


def run(model: Any, mode: str, session: Any = None, **options: Any) -> torch.Tensor:
    views = page()
    views = views.repeated(options.pop("pages", 1))
    ids = prompt_ids(views.image_tokens(), model.config)
    return run_pages(model, views.model_inputs(), ids, Decoding(mode=mode, **options), session or Unobserved())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> type[HostGraph]:
    monkeypatch.setattr(modes, "Graphed", HostGraphed)
    monkeypatch.setattr(HostGraph, "quiet", None)
    return HostGraph


@pytest.fixture
def compiled(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile with torch's tracer and no code generator, which need not be here."""
    torch.compiler.reset()
    monkeypatch.setattr(model, "get_compiled_call", lambda _: torch.compile(model.__call__, backend="eager"))
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("mode", ["static", "graph"])
@pytest.mark.parametrize("pages", [1, 2])
def test_every_mode_chooses_the_tokens_of_eager_decoding(model: Any, graphs: object, mode: str, pages: int) -> None:
    ours = run(model, mode, max_new_tokens=7, pages=pages)
    assert ours.shape == (pages, 7)
    assert torch.equal(ours, run(model, "eager", max_new_tokens=7, pages=pages))


@pytest.mark.parametrize("mode", ["static", "graph"])
def test_every_mode_ends_where_eager_decoding_ends(model: Any, graphs: object, mode: str) -> None:
    stop = int(run(model, "eager", max_new_tokens=6)[0, 3])
    ours = run(model, mode, max_new_tokens=6, stop_ids=(stop,))
    assert torch.equal(ours, run(model, "eager", max_new_tokens=6, stop_ids=(stop,)))


@pytest.mark.parametrize("mode", ["static", "graph"])
def test_one_new_token_captures_nothing(model: Any, graphs: object, mode: str) -> None:
    assert run(model, mode, max_new_tokens=1).shape == (1, 1)


def test_a_graph_needs_a_gpu(model: Any) -> None:
    with pytest.raises(Unavailable, match="CUDA"):
        run(model, "graph", max_new_tokens=2)
    with pytest.raises(UsageError, match="--decode graph"):
        capture(RunOptions(config="tiny", device="cpu", decode="graph"))


def test_a_static_step_reads_nothing_back(model: Any) -> None:
    """What a CUDA graph can capture: no value goes to the host, and no tensor is made from the host's numbers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert not any(word in str(func) for word in ("local_scalar", "lift_fresh", "is_nonzero", "nonzero"))
            return func(*args, **(kwargs or {}))

    views = page()
    ids = prompt_ids(views.image_tokens(), model.config)
    with torch.inference_mode():
        state = Static(model, ids, Decoding(max_new_tokens=4, stop_ids=(1,)))
        state.read_prompt(model.model.get_image_features(**views.model_inputs(), return_dict=True))
        with Refusing():  # type: ignore[no-untyped-call]
            state.advance()


def test_hooks_see_the_static_cache_grow(model: Any) -> None:
    with hook(model) as session:
        run(model, "static", session, max_new_tokens=4)
    calls = [record for record in session.stats.records if record.path == "model"]
    prompt, steps = ([call for call in calls if call.stage is stage] for stage in (Stage.PREFILL, Stage.DECODE))
    length = prompt[0].shape.tokens
    assert [call.shape.kv_len for call in steps] == [length + 1, length + 2, length + 3]
    assert {call.shape.kv_slots for call in steps} == {length + 4}


def test_compiled_steps_are_recorded_as_static_steps_are(model: Any, compiled: None) -> None:
    """The step that compiles is none of the run: its calls are not recorded, and what it wrote is undone."""
    with hook(model) as static:
        tokens = run(model, "static", static, max_new_tokens=5)
    with hook(model) as session:
        assert torch.equal(run(model, "compiled", session, max_new_tokens=5), tokens)
    assert not session.errors
    assert _costs(session.stats.records) == _costs(static.stats.records)


def test_replays_are_recorded_as_static_steps_are(model: Any, graphs: type[HostGraph]) -> None:
    with hook(model) as static:
        run(model, "static", static, max_new_tokens=5)
    with hook(model) as graph:
        graphs.quiet = graph
        run(model, "graph", graph, max_new_tokens=5, rehearse=False)
    seen = [r for r in graph.stats.records if r.origin != "captured"]
    assert not graph.errors
    assert _costs(seen) == _costs(static.stats.records)
    captured = [r for r in graph.stats.records if r.origin == "captured"]
    assert captured
    assert all(record.cost == Cost() for record in captured)
    ids = [record.event_id for record in graph.stats.records]
    assert len(set(ids)) == len(ids)
    parents = {record.event_id: record for record in graph.stats.records}
    replayed = [r for r in seen if r.origin == "replayed"]
    assert all(r.parent_id is not None and parents[r.parent_id].step == r.step for r in replayed)


def _costs(records: Any) -> list[tuple[object, ...]]:
    """Return every priced call: stage, step, path, shape and cost, in an order of their own."""
    priced = [r for r in records if r.cost != Cost()]
    return sorted(((str(r.stage), r.step, r.path, r.shape, r.cost) for r in priced), key=str)


def test_what_grows_is_announced_before_each_launch_inside_its_step(model: Any, graphs: type[HostGraph]) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        graphs.quiet = session
        run(model, "graph", session, max_new_tokens=4, rehearse=False)
    steps = [pushed for pushed in listener.ranges if pushed.path == "decode"][1:]
    assert [step.values[FIELD_INDEX["step"]] for step in steps] == [0, 1, 2]
    layers = range(len(model.model.language_model.layers))
    growing = {f"decoder.{i}" for i in layers} | {f"decoder.{i}.attention" for i in layers}
    keys: list[list[int]] = []
    for number, step in enumerate(steps):
        assert step.end is not None
        texts = [text for time, text in listener.marks if step.start < time < step.end]
        # The first launch after a capture announces everything, a later one the model's cost: it says the length.
        assert (len(texts) == 1) is (number > 0)
        keys.append([one[1][FIELD_INDEX["keys"]] for text in texts if (one := WIRE.parse(text)) and one[0] == "model"])
    first = page().image_tokens()[0] + 10 + 1
    assert keys == [[first], [first + 1], [first + 2]]
    told = (WIRE.parse_growth(text) for _, text in listener.marks)
    grow = {path: (values, more) for path, values, more in filter(None, told) if values[FIELD_INDEX["stage"]] == 2}
    assert set(grow) == growing
    for record in session.stats.records:
        if record.origin == "replayed" and record.path in growing:
            values, increments = grow[record.path]
            exact = [record.keys, record.pairs, *(getattr(record.cost, name) for name in COST_FIELDS)]
            longer = record.keys - values[FIELD_INDEX["keys"]]
            told_now = [value + longer * each for value, each in zip(values, increments, strict=True)]
            assert told_now[FIELD_INDEX["keys"] : FIELD_INDEX["keys"] + len(exact)] == exact


def test_a_static_run_is_what_the_static_model_says(tmp_path: Path) -> None:
    options = RunOptions(
        config="tiny", device="cpu", mode="tiny", decode="static", max_new_tokens=4, out=tmp_path / "r"
    )
    directory = capture(options)
    manifest = json.loads((directory / "run.json").read_text())
    assert manifest["static_check"]["holds"], manifest["static_check"]["differences"][:3]
    assert manifest["decode"] == "static"
    assert set(read_table(directory / "ranges.arrow")["origin"].to_pylist()) == {"call"}


def test_cudnn_attention_is_put_back(tmp_path: Path) -> None:
    enabled: Callable[[], bool] = torch.backends.cuda.cudnn_sdp_enabled
    before = enabled()
    options = RunOptions(config="tiny", device="cpu", mode="tiny", max_new_tokens=1, cudnn_sdpa=False, warmup=0)
    capture(evolve(options, out=tmp_path / "r"))
    assert enabled() == before


def test_a_replayed_graphs_experts_are_those_its_routers_chose(model: Any, graphs: type[HostGraph]) -> None:
    """What a launch overwrites is copied after it; the run's table knows the launch, the marks its step."""
    moes = {i: layer.mlp for i, layer in enumerate(model.model.language_model.layers) if hasattr(layer.mlp, "gate")}
    buffers: dict[int, torch.Tensor] = {}
    chosen: dict[int, list[list[int]]] = {i: [] for i in moes}

    def overwrite(i: int, indices: torch.Tensor) -> None:
        """Do what a launch does: leave the newest choice where the captured one was."""
        if session._forwards.capturing:
            buffers[i] = indices
        elif i in buffers:
            buffers[i].copy_(indices)
            chosen[i].append(torch.bincount(indices.flatten(), minlength=8).tolist())

    handles = [moe.gate.register_forward_hook(lambda _m, _a, out, i=i: overwrite(i, out[2])) for i, moe in moes.items()]
    listener = Listener()
    try:
        with torch.inference_mode(), hook(model, observe_experts=True, emitter=listener) as session:
            graphs.quiet = session
            run(model, "graph", session, max_new_tokens=5, stop_ids=())
    finally:
        for handle in handles:
            handle.remove()
    assert session.errors == []
    calls = [call for call in session.stats.experts if call.stage is Stage.DECODE]
    for layer, expected in chosen.items():
        mine = [call for call in calls if call.layer == layer]
        assert [call.step for call in mine] == [0, 1, 2, 3]
        assert [list(call.rows_per_expert) for call in mine] == expected
    records = {record.event_id: record for record in session.stats.records}
    for call in calls:
        assert (records[call.event_id].origin, records[call.event_id].step) == ("replayed", call.step)
        assert call.captured_id is not None
        assert records[call.captured_id].origin == "captured"
    told = [mark for _, text in listener.marks if (mark := parse_experts_mark(text)) is not None and mark.stage == 2]
    assert [mark.step for mark in told] == [0, 1, 2, 3]
    assert {event for mark in told for event, _ in mark.distinct} == {call.captured_id for call in calls}
