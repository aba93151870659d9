"""Reading the shape of a call from its arguments: sizes only, never a tensor's values.

Contract: a reader takes (args, kwargs, state) and returns a tuple, the key that the call's cost depends on; `shape_of`
turns that key into a `CallShape`. Hidden states come as the first positional argument or by name, whichever the
network's author chose.
"""

from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from attrs import field, frozen

from dsocr_nvtx.hooks.places import Key, State
from dsocr_nvtx.schema.records import CallShape

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


def _hidden(args: _Args, kwargs: _Kwargs) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def rows(args: _Args, kwargs: _Kwargs, _state: State) -> Key:
    """Return (batch, tokens, height, width) of [B, S, C], [B, h, w, C] or flattened [T, C]."""
    size = _hidden(args, kwargs).shape
    if len(size) == 3:
        return (size[0], size[1], 0, 0)
    if len(size) == 4:
        return (size[0], size[1] * size[2], size[1], size[2])
    return (1, size[0], 0, 0)


def ids(args: _Args, kwargs: _Kwargs, _state: State) -> Key:
    """Return (batch, tokens, 0, 0) of token numbers [B, S]."""
    size = (args[0] if args else kwargs["input"]).shape
    return (size[0], size[1], 0, 0)


def positions(args: _Args, kwargs: _Kwargs, _state: State) -> Key:
    """Return (1, tokens, 0, 0) of position numbers [B, S] given to a rotary embedding."""
    given = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
    return (1, given.shape[-1], 0, 0)


def channels_first(args: _Args, _kwargs: _Kwargs, _state: State) -> Key:
    """Return (batch, tokens, height, width) of [B, C, h, w]."""
    size = args[0].shape
    return (size[0], size[2] * size[3], size[2], size[3])


def neck(width: int) -> Any:
    """Return the reader of SAM's neck, which takes [B, h, w, width] in one layout and [B, width, h, w] in another."""

    def read(args: _Args, kwargs: _Kwargs, state: State) -> Key:
        return (rows if args[0].shape[-1] == width else channels_first)(args, kwargs, state)

    return read


def clip_input(args: _Args, _kwargs: _Kwargs, _state: State) -> Key:
    """Return (batch, tokens, 0, 0) of SAM's grid [B, C, h, w], the last argument; the class token is counted."""
    size = args[-1].shape
    return (size[0], size[2] * size[3] + 1, 0, 0)


def images(args: _Args, kwargs: _Kwargs, _state: State) -> Key:
    """Return ((batch, height, width), ...) of the global views and, where there are any, the tiles."""
    views = [args[0] if args else kwargs["pixel_values"]]
    local = args[1] if len(args) > 1 else kwargs.get("pixel_values_local")
    if local is not None and local.shape[0]:
        views.append(local)
    return tuple((view.shape[0], view.shape[2], view.shape[3]) for view in views)


@frozen(eq=False)
class Caches:
    """How many tokens each KV cache holds, without asking the device.

    A dynamic cache's keys have the length of what is in them; a static one's have that of its slots, and its own count
    lies on the device, so tokens are counted as they go by.
    """

    counted: MutableMapping[Any, list[int]] = field(factory=WeakKeyDictionary)

    def before(self, cache: Any, layer: int) -> tuple[int, int]:
        """Return (tokens held, slots) of a layer before the call; slots is 0 for a cache that grows."""
        if isinstance(cache, tuple | list):  # the oldest form: (keys, values) per layer
            return (cache[layer][0].shape[-2], 0) if len(cache) > layer else (0, 0)
        keys = getattr(cache, "key_cache", None)  # transformers before 4.54
        if keys is not None:
            return (keys[layer].shape[-2] if len(keys) > layer and len(keys[layer]) else 0, 0)
        held = cache.layers[layer] if len(cache.layers) > layer else None
        slots = getattr(held, "max_cache_len", 0) if held is not None and not hasattr(held, "prefill_keys") else 0
        if slots:
            return self._count(cache)[0], slots
        if held is None or not held.is_initialized:
            return 0, 0
        return held.keys.shape[-2], 0

    def after(self, cache: Any, tokens: int) -> tuple[int, int]:
        """Return (tokens held, slots) of the first layer after a forward over so many more."""
        held, slots = self.before(cache, 0)
        if slots:
            self._count(cache)[0] += tokens
        return held + tokens, slots

    def _count(self, cache: Any) -> list[int]:
        found = self.counted.get(cache)
        if found is None:
            found = self.counted[cache] = [0]
        return found


@frozen(eq=False)
class ModelReader:
    """Reads a whole forward: (batch, tokens, kv_len, kv_slots, experts, logits), and frames the calls inside it."""

    caches: Caches
    config: Any
    uses_cache: bool
    frames: dict[Key, int] = field(factory=dict)

    def __call__(self, args: _Args, kwargs: _Kwargs, state: State) -> Key:
        """Read one forward; leave its shape's number, KV length and experts implementation for the calls inside."""
        given = kwargs.get("input_ids")
        if given is None:
            given = args[0] if args else kwargs["inputs_embeds"]
        batch, tokens = given.shape[:2]
        kv = self._kv(kwargs, tokens)
        experts = experts_of(self.config)
        logits = _logits(kwargs.get("logits_to_keep", 0), tokens)
        # A static cache's costs grow evenly until it is full.
        shape = (batch, tokens, experts, logits, kv[1], kv[0] >= kv[1])
        state.frame = (self.frames.setdefault(shape, len(self.frames) + 1), kv, experts)
        return (batch, tokens, *kv, experts, logits)

    def _kv(self, kwargs: _Kwargs, tokens: int) -> tuple[int, int]:
        cache = kwargs.get("past_key_values")
        if cache is None:
            wanted = kwargs.get("use_cache")
            # With use_cache and none given, the network makes a cache of its own.
            return (tokens if (self.uses_cache if wanted is None else wanted) else 0, 0)
        return self.caches.after(cache, tokens)


def experts_of(config: Any) -> str:
    """Return the experts implementation set now: `generate` changes it between prefill and decode."""
    try:  # past the configuration's own look-up of attributes, which is Python and is slow
        found: str | None = object.__getattribute__(config, "_experts_implementation")
    except AttributeError:
        return "eager"
    return found or "eager"


def _logits(keep: Any, tokens: int) -> int:
    if isinstance(keep, int):
        return min(keep, tokens) if keep else tokens
    return int(keep.shape[0])


@frozen(eq=False)
class LayerReader:
    """Reads a decoder layer or its attention: (batch, tokens, kv_len, kv_slots, experts)."""

    caches: Caches
    config: Any
    layer: int

    def __call__(self, args: _Args, kwargs: _Kwargs, state: State) -> Key:
        """Read one call; a layer called outside of any forward looks at its own cache."""
        size = _hidden(args, kwargs).shape
        if state.frame is not None:
            _, kv, experts = state.frame
        else:
            kv, experts = self._kv(kwargs, size[1]), experts_of(self.config)
        return (size[0], size[1], *kv, experts)

    def _kv(self, kwargs: _Kwargs, tokens: int) -> tuple[int, int]:
        cache = kwargs.get("past_key_values", kwargs.get("past_key_value"))
        if cache is None:
            return 0, 0
        held, slots = self.caches.before(cache, self.layer)
        return held + tokens, slots


@frozen(eq=False)
class ExpertsReader:
    """Reads a mixture of experts: (batch, tokens, experts). The implementation is read at every call: it can change."""

    config: Any

    def __call__(self, args: _Args, kwargs: _Kwargs, state: State) -> Key:
        """Read one call."""
        batch, tokens, *_ = rows(args, kwargs, state)
        return (batch, tokens, state.frame[2] if state.frame is not None else experts_of(self.config))


def grid_shape(key: Key, dtype: str, attention: str) -> CallShape:
    """Return the shape behind a key (batch, tokens, height, width)."""
    batch, tokens, height, width = key
    return CallShape(batch=batch, tokens=tokens, height=height, width=width, dtype=dtype, attention=attention)


def cached_shape(key: Key, dtype: str, attention: str) -> CallShape:
    """Return the shape behind a key (batch, tokens, kv_len, kv_slots, experts, ...)."""
    batch, tokens, kv_len, kv_slots, experts = key[:5]
    return CallShape(
        batch=batch, tokens=tokens, kv_len=kv_len, kv_slots=kv_slots, dtype=dtype, attention=attention, experts=experts
    )


def experts_shape(key: Key, dtype: str, attention: str) -> CallShape:
    """Return the shape behind a key (batch, tokens, experts)."""
    batch, tokens, experts = key
    return CallShape(batch=batch, tokens=tokens, dtype=dtype, attention=attention, experts=experts)
