"""KV caches, recognised by what they are among the arguments of a call, and how many keys each holds.

A cache is one of three things: an object with a list ``layers`` (transformers from 4.54 on), an object with a list
``key_cache`` (before), or a tuple of (keys, values) per layer. Only sizes are read. Whatever else a call is given that
is neither a tensor nor plain data might be a cache too, so it makes the call `Unreadable`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import ref

import torch
from attrs import define, field, frozen

_PLAIN = (type(None), bool, int, float, str, torch.Tensor, torch.dtype, torch.device)


class Unreadable(Exception):
    """What a reader needs was not found among a call's arguments, or does not fit: the call's cost is unknown."""


class Held(NamedTuple):
    """What one layer of a cache holds: keys of each sequence, and its length where that is fixed (else 0)."""

    keys: int
    slots: int = 0


NOTHING_HELD = Held(0)


@define(eq=False)
class Counted:
    """A static cache whose own counter lies on a device: the tokens that it holds, counted here.

    ``version`` is that of its counter when it was last seen.
    """

    cache: Any
    """A weak reference to it."""
    tokens: int
    version: int


@frozen(eq=False)
class Caches:
    """Recognises the caches of one model, whose keys are [batch, ``heads``, length, ``head_dim``]."""

    heads: int
    head_dim: int
    _counted: dict[int, Counted] = field(factory=dict)
    """Static caches by their identity, while they live."""

    def find(self, values: Iterable[Any]) -> Any:
        """Return the only cache among values, or in containers among them; None where there is none.

        Raises `Unreadable` for two caches, and for a value of a type that is not known.
        """
        found = {id(cache): cache for cache in self._caches(values)}
        if len(found) > 1:
            raise Unreadable(f"{len(found)} KV caches among its arguments")
        return next(iter(found.values()), None)

    def _caches(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            if isinstance(value, _PLAIN):
                continue
            if self._is_cache(value):
                yield value
            elif isinstance(value, Mapping):
                yield from self._caches(value.values())
            elif isinstance(value, tuple | list | set):
                yield from self._caches(value)
            else:
                raise Unreadable(f"an argument of type {type(value).__name__}, which may be a KV cache, is not known")

    def _is_cache(self, value: Any) -> bool:
        if isinstance(value, tuple | list):
            return len(value) > 0 and all(self._is_pair(layer) for layer in value)
        layers = getattr(value, "layers", None)
        if isinstance(layers, list):
            return all(hasattr(layer, "keys") and hasattr(layer, "get_seq_length") for layer in layers)
        return isinstance(getattr(value, "key_cache", None), list)

    def _is_pair(self, layer: Any) -> bool:
        return isinstance(layer, tuple | list) and len(layer) >= 2 and all(map(self._is_keys, layer[:2]))

    def _is_keys(self, value: Any) -> bool:
        if not isinstance(value, torch.Tensor) or value.dim() != 4:
            return False
        return value.shape[1] == self.heads and value.shape[3] == self.head_dim

    def held(self, cache: Any, layer: int = 0) -> Held:
        """Return what a layer of the cache holds now. Raises `Unreadable` where its tensors do not say."""
        if isinstance(cache, tuple | list):
            return Held(cache[layer][0].shape[-2] if len(cache) > layer else 0)
        keys = getattr(cache, "key_cache", None)
        if isinstance(keys, list):
            return Held(keys[layer].shape[-2] if len(keys) > layer and len(keys[layer]) else 0)
        return self._of_layer(cache, cache.layers[layer]) if len(cache.layers) > layer else Held(0)

    def measured(self, cache: Any) -> int | None:
        """Return how many keys the cache's own tensors say it holds; None where only what was counted here tells."""
        layers = getattr(cache, "layers", None)
        if not layers:
            return self.held(cache).keys
        slots = getattr(layers[0], "max_cache_len", 0)
        if not slots:
            return self._of_layer(cache, layers[0]).keys
        counter = getattr(layers[0], "cumulative_length", None)
        if isinstance(counter, torch.Tensor):
            return int(counter) if counter.device.type == "cpu" else None
        return counter if isinstance(counter, int) else None

    def _of_layer(self, cache: Any, layer: Any) -> Held:
        name = type(layer).__name__
        if getattr(layer, "is_sliding", False):
            raise Unreadable(f"a cache layer of type {name} keeps a window of its keys")
        slots = getattr(layer, "max_cache_len", 0)
        if slots:
            return Held(self._static(cache, layer), slots)
        keys = getattr(layer, "keys", None)
        if keys is None or not keys.numel():
            keys_held = 0
        elif self._is_keys(keys):
            keys_held = keys.shape[-2]
        else:
            raise Unreadable(f"a cache layer of type {name} keeps its keys as {list(keys.shape)}")
        told = layer.get_seq_length()
        if told != keys_held:
            raise Unreadable(f"a cache layer of type {name} holds {keys_held} keys and says {told}")
        return Held(keys_held)

    def _static(self, cache: Any, layer: Any) -> int:
        """Return how many tokens a static layer holds. Its own counter lies on the device, so tokens are counted here.

        The counter is read where that needs no waiting, and once where somebody else has changed the cache.
        """
        if not getattr(layer, "is_initialized", True):
            self._count(cache, 0, _UNSEEN)
            return 0
        counter = getattr(layer, "cumulative_length", None)
        if isinstance(counter, int):
            return counter
        known = self._counted.get(id(cache))
        if isinstance(counter, torch.Tensor):
            if counter.is_cpu:
                return self._count(cache, int(counter), _version(counter))
            changed = known is None or known.version not in (_UNSEEN, _version(counter))
            if changed and not _capturing():
                return self._count(cache, int(counter), _version(counter))
        if known is None:
            raise Unreadable("a static cache was filled before its calls were hooked, and does not say how far")
        return known.tokens

    def _count(self, cache: Any, tokens: int, version: int) -> int:
        """Keep what a static cache holds, and return it."""
        at = id(cache)
        known = self._counted.get(at)
        if known is None:
            self._counted[at] = Counted(ref(cache, lambda _gone: self._counted.pop(at, None)), tokens, version)
        else:
            known.tokens, known.version = tokens, version
        return tokens

    def added(self, cache: Any, tokens: int) -> None:
        """Note that a forward has added so many tokens to every sequence of a static cache."""
        known = self._counted.get(id(cache))
        if known is not None:
            counter = getattr(cache.layers[0], "cumulative_length", None)
            known.tokens += tokens
            known.version = _version(counter) if isinstance(counter, torch.Tensor) else _UNSEEN


_UNSEEN = -1
"""The version of a counter that nobody has seen, or whose changes are not counted."""


def _version(counter: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; `_UNSEEN` in inference mode, where that is not counted."""
    return _UNSEEN if counter.is_inference() else counter._version


def _capturing() -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
