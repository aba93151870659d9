"""Releases that call the network in ways never seen: figures are right, or unknown and said to be; none is wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import define

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.schema.payload import FIELD_INDEX, Flag
from dsocr_nvtx.schema.records import Cost, CostState
from tests.builders.emitters import Listener
from tests.builders.generate_modes import MODES, PROMPT, Verdict, check, differences, eager_model, watched
from tests.builders.next_release import Way, calls_otherwise, handed, named, renamed, reordered

CACHES = ("past_key_values", "cache")
"""What `generate` calls the KV cache up to 5.23, and from 5.24 on."""


@define
class Box:
    """Something that holds a cache and does not show it."""

    inside: Any


class LikeACache:
    """A cache of a class never seen, with the structure of those that were."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def layers(self) -> Any:
        """The cache's layers."""
        return self._inner.layers


def _every(ways: Callable[[str], tuple[Way, Way]], model: Any) -> None:
    for name in CACHES:
        calls_otherwise(model, *ways(name))


CHANGES: dict[str, Callable[[Any], None]] = {
    "the cache has a name never seen": lambda model: _every(lambda name: renamed(name, f"memory_{name}"), model),
    "the cache comes in a tuple": lambda model: _every(
        lambda name: handed(name, lambda cache: (cache, "state"), lambda both: both[0]), model
    ),
    "the cache comes in a dictionary": lambda model: _every(
        lambda name: handed(name, lambda cache: {"kv": cache}, lambda held: held["kv"]), model
    ),
    "the cache is of another class": lambda model: _every(
        lambda name: handed(name, LikeACache, lambda like: like._inner), model
    ),
    "the cache cannot be looked into": lambda model: _every(
        lambda name: handed(name, Box, lambda box: box.inside), model
    ),
    "the token numbers have another name": lambda model: calls_otherwise(model, *renamed("input_ids", "numbers")),
}


@pytest.mark.parametrize("mode", ["greedy", "static cache", "prompt look-up"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_figure_is_wrong(change: str, mode: str) -> None:
    model = eager_model()
    CHANGES[change](model)
    checked = check(mode, model)
    assert checked.verdict is not Verdict.WRONG, checked.reasons
    if checked.verdict is Verdict.UNKNOWN:
        assert len(checked.reasons) == 1  # said once, however many forwards there were


@pytest.mark.parametrize("change", ["the cache has a name never seen", "the cache comes in a tuple"])
def test_a_cache_is_recognised_by_what_it_is(change: str) -> None:
    model = eager_model()
    CHANGES[change](model)
    assert check("greedy", model).verdict is Verdict.RIGHT


def test_what_is_unknown_is_counted_and_said_once_and_told_on_the_wire() -> None:
    model = eager_model()
    CHANGES["the cache cannot be looked into"](model)
    run = MODES["greedy"](model)
    with hook(model, emitter=(listener := Listener())) as session:
        run()
    unknown = [record for record in session.stats.records if record.state is CostState.UNKNOWN]
    assert {record.path for record in unknown} >= {"model", "decoder.0", "decoder.2.attention", "lm_head"}
    assert {(record.cost, record.sequences, record.rows, record.keys, record.pairs) for record in unknown} == {
        (Cost(), 0, 0, 0, 0)
    }
    (line,) = session.errors
    assert line.startswith("model: ")
    assert "Box" in line
    assert session.checks.unknown == len(unknown)
    flagged = [pushed for pushed in listener.ranges if pushed.values[FIELD_INDEX["flags"]] & Flag.UNKNOWN]
    assert [pushed.path for pushed in flagged] == [record.path for record in unknown]


OTHERWISE: dict[str, tuple[Callable[[Any], Any], tuple[Way, Way]]] = {
    "decoder layers": (lambda text: text.layers, named("rows")),
    "attentions": (lambda text: [layer.self_attn for layer in text.layers], renamed("hidden_states", "rows")),
    "mixtures": (lambda text: [layer.mlp for layer in text.layers], named("rows")),
    "routed experts": (lambda text: [layer.mlp.experts for layer in text.layers[1:]], named("rows")),
    "norms": (lambda text: [layer.input_layernorm for layer in text.layers] + [text.norm], named("rows")),
}


@pytest.mark.parametrize("part", OTHERWISE)
def test_hidden_states_have_another_name(part: str) -> None:
    """They come by a name instead of first, or by another name than before."""
    model = eager_model()
    modules, ways = OTHERWISE[part]
    for module in modules(model.model.language_model):
        calls_otherwise(module, *ways)
    assert check("greedy", model).verdict is Verdict.RIGHT


def _chosen(model: Any, session: HookSession) -> dict[tuple[str, int, int], list[int]]:
    """Run a prompt and two steps, and return what every router chose, as torch's own hooks see it."""
    chosen: dict[tuple[str, int, int], list[int]] = {}
    step: list[Any] = []
    handles = []
    for number, layer in enumerate(model.model.language_model.layers[1:], 1):

        def note(_module: object, _args: object, found: Any, number: int = number) -> None:
            chosen[(*step[-1], number)] = torch.bincount(found[2].flatten(), minlength=8).tolist()

        handles.append(layer.mlp.gate.register_forward_hook(note))
    with torch.no_grad():
        for stage, count, tokens in [("prefill", 0, 7), ("decode", 0, 1), ("decode", 1, 1)]:
            step.append((stage, count))
            with session.step(stage):
                model(input_ids=torch.arange(3, 3 + tokens)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return chosen


MOVES = {
    "by another name": named("rows", "choice", "weights"),
    "after the weights": reordered(0, 2, 1),
    "before the rows": reordered(1, 0, 2),
}


@pytest.mark.parametrize("move", MOVES)
def test_indices_that_come_otherwise_are_counted_right_or_not_at_all(move: str) -> None:
    model = eager_model()
    for layer in model.model.language_model.layers[1:]:
        calls_otherwise(layer.mlp.experts, *MOVES[move])
    with hook(model, observe_experts=True) as session:
        chosen = _chosen(model, session)
    told = {(str(c.stage), c.step, c.layer): list(c.rows_per_expert) for c in session.stats.experts}
    assert told == chosen or (not told and session.errors)


@pytest.mark.parametrize("wrap", [LikeACache, Box])
def test_another_class_of_cache_that_the_model_makes_itself(wrap: Callable[[Any], Any]) -> None:
    """It is returned, and comes back with the next forward: its length is read, or the forward's cost is unknown."""
    model = eager_model()
    _every(
        lambda name: handed(name, lambda cache: cache, lambda held: getattr(held, "_inner", None) or held.inside), model
    )

    def boxed(_module: object, _args: object, found: Any) -> None:
        for name in set(CACHES) & set(found):
            found[name] = wrap(found[name])

    ids = torch.arange(3, 3 + PROMPT)[None]
    with torch.no_grad(), watched(model) as steps, hook(model) as session:
        handle = model.register_forward_hook(boxed)
        found = model(input_ids=ids, use_cache=True)
        for _ in range(2):
            (name,) = set(CACHES) & set(found)
            found = model(input_ids=ids[:, :1], use_cache=True, **{name: found[name]})
        handle.remove()
    assert [*differences(session, steps)] == []
    states = [record.state for record in session.stats.records if record.path == "model"]
    assert states == [CostState.KNOWN] * 3 if wrap is LikeACache else [CostState.KNOWN, *[CostState.UNKNOWN] * 2]


def test_logits_of_other_rows_than_were_priced_contradict_the_forward_at_every_level() -> None:
    """A release that renames the argument: without a range around lm_head, the logits themselves tell."""
    model = eager_model()
    inner = model.forward
    model.forward = lambda *args, rows_kept=0, **kwargs: inner(*args, logits_to_keep=rows_kept, **kwargs)
    with hook(model, level="stage") as session:
        model(input_ids=torch.ones(1, 5, dtype=torch.int64), rows_kept=1)
    (line,) = session.checks.contradictions
    assert "logits of 5 rows were derived, of 1 are returned" in str(line)
