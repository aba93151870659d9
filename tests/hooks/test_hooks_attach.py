"""Attaching and leaving: outputs unchanged, errors contained, nothing left behind."""

from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.hooks import analytic_stage, current_stage, hook
from dsocr_nvtx.run.model import CACHE_ARGUMENT
from dsocr_nvtx.schema.payload import FIELD_INDEX, Flag
from dsocr_nvtx.schema.records import CostState, Level, Stage
from tests.builders.emitters import Listener
from tests.hooks.networks import attached, network, page, run

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.mark.parametrize("level", list(Level))
def test_outputs_are_bit_identical_and_nothing_is_left(model: Any, level: str) -> None:
    listener = Listener()
    with hook(model, level="op", record=False) as plain:
        expected = run(model, plain)
    ids = expected.new_zeros(1, 5)
    with torch.no_grad():
        before = model(input_ids=ids, logits_to_keep=1).logits
        with hook(model, level=level, emitter=listener) as session:
            assert attached(model)
            tokens = run(model, session)
            logits = model(input_ids=ids, logits_to_keep=1).logits
    assert torch.equal(tokens, expected)
    assert torch.equal(logits, before)
    assert attached(model) == []
    assert listener.stack == []
    assert session.errors == []


def test_levels_nest(model: Any) -> None:
    paths: dict[str, set[str]] = {}
    for level in Level:
        with hook(model, level=level, emitter=(listener := Listener())) as session:
            run(model, session)
        paths[level] = {pushed.path for pushed in listener.ranges}
    assert paths["stage"] < paths["layer"] < paths["op"]
    assert paths["stage"] == {"vision", "prefill", "decode", "image_features", "model"}
    assert {"decoder.0", "sam.1", "clip.1", "projector", "lm_head"} <= paths["layer"]
    assert {"decoder.1.moe.gate", "decoder.1.moe.experts", "decoder.0.mlp", "sam.0.attention"} <= paths["op"]


def test_a_model_that_fails_leaves_no_range_open(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("in the model")

    monkeypatch.setattr(model.model.language_model.layers[1].mlp.experts, "forward", fail)
    with pytest.raises(RuntimeError, match="in the model"), hook(model, emitter=(listener := Listener())) as session:
        run(model, session)
    assert listener.stack == []
    assert all(pushed.end is not None for pushed in listener.ranges)
    monkeypatch.undo()
    assert attached(model) == []
    with hook(model, emitter=(again := Listener())) as session:
        run(model, session)
    assert again.stack == []


def test_a_hook_that_fails_never_reaches_the_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with hook(model, record=False) as plain:
        expected = run(model, plain)

    def fail(*_args: object) -> object:
        raise ValueError("in the hook")

    monkeypatch.setattr("dsocr_nvtx.hooks.readers.ModelReader.__call__", fail)
    with hook(model, emitter=(listener := Listener())) as session:
        tokens = run(model, session)
    assert torch.equal(tokens, expected)
    assert listener.stack == []
    # One line, however often it failed; the ranges are there, and say that their cost is not known.
    (line,) = session.errors
    assert line.startswith("model: ")
    assert line.endswith("ValueError: in the hook")
    flags = {pushed.values[FIELD_INDEX["flags"]] for pushed in listener.ranges if pushed.path in ("model", "lm_head")}
    assert flags == {Flag.UNKNOWN}
    assert {r.state for r in session.stats.records if r.path == "decoder.1.moe"} == {CostState.UNKNOWN}
    assert {r.state for r in session.stats.records if r.path == "sam.1"} == {CostState.KNOWN}


def test_a_listener_that_fails_never_reaches_the_model(model: Any) -> None:
    class Broken(Listener):
        def push(self, attributes: object) -> object:
            raise OSError("no tool")

    with hook(model, emitter=Broken()) as session:
        run(model, session)
    assert session.errors
    assert attached(model) == []


def test_hooks_nest_and_restore_each_other(model: Any) -> None:
    outer, inner = Listener(), Listener()
    with hook(model, level="stage", emitter=outer) as session:
        between = attached(model)
        with hook(model, level="layer", emitter=inner) as second:
            run(model, second)
        assert attached(model) == between
        run(model, session)
    assert attached(model) == []
    assert outer.stack == inner.stack == []


def test_switched_off_by_the_environment(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSOCR_NVTX", "0")
    with hook(model, emitter=(listener := Listener())) as session:
        assert attached(model) == []
        run(model, session)
    assert listener.ranges == []
    assert session.stats.records == []


def test_with_no_tool_and_nothing_recorded_nothing_is_attached(model: Any) -> None:
    with hook(model, record=False) as session:
        assert attached(model) == []
        run(model, session)
    assert session.stats.records == []


def test_generate_needs_no_stages_from_its_user(model: Any) -> None:
    views = page()
    ids = torch.cat([torch.full((1, views.image_tokens()[0]), model.config.image_token_id), torch.ones(1, 4).long()], 1)
    with hook(model, emitter=(listener := Listener())) as session:
        model.generate(
            input_ids=ids, **views.model_inputs(), attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=4, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    records = session.stats.records
    heads = [(record.stage, record.step, record.kv_len) for record in records if record.path == "model"]
    length = ids.shape[1]
    assert heads == [(Stage.PREFILL, 0, length), *((Stage.DECODE, step, length + step + 1) for step in range(3))]
    assert {r.stage for r in records if r.path.startswith(("sam", "clip", "projector"))} == {Stage.VISION}
    assert not any(record.stage is Stage.UNKNOWN for record in records)
    assert listener.stack == []


def test_a_stage_that_is_said_wins(model: Any) -> None:
    ids = torch.zeros(1, 3).long()
    with hook(model) as session, torch.no_grad(), analytic_stage("decode"):
        assert current_stage() is Stage.DECODE
        model(input_ids=ids)
    assert {record.stage for record in session.stats.records} == {Stage.DECODE}


def test_what_cannot_be_inferred_is_unknown_and_kept(model: Any) -> None:
    with hook(model) as session, torch.no_grad():
        model.lm_head(torch.zeros(1, 2, model.config.text_config.hidden_size))
    (record,) = session.stats.records
    assert (record.path, record.stage, record.rows) == ("lm_head", Stage.UNKNOWN, 2)


def test_a_muted_warm_up_leaves_no_trace(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        with session.muted():
            run(model, session)
        assert listener.ranges == []
        assert session.stats.records == []
        run(model, session)
    assert listener.stack == []
    assert [pushed.values[FIELD_INDEX["step"]] for pushed in listener.ranges if pushed.path == "decode"] == [0, 1, 2]


def test_wrong_names_are_refused_before_anything_is_attached(model: Any) -> None:
    with pytest.raises(UsageError, match="no level is called 'kernel'"), hook(model, level="kernel"):
        pass
    with pytest.raises(UsageError, match="no stage is called 'warmup'"), analytic_stage("warmup"):
        pass
    with pytest.raises(Refused, match="int: no torch module; hook DeepSeek-OCR's whole model"), hook(3):  # type: ignore[arg-type]
        pass
    other = nn.Linear(2, 2)
    other.config = model.config
    with pytest.raises(Refused, match="Linear: no attribute model"), hook(other):
        pass
    assert attached(model) == []


def test_a_module_that_is_missing_is_named(model: Any) -> None:
    layer = model.model.language_model.layers[0]
    norm = layer.input_layernorm
    del layer.input_layernorm
    try:
        with pytest.raises(Refused, match="input_layernorm"), hook(model):
            pass
        assert attached(model) == []
    finally:
        layer.input_layernorm = norm


@pytest.mark.parametrize("listens", [True, False])
def test_a_hooked_method_may_be_compiled(model: Any, listens: bool) -> None:
    """It is traced whole, without a break, and has its range in a forward; called by itself it has none."""
    norm = model.model.language_model.layers[1].input_layernorm
    sizes = torch.zeros(1, 1, model.config.text_config.hidden_size)
    emitter = Listener() if listens else None
    with torch.no_grad(), hook(model, emitter=emitter) as session:
        hooked = norm.__dict__["forward"]
        compiled = torch.compile(hooked, backend="eager", fullgraph=True)
        assert torch.equal(compiled(sizes), hooked(sizes))  # type: ignore[no-untyped-call]
        assert [r.path for r in session.stats.records] == ["decoder.1.input_norm"]
        session.discard()
        norm.__dict__["forward"] = compiled
        for _ in range(4):
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False, logits_to_keep=1)
        norm.__dict__["forward"] = hooked
    (error,) = session.errors
    assert "call the whole model" in error
    counts = [sum(r.path == f"decoder.{layer}.input_norm" for r in session.stats.records) for layer in range(3)]
    assert counts == [4, 4, 4]
    torch.compiler.reset()


class _Two(torch.nn.Module):
    """Two hooked modules inside one that is not."""

    def __init__(self, first: torch.nn.Module, second: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(rows))
        return found


def test_a_wrapper_around_a_hooked_forward_is_traced_too(model: Any) -> None:
    norm = model.model.language_model.layers[1].input_layernorm
    both = _Two(norm, torch.nn.Identity())
    sizes = torch.ones(1, 1, model.config.text_config.hidden_size)
    with torch.no_grad(), hook(model):
        hooked = norm.__dict__["forward"]

        @wraps(hooked)
        def doubled(*args: Any, **kwargs: Any) -> Any:
            return 2 * hooked(*args, **kwargs)

        norm.__dict__["forward"] = doubled
        expected = both(sizes)
        assert torch.equal(torch.compile(both, backend="eager", fullgraph=True)(sizes), expected)
        norm.__dict__["forward"] = hooked
    torch.compiler.reset()


def test_a_module_compiled_inside_a_forward_that_is_known_is_traced_whole(model: Any) -> None:
    """The hooked forward of one module is handed to torch.compile only once every forward is known."""
    norm = model.model.language_model.layers[1].input_layernorm
    with torch.no_grad(), hook(model) as session:
        cache, hooked = DynamicCache(config=model.config.text_config), norm.__dict__["forward"]
        for number, tokens in enumerate((5, 1, 1, 1, 1, 1)):
            if number == 4:
                norm.__dict__["forward"] = torch.compile(hooked, backend="eager", fullgraph=True)
            ids = torch.ones(1, tokens, dtype=torch.int64)
            model(input_ids=ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1)
        norm.__dict__["forward"] = hooked
        assert sum(record.path == "decoder.1.input_norm" for record in session.stats.records) == 6
        assert sum(record.path == "decoder.2.input_norm" for record in session.stats.records) == 6
    assert session.errors == []
    torch.compiler.reset()
