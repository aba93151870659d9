"""Every way in which users call `generate`, and whether hooks told the truth about it.

`check` runs one mode of `MODES` on a hooked model and compares what was recorded with what nobody told the hooks: the
inputs' shapes and the cache's own tensors after every forward, and the FLOPs that torch counts in the same run.
The model must have eager attention and eager experts, of which torch counts every product.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch.utils.flop_counter import FlopCounterMode
from transformers import Cache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.run.model import random_model, tiny_config
from dsocr_nvtx.schema.records import CostState, RangeRecord, Stage

PROMPT, NEW_TOKENS = 12, 6


class Verdict(StrEnum):
    """How hooks stood a run: every figure right, some left out and said so, or one of them wrong."""

    RIGHT = "right"
    UNKNOWN = "unknown"
    WRONG = "wrong"


@frozen(kw_only=True)
class Step:
    """One forward: so many sequences and rows of each, and the keys of each after it, in tensors of so many bytes.

    ``kv_bytes`` are those of each layer's keys and values; of a cache with slots, those that are written. ``flops`` is
    what torch counted.
    """

    stage: Stage
    batch: int
    tokens: int
    kv_len: int
    kv_bytes: tuple[int, ...]
    flops: int


@frozen(kw_only=True)
class Checked:
    """What a mode's run came to; ``reasons`` say what was wrong, or unknown."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def eager_model(seed: int = 1) -> Any:
    """Return the tiny network of which torch counts every product."""
    return random_model(tiny_config(), dtype=torch.float32, seed=seed, attention="eager", experts="eager")


def generate(model: Any, batch: int = 1, ids: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    """Return what `generate` makes of prompts of different texts, greedily, NEW_TOKENS long unless told otherwise."""
    if ids is None:
        ids = torch.arange(3, 3 + PROMPT * batch).view(batch, PROMPT)
    given = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": None, "pad_token_id": 0} | options
    found: torch.Tensor = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given)
    return found


Run = Callable[[], torch.Tensor]


def _lookup(model: Any) -> Run:
    """A text that repeats itself, so that several tokens at once are proposed from it."""
    ids = torch.tensor([[7, 8, 9] * (PROMPT // 3)])
    return partial(generate, model, ids=ids, prompt_lookup_num_tokens=3, max_new_tokens=2 * NEW_TOKENS)


def _early_end(model: Any) -> Run:
    """One text of two ends at its second token; the other goes on, and padding beside it."""
    written = generate(model, batch=2)[0, PROMPT:]
    return partial(generate, model, batch=2, eos_token_id=int(written[1]))


MODES: dict[str, Callable[[Any], Run]] = {
    "greedy": lambda model: partial(generate, model),
    "static cache": lambda model: partial(generate, model, cache_implementation="static", disable_compile=True),
    "chunked prefill": lambda model: partial(generate, model, prefill_chunk_size=5),
    "beams": lambda model: partial(generate, model, num_beams=3),
    "prompt look-up": _lookup,
    "assisted": lambda model: partial(generate, model, assistant_model=eager_model(seed=2)),
    "batch 2": lambda model: partial(generate, model, batch=2),
    "early end": _early_end,
    "chunk of one": lambda model: partial(generate, model, prefill_chunk_size=PROMPT - 1),
    "no cache": lambda model: partial(generate, model, use_cache=False),
}
"""By name, what prepares a mode on a model that is not hooked yet, and returns what runs it."""


def check(mode: str, model: Any = None) -> Checked:
    """Run one mode on a hooked model; nothing is raised for wrong figures."""
    model = eager_model() if model is None else model
    run = MODES[mode](model)
    expected = run()
    with watched(model) as steps, hook(model) as session:
        written = run()
    wrong = [*differences(session, steps)]
    if not torch.equal(written, expected):
        wrong.append("the hooked model wrote other tokens")
    if wrong:
        return Checked(verdict=Verdict.WRONG, reasons=tuple(wrong))
    if session.errors or any(map(is_unknown, session.stats.records)):
        return Checked(verdict=Verdict.UNKNOWN, reasons=tuple(session.errors))
    return Checked(verdict=Verdict.RIGHT)


@contextmanager
def watched(model: Any) -> Iterator[list[Step]]:
    """Note every forward of a model by torch's own hooks, which see shapes and the cache, and no argument's name."""
    steps: list[Step] = []
    counters: list[FlopCounterMode] = []

    def begins(*_called: object) -> None:
        counters.append(FlopCounterMode(display=False))
        counters[-1].__enter__()  # type: ignore[no-untyped-call]

    def ends(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        counters[-1].__exit__(None, None, None)  # type: ignore[no-untyped-call]
        given = (*args, *kwargs.values())
        ids = next(value for value in given if isinstance(value, torch.Tensor) and value.dim() > 1)
        caches = (value for value in (*given, *dict(output).values()) if isinstance(value, Cache))
        steps.append(_step(ids, next(caches, None), counters.pop().get_total_flops()))

    handles = model.register_forward_pre_hook(begins), model.register_forward_hook(ends, with_kwargs=True)
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def _step(ids: torch.Tensor, cache: Cache | None, flops: int) -> Step:
    """Return a forward; it is decode where the keys before it are the whole prompt's, or more."""
    batch, tokens = ids.shape[:2]
    if cache is None:
        return Step(stage=Stage.PREFILL, batch=batch, tokens=tokens, kv_len=0, kv_bytes=(), flops=flops)
    lengths, sizes = set(), []
    for layer in cache.layers:
        written = int((layer.keys != 0).any(dim=3).any(dim=1).sum(dim=1).max())
        sizes.append((layer.keys.nbytes + layer.values.nbytes) * written // layer.keys.shape[-2])
        lengths.add(written)
    (kv_len,) = lengths
    stage = Stage.DECODE if kv_len - tokens >= PROMPT else Stage.PREFILL
    return Step(stage=stage, batch=batch, tokens=tokens, kv_len=kv_len, kv_bytes=tuple(sizes), flops=flops)


def is_unknown(record: RangeRecord) -> bool:
    """Say whether a range says of itself that its cost is not known, or contradicted."""
    return record.state is not CostState.KNOWN


def differences(session: HookSession, steps: list[Step]) -> Iterator[str]:
    """Yield every figure that was recorded and is wrong; what is unknown is not wrong."""
    records = session.stats.records
    forwards = [record for record in records if record.path == "model"]
    if len(forwards) != len(steps):
        yield f"{len(forwards)} forwards were recorded, {len(steps)} were made"
    for number, (record, step) in enumerate(zip(forwards, steps, strict=False)):
        told = (record.stage, record.sequences, record.tokens, record.kv_len)
        true = (step.stage, step.batch, step.tokens, step.kv_len)
        if record.stage not in (step.stage, Stage.UNKNOWN) or not (is_unknown(record) or told[1:] == true[1:]):
            yield f"forward {number}: (stage, batch, tokens, keys) {told}, in truth {true}"
    yield from _cache_differences(records, steps)
    counted, ours = sum(step.flops for step in steps), sum(record.cost.tensor_flops_unmasked for record in records)
    if not any(map(is_unknown, records)) and ours != counted:
        yield f"tensor_flops_unmasked {ours}, torch counts {counted}"


def _cache_differences(records: list[RangeRecord], steps: list[Step]) -> Iterator[str]:
    """Yield the attention calls whose KV bytes are not those of the cache: all read, and this call's rows written."""
    layers = len(next((step.kv_bytes for step in steps if step.kv_bytes), ()))
    for layer in range(layers):
        calls = [record for record in records if record.path == f"decoder.{layer}.attention"]
        for number, (record, step) in enumerate(zip(calls, steps, strict=True)):
            held = step.kv_bytes[layer]
            true = (held, held * step.tokens // step.kv_len)
            told = (record.cost.kv_read_bytes, record.cost.kv_write_bytes)
            if not is_unknown(record) and told != true:
                yield f"forward {number}: layer {layer} (reads, writes) {told} bytes of keys, values, in truth {true}"
