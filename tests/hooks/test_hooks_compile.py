"""Code that torch.compile makes of a hooked model: its calls have their ranges, at every call and in CUDA graphs."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.marking import TOKENS
from dsocr_nvtx.run.model import CACHE_ARGUMENT
from dsocr_nvtx.schema.records import CostState, RangeRecord
from tests.builders.emitters import Listener
from tests.hooks.networks import attached, network

PROMPT = 5
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
"""What torch's own tracer does with the masks of transformers."""


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(autouse=True)
def _compiled_code_is_forgotten() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def decode(call: Callable[..., Any], config: Any, steps: int = 4) -> torch.Tensor:
    """Run a prompt of five tokens and some steps; return the logits of all."""
    cache = DynamicCache(config=config.text_config)
    found = [
        call(
            input_ids=torch.ones(1, tokens, dtype=torch.int64),
            **{CACHE_ARGUMENT: cache},
            use_cache=True,
            logits_to_keep=1,
        ).logits
        for tokens in (PROMPT, *[1] * steps)
    ]
    return torch.cat(found, 1)


def nested(records: list[RangeRecord]) -> list[tuple[object, ...]]:
    """Return what must be the same compiled or not: every call's place, stage, step, cost, and the call around it."""
    paths: dict[int | None, str] = {record.event_id: record.path for record in records}
    return sorted(
        (str(r.stage), r.step, r.path, paths.get(r.parent_id, ""), r.shape.kv_len, r.rows, r.cost.flops, r.state)
        for r in records
    )


class Compiles:
    """A backend of torch.compile that counts what it is given and runs it as it stands."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: object) -> Any:
        self.graphs += 1
        return graph.forward


def whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend)


def in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend)
    return model


def forward_alone(model: Any, backend: Any) -> Any:
    return torch.compile(model.forward, backend=backend, fullgraph=True)


def text_forward(model: Any, backend: Any) -> Any:
    text = model.model.language_model
    text.forward = torch.compile(text.forward, backend=backend)
    return model


def layers(model: Any, backend: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.compile(backend=backend)
    return model


def undo(model: Any) -> None:
    """Take away what was compiled in place."""
    vars(model.model.language_model).pop("forward", None)
    for module in model.modules():
        module._compiled_call_impl = None


@pytest.mark.parametrize("ways", [whole, in_place, forward_alone, text_forward, layers])
def test_compiled_calls_have_the_ranges_of_eager_ones(model: Any, ways: Callable[..., Any]) -> None:
    """Order, nesting, shapes, costs and outputs are the eager ones; the second run compiles nothing."""
    backend, listener = Compiles(), Listener()
    with torch.no_grad():
        expected = decode(model, model.config)
        with hook(model) as session:
            decode(model, model.config)
        try:
            with hook(model, emitter=listener) as compiled:
                call = ways(model, backend)
                assert torch.equal(decode(call, model.config), expected)
                made = backend.graphs
                assert made > 0
                assert nested(compiled.stats.records) == nested(session.stats.records)
                assert [r.path for r in compiled.stats.records] == [p.path for p in listener.ranges]
                assert torch.equal(decode(call, model.config), expected)
            assert backend.graphs == made
        finally:
            undo(model)
    assert compiled.errors == []
    assert compiled.checks.contradictions == []
    assert listener.stack == []
    assert attached(model) == []


@pytest.mark.parametrize("options", [{"backend": "aot_eager"}, {"backend": "eager", "dynamic": True}])
def test_every_backend_keeps_the_markers_and_the_steady_state_compiles_nothing(
    model: Any, options: dict[str, Any]
) -> None:
    """The tracer's own and AOTAutograd's graphs run every marker in order; a known size is never compiled again."""
    listener = Listener()
    with torch.no_grad():
        expected = decode(model, model.config)
        with hook(model) as eager:
            decode(model, model.config)
        with hook(model, emitter=listener) as session:
            compiled = torch.compile(model, **options)
            decode(compiled, model.config)
            session.discard()
            listener.ranges.clear()
            with torch._dynamo.config.patch(error_on_recompile=True):
                assert torch.equal(decode(compiled, model.config), expected)
        recorded = len(session.stats.records)
        assert torch.equal(decode(compiled, model.config), expected)
    assert nested(session.stats.records) == nested(eager.stats.records)
    assert [r.path for r in session.stats.records] == [pushed.path for pushed in listener.ranges]
    assert len(session.stats.records) == recorded
    assert session.errors == session.checks.contradictions == []
    assert listener.stack == []


@pytest.mark.parametrize("fullgraph", [False, True])
def test_generate_with_a_static_cache_has_its_decode_steps(model: Any, fullgraph: bool) -> None:
    """`generate` compiles its decode step itself; a second block has its ranges too, and none is left after it."""
    compiles, ids = Compiles(), torch.arange(3, 12)[None]

    def counted(graph: torch.fx.GraphModule, inputs: object) -> Any:  # generate copies what is no function
        return compiles(graph, inputs)

    config = CompileConfig(backend=counted, mode=None, fullgraph=fullgraph)
    config._compile_all_devices = True
    given = {
        "input_ids": ids, "max_new_tokens": 4, "do_sample": False, "cache_implementation": "static",
        "compile_config": config,
    }  # fmt: skip
    expected = model.generate(**given)
    assert compiles.graphs == 1
    for block in range(2):
        with hook(model) as session:
            assert torch.equal(model.generate(**given), expected)
        assert compiles.graphs == 2 + block
        assert session.errors == []
        assert lengths(session) == [("prefill", 9), ("decode", 10), ("decode", 11), ("decode", 12)]
        steps = [[r.path for r in session.stats.records if r.stage == "decode" and r.step == n] for n in range(3)]
        assert all(step.count("lm_head") == 1 and {f"decoder.{n}" for n in range(3)} < set(step) for step in steps)
    recorded = len(session.stats.records)
    assert torch.equal(model.generate(**given), expected)
    assert len(session.stats.records) == recorded


def lengths(session: HookSession) -> list[tuple[str, int]]:
    return [(str(r.stage), r.shape.kv_len) for r in session.stats.records if r.path == "model"]


@pytest.mark.parametrize("ways", [whole, in_place, layers])
def test_what_was_compiled_before_it_was_hooked_has_its_ranges(model: Any, ways: Callable[..., Any]) -> None:
    backend = Compiles()
    try:
        with torch.no_grad():
            with hook(model) as eager:
                decode(model, model.config)
            call = ways(model, backend)
            decode(call, model.config)
            assert backend.graphs > 0
            with hook(call) as session:
                decode(call, model.config)
            assert nested(session.stats.records) == nested(eager.stats.records)
            recorded = len(session.stats.records)
            decode(call, model.config)
            assert len(session.stats.records) == recorded
    finally:
        undo(model)
    assert session.errors == []


def test_a_cuda_graph_that_torch_compile_made_stands_for_the_calls_in_it(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, then captured, then replayed: each replay is the captured calls at its own KV length and step."""
    capturing = [False]
    monkeypatch.setattr(Forwards, "captures_now", lambda _forwards: capturing[0])

    def graphs(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        calls = [0]
        plain = torch.fx.GraphModule(graph, torch.fx.Graph())
        plain.graph = silent(graph.graph)

        def run(*args: Any) -> Any:
            calls[0] += 1
            capturing[0] = calls[0] == 2
            try:
                return (graph if calls[0] <= 2 else plain).forward(*args)
            finally:
                capturing[0] = False

        return run

    with torch.no_grad():
        with hook(model) as session:
            expected = decode(model, model.config, 6)
        try:
            with hook(model) as compiled:
                text = model.model.language_model
                eager, text.forward = text.forward, torch.compile(text.forward, backend=graphs)
                quick = text.forward
                text.forward = lambda *args, **kwargs: (
                    eager if kwargs["inputs_embeds"].shape[1] > 1 else quick
                )(*args, **kwargs)  # fmt: skip
                assert torch.equal(decode(model, model.config, 6), expected)
        finally:
            undo(model)
    records = compiled.stats.records
    assert compiled.errors == []
    assert {r.origin for r in records if r.stage == "prefill"} == {"call"}
    origins = [
        sorted({r.origin for r in records if r.path == "decoder.1" and (r.stage, r.step) == ("decode", step)})
        for step in range(6)
    ]
    once = ["captured", "replayed"]
    assert origins == [["call"], ["call"], once, ["replayed"], ["replayed"], ["replayed"]]  # the second: sizes vary
    done = [record for record in records if record.origin != "captured"]
    assert nested(done) == nested(session.stats.records)


def silent(graph: torch.fx.Graph) -> torch.fx.Graph:
    """Return a copy of a graph without markers."""
    copy = torch.fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if node.target is torch.ops.dsocr.mark.default:
            copy.erase_node(node)
    return copy


def test_a_model_inside_of_what_is_compiled_has_ranges_of_unknown_cost(model: Any) -> None:
    """Nobody can see the cache there: the layers are known, their costs are not, and the errors say what to do."""
    ids = torch.ones(1, 5, dtype=torch.int64)

    def twice(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return 2 * logits

    with torch.no_grad(), hook(model) as session:
        expected = twice(ids)
        session.discard()
        assert torch.equal(torch.compile(twice, backend="eager", fullgraph=True)(ids), expected)
        records = session.stats.records
    assert {"model", "decoder.1", "decoder.1.mlp.experts", "lm_head"} & {r.path for r in records} >= {
        "model", "decoder.1", "lm_head",
    }  # fmt: skip
    assert {record.state for record in records} == {CostState.UNKNOWN}
    (error,) = session.errors
    assert "torch.compile(model)" in error


def test_a_part_inside_of_what_is_compiled_has_no_range_outside_of_a_forward(model: Any) -> None:
    norm = model.model.language_model.layers[1].input_layernorm
    rows = torch.ones(1, 1, model.config.text_config.hidden_size)

    def twice(rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = 2 * norm(rows)
        return found

    with torch.no_grad(), hook(model) as session:
        expected = norm(rows)
        session.discard()
        assert torch.equal(torch.compile(twice, backend="eager", fullgraph=True)(rows), 2 * expected)
        assert session.stats.records == []
        assert torch.equal(torch.compile(norm, backend="eager", fullgraph=True)(rows), expected)  # type: ignore[no-untyped-call]
    assert [record.path for record in session.stats.records] == ["decoder.1.input_norm"]
    (error,) = session.errors
    assert "call the whole model" in error


def test_compiled_code_that_fails_leaves_no_range_open(model: Any) -> None:
    """It fails between two markers: what they had opened is closed when the forward ends."""

    def failing(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        marks = [node for node in graph.graph.nodes if node.target is torch.ops.dsocr.mark.default]
        with graph.graph.inserting_after(marks[2]):
            graph.graph.call_function(_fail, ())
        graph.recompile()
        return graph.forward

    ids, listener = torch.ones(1, 5, dtype=torch.int64), Listener()
    with torch.no_grad(), hook(model, emitter=listener) as session:
        with pytest.raises(ZeroDivisionError):
            torch.compile(model, backend=failing)(input_ids=ids, use_cache=False)  # type: ignore[no-untyped-call]
        assert listener.stack == []
        opened = len(listener.ranges)
        assert opened == len(session.stats.records) > 2
        model(input_ids=ids, use_cache=False)
        assert [r.path for r in session.stats.records][opened] == "model"
    assert session.errors == []


def _fail() -> None:
    raise ZeroDivisionError


def test_markers_change_a_tensor_whose_address_cuda_graphs_may_keep(model: Any) -> None:
    with hook(model):
        pass
    told = torch.zeros(1)
    torch._dynamo.mark_static_address(told, guard=False)
    assert vars(TOKENS[torch.device("cpu")]) == vars(told)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and there is no g++")
def test_inductor_keeps_the_markers_in_their_order(model: Any) -> None:
    layer = model.model.language_model.layers[0]
    ids, listener = torch.ones(1, 5, dtype=torch.int64), Listener()
    with torch.no_grad(), hook(model, emitter=listener) as session:
        eager = model(input_ids=ids, use_cache=False).logits
        order = [pushed.path for pushed in listener.ranges]
        listener.ranges.clear()
        try:
            layer.compile()
            torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, eager)
        finally:
            undo(model)
    assert [pushed.path for pushed in listener.ranges] == order
    assert session.errors == []
