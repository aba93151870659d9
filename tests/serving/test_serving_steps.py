"""Served steps: ranges, sums and costs are those of the scheduler's sequences, and the engine's results stay."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.payload import FIELD_INDEX, WIRE, Flag
from dsocr_nvtx.schema.records import Level
from dsocr_nvtx.schema.served import parse_served_mark
from dsocr_nvtx.schema.shapes import causal_pairs
from dsocr_nvtx.serving.runner import attach_runner
from dsocr_nvtx.serving.scheduled import ScheduleReader
from tests.builders.emitters import Listener, Pushed
from tests.builders.vllm_engine import GPUModelRunner, GPUModelRunner2, Scheduler, one_page
from tests.serving.engines import RUNNERS, hooked, serve, total, two_requests, value

SERVED = [
    ("prefill", [(30, 30)]),
    ("decode", [(1, 31)]),
    ("mixed", [(1, 32), (10, 10)]),
    ("mixed", [(1, 33), (6, 16)]),
    ("decode", [(1, 34), (1, 17)]),
    ("decode", [(1, 18)]),
]
"""The steps of `two_requests`: the stage, and (rows, keys after the step) of every sequence."""


def inside(listener: Listener, outer: Pushed) -> list[Pushed]:
    """Return the ranges within another, itself included."""
    assert outer.end is not None
    return [one for one in listener.ranges if outer.start <= one.start and (one.end or 0) <= outer.end]


def steps(listener: Listener) -> list[Pushed]:
    """Return the ranges around steps."""
    return [one for one in listener.ranges if one.path.startswith("step.")]


@pytest.mark.parametrize("name", RUNNERS)
def test_tokens_are_those_of_the_bare_engine(name: str) -> None:
    """Hooks read sizes only."""
    bare, watched = RUNNERS[name](), RUNNERS[name]()
    bare.load_model()
    expected = two_requests(bare)
    session, _ = hooked(watched)
    assert [made.tolist() for made in two_requests(watched)] == [made.tolist() for made in expected]
    assert session.errors == []


@pytest.mark.parametrize("name", RUNNERS)
def test_sums_of_every_step_are_the_schedulers(name: str) -> None:
    """Stage, sequences, rows, keys and pairs of each forward; and the mark tells each sequence."""
    runner = RUNNERS[name]()
    _, listener = hooked(runner)
    two_requests(runner)
    assert [one.path for one in steps(listener)] == [f"step.{stage}" for stage, _ in SERVED]
    models = [one for one in listener.ranges if one.path == "model"]
    told = [[value(one, field) for field in ("sequences", "rows", "keys", "pairs", "flags")] for one in models]
    assert told == [
        [len(each), sum(r for r, _ in each), sum(k for _, k in each), sum(causal_pairs(r, k) for r, k in each), 0]
        for _, each in SERVED
    ]
    marks = [mark for _, text in listener.marks if (mark := parse_served_mark(text)) is not None]
    assert [[(one.rows, one.keys) for one in mark.sequences] for mark in marks] == [each for _, each in SERVED]
    assert [mark.event_id for mark in marks] == [value(one, "event_id") for one in steps(listener)]
    assert [[one.decodes for one in mark.sequences] for mark in marks] == [
        [False], [True], [True, False], [True, False], [True, True], [True],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["first", "second"])
def test_flops_are_those_that_torch_counts(name: str) -> None:
    """Prefill with a page, decode, mixed and chunked steps, every step by itself."""
    runner = RUNNERS[name]()
    _, listener = hooked(runner)
    counted = []
    original = runner.execute_model

    def counting(output: Any) -> Any:
        # Fused attention on the CPU is not counted; by its products it is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            made = original(output)
            tokens = runner.__dict__["sample_tokens"](None)
        counted.append(counter.get_total_flops())
        return tokens if made is None else made

    runner.execute_model = counting
    two_requests(runner)
    assert [total(inside(listener, one), "tensor_flops_unmasked") for one in steps(listener)] == counted
    assert counted[0] > counted[2] > counted[1] > 0


def test_a_decode_step_by_hand() -> None:
    """Two sequences of one row and 34 and 17 keys: three layers, two of them mixtures with two of six experts."""
    runner = GPUModelRunner()
    _, listener = hooked(runner)
    two_requests(runner)
    width, dense, expert, vocabulary, rows, keys = 64, 160, 32, 300, 2, 34 + 17
    attention = 2 * rows * width * 4 * width + 4 * keys * width
    gated = 2 * 3 * rows * width
    mixture = 2 * rows * width * 6 + gated * expert * 2 + gated * 2 * expert
    by_hand = 3 * attention + gated * dense + 2 * mixture + 2 * rows * width * vocabulary
    step = inside(listener, steps(listener)[4])
    assert total(step, "tensor_flops") == by_hand
    assert total(step, "kv_read_bytes") == 3 * 2 * keys * width * 4  # keys and values, float32
    assert total(step, "kv_write_bytes") == 3 * 2 * rows * width * 4


def test_every_layer_and_part_has_its_range_once_in_every_step() -> None:
    """Gate and shared experts are called inside of the experts, embedding and head outside of the model's method."""
    runner = GPUModelRunner()
    _, listener = hooked(runner)
    two_requests(runner)
    for step in steps(listener)[1:]:
        paths = [one.path for one in inside(listener, step)]
        assert len(paths) == len(set(paths))
        parts = [f"decoder.{layer}.{part}" for layer in (1, 2) for part in ("attention", "moe.gate", "moe.experts")]
        expected = {"model", "embed", "lm_head", "decoder.0.mlp", "decoder.norm", "host.preparing", "host.sampling"}
        assert set(paths) >= {*expected, *parts, "decoder.1.moe.shared_experts", "host.logits_processors"}
    page = [one.path for one in inside(listener, steps(listener)[0]) if one.stage == "vision"]
    assert page.count("sam") == page.count("clip") == page.count("projector") == 2
    assert page.count("image_features") == 1


@pytest.mark.parametrize("level", [Level.STAGE, Level.LAYER])
def test_a_coarser_level_has_the_same_sums(level: Level) -> None:
    """What is not hooked lies in what contains it."""
    fine, coarse = GPUModelRunner(), GPUModelRunner()
    _, heard = hooked(fine)
    two_requests(fine)
    _, less = hooked(coarse, level)
    two_requests(coarse)
    assert 0 < len(less.ranges) < len(heard.ranges)
    every = [inside(heard, one) for one in steps(heard)]
    for mine, theirs in zip([inside(less, one) for one in steps(less)], every, strict=True):
        shown = [one for one in mine if one.path not in ("sam", "clip", "projector", "image_features")]
        fully = [one for one in theirs if one.stage != "vision"]
        assert total([one for one in shown if one.stage != "vision"], "tensor_flops") == total(fully, "tensor_flops")


def test_announcements_alone_tell_what_payloads_do() -> None:
    """Replayed graphs have no payloads: the last announcement before a launch, grown by the keys, is the cost."""
    runner = GPUModelRunner2(graphs=True)
    _, listener = hooked(runner)
    scheduler = Scheduler()
    for name, rows in (("a", 20), ("b", 9), ("c", 5)):
        serve(runner, scheduler.step((name, rows), **{name: rows}))
    three = [("a", 1), ("b", 1), ("c", 1)]
    for asked in [three] * 3 + [[("a", 1), ("b", 1)]] * 2 + [three] * 2:
        serve(runner, scheduler.step(*asked))
    attention = [one for one in listener.ranges if one.path == "decoder.1.attention" and one.stage == "decode"]
    assert len(attention) == 7
    for one in attention:
        assert _announced(listener, one) == one.values[FIELD_INDEX["flags"] :]
    assert [value(one, "keys") for one in attention] == [37, 40, 43, 37, 39, 50, 53]


def _announced(listener: Listener, pushed: Pushed) -> list[int]:
    """Return what marks tell of a range's cost, as `join` reads them."""
    first, sequences, keys = (FIELD_INDEX[name] for name in ("flags", "sequences", "keys"))
    last: dict[str, tuple[list[int], list[int]]] = {}
    for time, text in listener.marks:
        if time > pushed.start:
            break
        if (grown := WIRE.parse_growth(text)) is not None:
            last[grown[0]] = grown[1], grown[2]
        elif (plain := WIRE.parse(text)) is not None:
            last[plain[0]] = plain[1], [0] * len(plain[1])
    values, increments = last[pushed.path]
    more = (last["model"][0][keys] - values[keys]) // values[sequences]
    return [one + more * grown for one, grown in zip(values, increments, strict=True)][first:]


def test_steady_decoding_announces_the_keys_alone() -> None:
    """While the same sequences decode a step says one cost; another mix of as many says what grows, not the rest."""
    runner = GPUModelRunner()
    _, listener = hooked(runner)
    scheduler = Scheduler()
    for name, rows in (("a", 20), ("b", 9), ("c", 4)):
        serve(runner, scheduler.step((name, rows), **{name: rows}))
    serve(runner, scheduler.step(("a", 1), ("b", 1)))

    def announced(*asked: tuple[str, int]) -> list[str]:
        before = len(listener.marks)
        serve(runner, scheduler.step(*asked))
        return [text.split(" ")[1] for _, text in listener.marks[before:] if parse_served_mark(text) is None]

    assert announced(("a", 1), ("b", 1)) == ["model"]
    grown = [f"decoder.{layer}{part}" for layer in range(3) for part in ("", ".attention")]
    assert announced(("a", 1), ("c", 1)) == ["model", *grown]


def test_padding_is_told_and_costs_nothing() -> None:
    """A step of one row that is run with four has the costs of one."""
    runner = GPUModelRunner(padding=(4,))
    session, listener = hooked(runner)
    scheduler = Scheduler()
    serve(runner, scheduler.step(("a", 4), a=4))
    serve(runner, scheduler.step(("a", 1)))
    marks = [mark for _, text in listener.marks if (mark := parse_served_mark(text)) is not None]
    assert [mark.padded_rows for mark in marks] == [4, 4]
    assert [value(one, "rows") for one in listener.ranges if one.path in ("model", "decoder.1.moe")] == [4, 4, 1, 1]
    assert session.errors == []


def test_what_runs_outside_of_steps_has_no_ranges() -> None:
    """An engine runs its model to measure memory; a step without rows is none."""
    runner = GPUModelRunner()
    session, listener = hooked(runner)
    runner.profile_run()
    assert serve(runner, Scheduler().step()) == "nothing"
    assert listener.ranges == []
    assert session.errors == []


def test_a_request_that_was_paused_is_prefilled_again() -> None:
    """Its prompt and what it had decoded are one prompt; after it, decoding goes on."""
    runner = GPUModelRunner()
    _, listener = hooked(runner)
    scheduler = Scheduler()
    serve(runner, scheduler.step(("a", 6), a=6))
    serve(runner, scheduler.step(("a", 1)))
    resumed = scheduler.step(("a", 1))
    resumed.num_scheduled_tokens = {"a": 8}
    cached = resumed.scheduled_cached_reqs
    cached.resumed_req_ids, cached.num_computed_tokens, cached.num_output_tokens = {"a"}, [0], [2]
    serve(runner, resumed)
    serve(runner, scheduler.step(("a", 1)))
    assert [one.path for one in steps(listener)] == ["step.prefill", "step.decode", "step.prefill", "step.decode"]


@pytest.mark.parametrize("field", ["num_scheduled_tokens", "scheduled_cached_reqs", "finished_req_ids"])
def test_a_scheduler_that_tells_less_leaves_costs_unknown(field: str) -> None:
    """The engine goes on; stage and costs are unknown, and what is missing is named."""
    runner = GPUModelRunner()
    session, listener = hooked(runner)
    output = Scheduler().step(("a", 5), a=5)
    told = SimpleNamespace(**{name: found for name, found in vars(output).items() if name != field})
    session.begin(lambda: ScheduleReader()(told))
    session.end()
    assert [one.path for one in listener.ranges] == ["step.unknown"]
    assert len(session.errors) == 1
    assert field in session.errors[0]


def test_an_error_of_the_engine_ends_the_step() -> None:
    """The next step begins as if nothing had been."""
    runner = GPUModelRunner()
    session, listener = hooked(runner)
    scheduler = Scheduler()
    bad = scheduler.step(("a", 5), a=5)
    runner.images = {**one_page(), "pixel_values": torch.zeros(1, 3, 7, 7)}
    with pytest.raises(RuntimeError):
        serve(runner, bad)
    assert listener.stack == []
    runner.images = None
    serve(runner, scheduler.step(("b", 5), b=5))
    assert [one.path for one in steps(listener)] == ["step.prefill", "step.prefill"]
    assert listener.stack == []
    assert session.stepping is False


def test_a_runner_that_lacks_something_is_refused_by_name() -> None:
    """Name, and what was missing."""
    with pytest.raises(Refused, match=r"vLLM 9 OddRunner: no get_model, no vllm_config, no _model_forward or"):
        attach_runner(SimpleNamespace(execute_model=print), "vLLM 9 OddRunner", Listener())


def test_a_model_on_several_devices_is_refused() -> None:
    """Each would have a part of the costs."""
    runner = GPUModelRunner()
    runner.load_model()
    runner.vllm_config.parallel_config.tensor_parallel_size = 2
    with pytest.raises(Refused, match="tensor_parallel_size is 2"):
        attach_runner(runner, "vLLM 0 Runner", Listener())


def test_detaching_gives_the_engine_back() -> None:
    """No method of ours is left."""
    runner = GPUModelRunner()
    session, listener = hooked(runner)
    session.detach()
    heard = len(listener.ranges)
    two_requests(runner)
    assert len(listener.ranges) == heard
    assert not {"execute_model", "sample_tokens", "_model_forward"} & set(vars(runner))
    assert all("forward" not in vars(module) for module in runner.model.modules())


def test_unknown_costs_say_so_on_the_wire() -> None:
    """Every range of a step that could not be read."""
    runner = GPUModelRunner()
    _, listener = hooked(runner)
    output = Scheduler().step(("a", 5), a=5)
    del output.scheduled_new_reqs[0].req_id
    serve(runner, output)
    calls = [one for one in listener.ranges if one.path.startswith(("decoder", "model"))]
    assert calls
    assert all(value(one, "flags") & Flag.UNKNOWN for one in calls)
