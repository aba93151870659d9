"""A network whose weights do not lie as plain ones: the same descriptions with the bytes of each part's own weights.

Parts go by their short paths, as ranges do: ``decoder.3.attention``, ``decoder.3.moe.experts``, ``sam.0.mlp``,
``lm_head``; ``vision`` stands for what the vision tower holds besides its parts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from attrs import evolve, fields

from dsocr_nvtx.analytic.experts import DeepseekV2MoE
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.model import DeepseekOCRModel

_Described = TypeVar("_Described", bound=Layer)

_OF_MODEL = {"rotary": "decoder.rotary", "norm": "decoder.norm"}
"""The model's own parts whose path is not the name of their field."""


def with_stored_bytes(network: DeepseekOCRModel, stored: Mapping[str, int]) -> DeepseekOCRModel:
    """Return the network with the bytes of its parts' own weights, by short path.

    Parts that are not named keep their weights in the type of the call. Equal layers share one description, as before.
    """
    known: dict[Layer, Layer] = {}

    def rebuilt(part: _Described, path: str) -> _Described:
        changes: dict[str, Any] = {"stored_bytes": stored.get(path, part.stored_bytes)}
        for name, held in _held(part):
            inside = [rebuilt(one, below) for below, one in _paths(path, name, held)]
            changes[name] = tuple(inside) if isinstance(held, tuple) else inside[0]
        made = evolve(part, **changes)
        return known.setdefault(made, made)  # type: ignore[return-value] # what is equal has the same type

    return rebuilt(network, "")


def named_parts(part: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield every part of a network with its short path, what holds others before what it holds."""
    yield path, part
    for name, held in _held(part):
        for below, one in _paths(path, name, held):
            yield from named_parts(one, below)


def _held(part: Layer) -> Iterator[tuple[str, Layer | tuple[Layer, ...]]]:
    """Yield the fields of a description that hold others."""
    for field in fields(type(part)):
        value = getattr(part, field.name)
        if isinstance(value, Layer) or (isinstance(value, tuple) and value and isinstance(value[0], Layer)):
            yield field.name, value


def _paths(path: str, name: str, held: Layer | tuple[Layer, ...]) -> Iterator[tuple[str, Layer]]:
    """Yield the path of each description that a field holds."""
    if isinstance(held, tuple):
        yield from ((f"{path or 'decoder'}.{index}", one) for index, one in enumerate(held))
    elif path in ("", "vision"):
        yield _OF_MODEL.get(name, name) if not path else name, held
    else:
        yield f"{path}.{'moe' if isinstance(held, DeepseekV2MoE) else name}", held
