"""The self-check: what was derived from a forward's entry, against the tensors that its calls are really given."""

from typing import Any

import torch
from attrs import define, evolve, field

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer
from dsocr_nvtx.hooks.caches import NOTHING_HELD, Caches, Unreadable
from dsocr_nvtx.hooks.prices import Priced
from dsocr_nvtx.hooks.readers import Args, ForwardSignature, Kwargs, lone_shape
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.schema.records import CallShape


@define
class Checks:
    """What was checked, and what was found to contradict what had been derived."""

    calls: int = 0
    """First calls of a site under a signature whose tensors were compared."""
    unchecked: int = 0
    """First calls in which nothing was found to compare."""
    forwards: int = 0
    """Forwards whose KV cache was measured afterwards."""
    contradictory: int = 0
    """Forwards whose KV cache contradicts their costs."""
    unknown: int = 0
    """Calls whose cost is not known."""
    contradictions: list[str] = field(factory=list)
    """The first contradiction of every kind of forward, and of every site in it."""

    @property
    def summary(self) -> str:
        """One line for a person."""
        text = f"checked {self.calls} calls against their tensors and {self.forwards} forwards against their KV cache"
        if self.contradictions:
            text += f": {len(self.contradictions)} contradict their cost, the first: {self.contradictions[0]}"
        if self.unknown:
            text += f"; the cost of {self.unknown} calls is unknown"
        return text


def first_call_fault(
    site: Site, priced: Priced, caches: Caches, args: Args, kwargs: Kwargs, padded_rows: int = 0
) -> str | None:
    """Return how the tensors and the cache of a call differ from what its cost was derived from; None where they fit.

    Raises `Unreadable` where the call shows nothing to compare.
    """
    fault, derived = rows_fault(site, priced, args, kwargs, padded_rows), priced.shape
    cached = derived.kv_len and not derived.ragged  # a serving engine's cache is no argument
    if fault is None and cached and isinstance(site.description, LlamaFlashAttention2 | DeepseekV2DecoderLayer):
        return _cache_fault(site, derived, caches, args, kwargs)
    return fault


def rows_fault(site: Site, priced: Priced, args: Args, kwargs: Kwargs, padded_rows: int = 0) -> str | None:
    """Return how the tensors of a call differ from the shape that its cost was derived from; None where they fit.

    ``padded_rows``: a call may be given so many rows as well, as its forward was filled up to them.
    Raises `Unreadable` where the call shows nothing to compare.
    """
    assert site.description is not None  # noqa: S101 - entries are read, not derived
    seen, derived = lone_shape(site.description, args, kwargs), priced.shape
    rows = derived.batch * derived.height * derived.width or derived.rows
    if seen.rows not in (rows, padded_rows) and not (
        derived.batch > 1 and seen.rows == derived.tokens and seen.batch == 1
    ):
        return f"{rows} rows were derived, {seen.rows} are given"
    if derived.height and seen.height and (seen.height, seen.width) != (derived.height, derived.width):
        return f"a grid of {derived.height}x{derived.width} was derived, {seen.height}x{seen.width} is given"
    return None


def _cache_fault(site: Site, derived: CallShape, caches: Caches, args: Args, kwargs: Kwargs) -> str | None:
    """Compare the KV length that was derived with what this layer's own part of the cache holds before the call."""
    cache = caches.find((*args, *kwargs.values()))
    if cache is None:
        return "no KV cache is given, where one was derived"
    held = caches.held(cache, site.layer or 0)
    if held.keys + derived.tokens != derived.kv_len:
        return f"{derived.kv_len} keys were derived, {held.keys + derived.tokens} are in the layer's cache"
    return None


def cache_fault(signature: ForwardSignature, caches: Caches, result: Any) -> str | None:
    """Return how the cache after a forward differs from what was recorded, None where it fits.

    Raises `Unreadable` where it cannot be seen: it is not returned, or its length lies on the device.
    """
    kv_len, cache = signature.kv_len, signature.cache
    if cache is None or isinstance(cache, tuple):  # a tuple of tensors is not changed: a longer one is returned
        cache = _returned_cache(caches, result)
        if cache is None and not kv_len:
            return None
        if cache is None:
            raise Unreadable("the cache that it made is not returned")
        if not kv_len:
            return "it returned a KV cache, where none was derived"
    held = caches.measured(cache)
    if held is None:
        raise Unreadable("its cache's length lies on the device")
    return None if held == kv_len else f"{kv_len} keys were derived, its cache holds {held}"


def logits_fault(signature: ForwardSignature, result: Any) -> str | None:
    """Return how the logits that a forward returned differ from those that were priced; None where none are seen."""
    logits, derived = getattr(result, "logits", None), getattr(signature.description, "logits", None)
    if derived is None or not isinstance(logits, torch.Tensor) or logits.dim() != 3 or logits.shape[1] == derived:
        return None
    return f"logits of {derived} rows were derived, of {logits.shape[1]} are returned"


def _returned_cache(caches: Caches, result: Any) -> Any:
    values = result.values() if hasattr(result, "values") else result if isinstance(result, tuple) else ()
    try:
        return caches.find(values)
    except Unreadable:
        return None


def lone_signature(site: Site, caches: Caches, args: Args, kwargs: Kwargs, experts: str) -> ForwardSignature:
    """Return the signature of a call outside of any forward, read by itself."""
    assert site.description is not None  # noqa: S101 - entries have readers of their own
    shape, held = lone_shape(site.description, args, kwargs), NOTHING_HELD
    cached = isinstance(site.description, LlamaFlashAttention2 | DeepseekV2DecoderLayer) and not site.is_vision
    cache = caches.find((*args, *kwargs.values())) if cached else None
    if cache is not None:
        held = caches.held(cache, site.layer or 0)
    found = evolve(shape, kv_slots=held.slots, experts=experts)
    return ForwardSignature(site.description, found, held.keys + shape.tokens if cache is not None else 0, cache, held)
