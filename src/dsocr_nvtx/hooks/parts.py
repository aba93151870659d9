"""The parts that bindings are made of: modules found by attribute, and places priced by layer descriptions."""

from collections.abc import Callable
from typing import Any

from attrs import frozen
from torch import nn

from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks import shapes
from dsocr_nvtx.hooks.places import Key, Place, Priced, Rest
from dsocr_nvtx.schema.records import DTYPE_BYTES, OWN_WORK, CallShape, Cost, Level

MISSING = "hooks bind to the native and the vendor's DeepSeek-OCR network; check the model's class and version"


@frozen(kw_only=True)
class Binding:
    """A method to put a range around, and what the range says."""

    owner: nn.Module
    place: Place
    method: str = "forward"


class Prices:
    """Costs by description and shape: layers of one kind share theirs, so a new KV length is priced once for them all.

    Descriptions are known by identity, which is much cheaper than comparing them, and kept, so that it stays theirs.
    """

    MOST = 16_384

    def __init__(self) -> None:
        self._priced: dict[tuple[int, CallShape], Priced] = {}
        self._costs: dict[tuple[int, CallShape], Cost] = {}
        self._kept: dict[int, Layer] = {}

    def __call__(self, description: Layer, shape: CallShape) -> Priced:
        """Return a call's cost, with what its own operators must move when the calls inside are reported apart."""
        found = self._priced.get((id(description), shape))
        if found is None:
            if len(self._costs) >= self.MOST:
                for known in (self._priced, self._costs, self._kept):
                    known.clear()
            found = Priced(shape, self.cost(description, shape), description.own(shape).activation_bytes)
            self._priced[id(description), shape] = found
        return found

    def cost(self, description: Layer, shape: CallShape) -> Cost:
        """Return a call's cost; those of the calls inside it are looked up as well."""
        found = self._costs.get((id(description), shape))
        if found is None:
            self._kept[id(description)] = description
            found = self._costs[id(description), shape] = description.cost(shape, price=self.cost)
        return found


@frozen(kw_only=True)
class Tower:
    """One tower of the network: its type, its attention implementation, and whether it is part of vision."""

    dtype: str
    attention: str
    is_vision: bool
    prices: Prices

    def place(
        self, path: str, description: Layer, level: Level, layer: int | None, read: Callable[..., Key],
        shape_of: Callable[[Key, str, str], CallShape] = shapes.grid_shape, rest: str | None = None,
    ) -> Place:  # fmt: skip
        """Return a place priced by a layer description. ``rest`` is the container that works on after the call."""

        def price(key: Key) -> Priced:
            return self.prices(description, shape_of(key, self.dtype, self.attention))

        return Place(
            path=path,
            kind=description.kind,
            level=level,
            layer=layer,
            read=read,
            price=price,
            is_vision=self.is_vision,
            framed=not self.is_vision and shape_of is not shapes.cached_shape,
            grows=shape_of is shapes.cached_shape,
            dtype=self.dtype,
            rest=Rest(path=rest + OWN_WORK, container=rest) if rest else None,
        )


def find(module: nn.Module, *names: str) -> Any:
    """Return the first of several dotted attributes that a module has; refuse a module that has none of them."""
    for name in names:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise Refused(type(module).__name__, f"no attribute {' or '.join(names)}", MISSING)


def tower(module: nn.Module, prices: Prices, *, is_vision: bool) -> Tower:
    """Return the tower that a module is; refuse weights of a type that has no size here."""
    parameter = next(module.parameters())
    dtype = str(parameter.dtype).removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise Refused(type(module).__name__, f"its weights are {dtype}", f"load it as one of {', '.join(DTYPE_BYTES)}")
    attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    # The vendor's vision calls fused attention without saying so in a configuration; its decoder is eager.
    attention = attention or ("sdpa" if is_vision else "eager")
    return Tower(dtype=dtype, attention=attention, is_vision=is_vision, prices=prices)
