"""Readers: what the call of an entry says of the forward that it begins. Sizes only, never a tensor's values.

Contract: a reader takes (args, kwargs) and returns a `ForwardSignature`. It recognises what it needs by what it is (a
tensor's rank, width and element type; a cache's structure), by a name only where kinds do not tell arguments apart, and
raises `Unreadable` where something is missing or does not fit. No default stands for a value that was not found.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from attrs import define, evolve, field, frozen

from dsocr_nvtx.analytic.attention import LlamaRotaryEmbedding
from dsocr_nvtx.analytic.clip import ClipEmbeddings, VitModel
from dsocr_nvtx.analytic.decoder import TokenEmbedding
from dsocr_nvtx.analytic.forward import TextForward, VisionViews
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.sam import PatchEmbed, SamNeck, SamProj
from dsocr_nvtx.hooks.bindings import HookedNetwork
from dsocr_nvtx.hooks.caches import NOTHING_HELD, Caches, Held, Unreadable
from dsocr_nvtx.schema.records import CallShape

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@define(eq=False)
class ForwardSignature:
    """All that the calls of one forward cost follows from this: the entry's description and the shape of its call.

    ``shape`` has no KV length, which is ``kv_len``: the keys of each sequence after the forward, 0 without a cache.
    ``cache`` is the KV cache that the forward extends, if it was given one, and ``held`` what that held before.
    """

    description: Layer
    shape: CallShape
    kv_len: int = 0
    cache: Any = None
    held: Held = NOTHING_HELD

    @property
    def continues(self) -> bool:
        """Whether the forward extends sequences that are in the cache already."""
        return self.held.keys > 0


Reader = Callable[[Args, Kwargs], ForwardSignature]


def tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among values and in containers among them, in their order."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from tensors(value.values())
        elif isinstance(value, tuple | list):
            yield from tensors(value)


def images_of(args: Args, kwargs: Kwargs, channels: int) -> list[torch.Tensor]:
    """Return the floating tensors [N, channels, height, width] that a call is given and that hold an image."""
    return [
        tensor
        for tensor in tensors((*args, *kwargs.values()))
        if tensor.dim() == 4 and tensor.shape[1] == channels and tensor.is_floating_point() and tensor.shape[0]
    ]


def rows_of(args: Args, kwargs: Kwargs, width: int) -> CallShape:
    """Return the shape of the first floating tensor [B, S, width], [B, h, w, width] or [T, width] of a call."""
    for tensor in tensors((*args, *kwargs.values())):
        size = tensor.shape
        if tensor.is_floating_point() and len(size) in (2, 3, 4) and size[-1] == width:
            if len(size) == 2:
                return CallShape(tokens=size[0])
            if len(size) == 3:
                return CallShape(batch=size[0], tokens=size[1])
            return CallShape(batch=size[0], tokens=size[1] * size[2], height=size[1], width=size[2])
    raise Unreadable(f"no hidden states of width {width} among its arguments")


@frozen(eq=False)
class ImageReader:
    """Reads a tower or a projector that takes one tensor."""

    description: Layer
    channels: int

    def __call__(self, args: Args, kwargs: Kwargs) -> ForwardSignature:
        """Read pixels [N, 3, H, W]."""
        found = images_of(args, kwargs, self.channels)
        if not found:
            raise Unreadable(f"no images of {self.channels} channels among its arguments")
        batch, _, height, width = found[0].shape
        shape = CallShape(batch=batch, tokens=height * width, height=height, width=width)
        return ForwardSignature(self.description, shape)


@frozen(eq=False)
class SecondEncoderReader:
    """Reads CLIP, which takes SAM's grid [N, C, h, w], or deepseek_ocr2's encoder, which takes rows [N, S, C]."""

    network: DeepseekOCRModel

    def __call__(self, args: Args, kwargs: Kwargs) -> ForwardSignature:
        """Read SAM's grid, the vendor's call having pixels before it; or rows."""
        clip, channels = self.network.clip, self.network.sam.proj.steps[-1]
        if not isinstance(clip, VitModel):
            return ForwardSignature(clip, rows_of(args, kwargs, clip.width))
        found = images_of(args, kwargs, channels)
        if not found:
            raise Unreadable(f"no grid of SAM's {channels} channels among its arguments")
        batch, _, height, width = found[0].shape
        return ForwardSignature(clip, clip.call(batch, height * width, CallShape()))


@frozen(eq=False)
class RowsReader:
    """Reads a layer that works on rows alone, as the projector does."""

    description: Layer
    width: int

    def __call__(self, args: Args, kwargs: Kwargs) -> ForwardSignature:
        """Read [B, S, width]."""
        return ForwardSignature(self.description, rows_of(args, kwargs, self.width))


@frozen(eq=False)
class ViewsReader:
    """Reads the encoding of a page: all its tensors of images, the global views and the tiles."""

    network: DeepseekOCRModel
    dtype: str
    attention: str

    def __call__(self, args: Args, kwargs: Kwargs) -> ForwardSignature:
        """Read every tensor [N, 3, H, W]."""
        found = images_of(args, kwargs, self.network.sam.patch_embed.channels)
        if not found:
            raise Unreadable("no images among its arguments")
        views = self._views(tuple((image.shape[0], image.shape[2], image.shape[3]) for image in found))
        return ForwardSignature(views, CallShape(tokens=views.tokens()))

    @cache  # noqa: B019 - a reader lives as long as its session
    def _views(self, sizes: tuple[tuple[int, int, int], ...]) -> VisionViews:
        calls = tuple(
            CallShape(batch=batch, height=height, width=width, dtype=self.dtype, attention=self.attention)
            for batch, height, width in sizes
        )
        return VisionViews(tower=self.network.vision, views=calls)


@frozen(eq=False)
class ModelReader:
    """Reads a whole forward over tokens. ``lists_experts``: the layout runs its experts one by one, in a loop."""

    network: DeepseekOCRModel
    config: Any
    caches: Caches
    lists_experts: bool
    _caches_at: dict[tuple[object, ...], int] = field(factory=dict)

    def __call__(self, args: Args, kwargs: Kwargs) -> ForwardSignature:
        """Read batch, tokens, what the KV cache holds, rows of logits and the experts' implementation."""
        batch, tokens = self._tokens(args, kwargs)
        values = (*args, *kwargs.values())
        kind = (*kwargs, *map(type, values))  # which argument is the cache, is found once for arguments of a kind
        at = self._caches_at.get(kind)
        held_by = self._cache(values, kind) if at is None else values[at] if at >= 0 else None
        held = NOTHING_HELD if held_by is None else self.caches.held(held_by)
        has_cache = held_by is not None or self._uses_cache(kwargs)
        experts = "eager" if self.lists_experts else experts_of(self.config)
        shape = self._shape(batch, tokens, held.slots, experts)
        forward = self._forward(logits_of(kwargs, tokens))
        return ForwardSignature(forward, shape, held.keys + tokens if has_cache else 0, held_by, held)

    def _cache(self, values: Args, kind: tuple[object, ...]) -> Any:
        """Return the KV cache among a call's arguments, and keep which of them it is for calls of this kind."""
        found = self.caches.find(values)
        if not any(isinstance(value, Mapping | list | tuple | set) for value in values):
            # What lies in a container may be another thing at the next call.
            places = (n for n, value in enumerate(values) if value is found)
            self._caches_at[kind] = next(places, -1) if found is not None else -1
        return found

    @cache  # noqa: B019 - a reader lives as long as its session
    def _shape(self, batch: int, tokens: int, slots: int, experts: str) -> CallShape:
        return CallShape(batch=batch, tokens=tokens, kv_slots=slots, experts=experts)

    @cache  # noqa: B019 - a reader lives as long as its session
    def _forward(self, logits: int) -> TextForward:
        return TextForward(model=self.network, logits=logits)

    def _tokens(self, args: Args, kwargs: Kwargs) -> tuple[int, int]:
        """Return batch and tokens: of input_ids, the first argument, else of embeddings, told by their width."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, torch.Tensor) and ids.dim() == 2 and not ids.is_floating_point():
            return ids.shape[0], ids.shape[1]
        embedded = [
            tensor.shape[:2]
            for tensor in (*args, *kwargs.values())
            if isinstance(tensor, torch.Tensor)
            and tensor.dim() == 3
            and tensor.is_floating_point()
            and tensor.shape[2] == self.network.embed.width
        ]
        if len(embedded) != 1:
            raise Unreadable("neither input_ids nor embeddings among its arguments")
        return embedded[0][0], embedded[0][1]

    def _uses_cache(self, kwargs: Kwargs) -> bool:
        """Return whether the network makes a cache of its own, none being given."""
        wanted = kwargs.get("use_cache")
        return bool(getattr(self.config, "use_cache", True) if wanted is None else wanted)


def experts_of(config: Any) -> str:
    """Return the experts' implementation that is set now: `generate` changes it between prefill and decode."""
    for name in ("_experts_implementation_internal", "_experts_implementation"):
        try:  # past the configuration's own look-up of attributes, which is Python and is slow
            found = object.__getattribute__(config, name)
        except AttributeError:
            continue
        return found or "eager"  # what transformers runs where nothing is set
    raise Unreadable("its configuration does not say how experts are run")


def logits_of(kwargs: Kwargs, tokens: int) -> int:
    """Return of how many rows of each sequence logits are computed."""
    keep = kwargs.get("logits_to_keep", 0)
    if isinstance(keep, int):
        return min(keep, tokens) if keep else tokens
    return int(keep.shape[0])


def lone_shape(description: Layer, args: Args, kwargs: Kwargs) -> CallShape:
    """Return the shape of a call that is read by itself: rows, or the grid of what works on images.

    It serves calls outside any forward, and the check of a call inside one. A KV cache is not looked at.
    """
    match description:
        case TokenEmbedding():
            return _numbered(args, kwargs)
        case LlamaRotaryEmbedding():
            return evolve(_numbered(args, kwargs), batch=1)
        case PatchEmbed() | SamProj():
            return _grid(images_of(args, kwargs, description.channels))
        case SamNeck():
            given = images_of(args, kwargs, description.width)
            return _grid(given) if given else rows_of(args, kwargs, description.width)
        case ClipEmbeddings():
            grid = _grid(images_of(args, kwargs, description.width))
            return CallShape(batch=grid.batch, tokens=grid.tokens + 1)
        case _:
            return rows_of(args, kwargs, width_of(description))


def width_of(description: Layer) -> int:
    """Return the width of the rows that a layer takes: its own, or that of the first part inside that has one."""
    width = getattr(description, "width", None)
    if isinstance(width, int):
        return width
    for child in description.children(CallShape()):
        return width_of(child.description)
    raise Unreadable(f"a {type(description).__name__} has no width by which its rows are told")


def _grid(images: list[torch.Tensor]) -> CallShape:
    if not images:
        raise Unreadable("no grid of its channels among its arguments")
    batch, _, height, width = images[0].shape
    return CallShape(batch=batch, tokens=height * width, height=height, width=width)


def _numbered(args: Args, kwargs: Kwargs) -> CallShape:
    """Return the shape of the first tensor [B, S] or [T] of whole numbers."""
    for tensor in tensors((*args, *kwargs.values())):
        if not tensor.is_floating_point() and tensor.dim() in (1, 2):
            batch, tokens = (1, *tensor.shape)[-2:]
            return CallShape(batch=batch, tokens=tokens)
    raise Unreadable("no token or position numbers among its arguments")


def readers_of(found: HookedNetwork, caches: Caches) -> dict[str, Reader]:
    """Return the reader of every entry, by its path."""
    network = found.network
    dtype, attention = next(
        ((site.dtype, site.attention) for site in found.sites if site.is_vision), ("bfloat16", "sdpa")
    )
    return {
        "model": ModelReader(network, found.config, caches, found.lists_experts),
        "image_features": ViewsReader(network, dtype, attention),
        "sam": ImageReader(network.sam, network.sam.patch_embed.channels),
        "clip": SecondEncoderReader(network),
        "projector": RowsReader(network.projector, network.projector.width),
    }
