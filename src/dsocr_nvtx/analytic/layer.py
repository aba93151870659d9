"""The contract of every layer description: frozen dimensions, and `Cost` as a function of a call's shape.

``cost`` includes everything inside; ``own`` is what a container does itself, the ``rest`` row when its children are
reported on their own. For every field but ``activation_bytes``: cost = own + sum of the children's costs, exactly.
Activations do not add up: a container reads its inputs once and writes its outputs once, and what passes between
its children could stay on chip.
"""

from collections.abc import Callable, Iterable, Iterator

from attrs import evolve, field, frozen

from dsocr_nvtx.schema.records import COST_FIELDS, CallShape, Cost, LayerKind

TERA = 10**12
GIGA = 10**9


@frozen(kw_only=True)
class Layer:
    """Base of the layer descriptions: what each must say, and the plan's readings of it.

    ``stored_bytes`` is the size of the layer's own weights as they lie, scales and all, where that is not the calls'
    element type times their number: of another type, packed, quantised, or with an adapter beside them.
    """

    stored_bytes: int | None = None
    kind = LayerKind.REST

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:
        """Return the cost of the layer's own work. ``hit`` is the number of distinct experts observed, if it was."""
        raise NotImplementedError

    def own_parameters(self) -> int:
        """Return the number of weights that belong to the layer and to none of its children."""
        return 0

    def children(self, shape: CallShape) -> tuple["Child", ...]:  # noqa: ARG002 - leaves have none, whatever the shape
        """Return the calls that one call of this shape makes, in their order; none for a leaf."""
        return ()

    def io_bytes(self, shape: CallShape) -> int:
        """Return the bytes of inputs and outputs, each once: a leaf's own, a container's outer ones."""
        return self.own(shape).activation_bytes

    def scratch_bytes(self, shape: CallShape) -> int:  # noqa: ARG002 - most leaves have none
        """Return the bytes that live besides input and output at the worst moment of the layer's own work."""
        return 0

    def kv_cache_bytes(self, shape: CallShape) -> int:
        """Return the size of the cache's own tensors after the call; a static cache has all its slots at once."""
        return sum(child.description.kv_cache_bytes(child.shape) for child in self.children(shape))

    def cost(
        self, shape: CallShape, hit: int | None = None, price: Callable[["Layer", CallShape], Cost] | None = None
    ) -> Cost:
        """Return the cost of one call, everything inside included; ``price`` may know that of calls inside already."""
        own, parts = self.own(shape, hit), self.children(shape)
        if not parts:
            return own
        # Equal layers share one description, and one call's children share shapes: each pair is computed once.
        known = {(id(part.description), id(part.shape)): part for part in parts}
        costs = {
            at: price(part.description, part.shape) if price is not None else part.description.cost(part.shape, hit)
            for at, part in known.items()
        }
        inside = [costs[id(part.description), id(part.shape)] for part in parts]
        return evolve(total([own, *inside]), activation_bytes=self.io_bytes(shape))

    def parameters(self) -> int:
        """Return the number of weights, everything inside included."""
        inside = sum(child.description.parameters() for child in self.children(CallShape()))
        return self.own_parameters() + inside

    def weights(self, itemsize: int) -> int:
        """Return the bytes of the layer's own weights as they lie; ``itemsize`` is that of unpacked ones."""
        return self.own_parameters() * itemsize if self.stored_bytes is None else self.stored_bytes

    def unlike(self, itemsize: int) -> int:
        """Return by how many bytes the own weights differ from unpacked ones: what an operator reads more or less."""
        return self.weights(itemsize) - self.own_parameters() * itemsize

    def resident_bytes(self, itemsize: int) -> int:
        """Return the bytes of all weights as they lie, everything inside included."""
        inside = sum(child.description.resident_bytes(itemsize) for child in self.children(CallShape()))
        return self.weights(itemsize) + inside

    def peak_bytes(self, shape: CallShape) -> int:
        """Return the most activation memory alive at once: inputs, outputs and the largest thing in between."""
        inside = max((child.description.peak_bytes(child.shape) for child in self.children(shape)), default=0)
        return max(self.io_bytes(shape) + self.scratch_bytes(shape), inside)

    def forward_tensor_core_flops(self, shape: CallShape) -> float:
        """Return the matrix products and convolutions in TFLOPs."""
        return self.cost(shape).tensor_flops / TERA

    def forward_cuda_core_flops(self, shape: CallShape) -> float:
        """Return everything else that computes, in TFLOPs."""
        return self.cost(shape).vector_flops / TERA

    def forward_cal_io(self, shape: CallShape) -> float:
        """Return the lower bound of the traffic in TB."""
        return self.cost(shape).min_bytes / TERA

    def forward_arithmetic_intensity(self, shape: CallShape) -> float:
        """Return FLOPs per byte of the lower bound."""
        return self.cost(shape).intensity

    def forward_memory_weight(self, shape: CallShape) -> float:
        """Return the resident weights in GB: all of them, used by the call or not."""
        return self.resident_bytes(shape.itemsize) / GIGA

    def forward_memory_activation(self, shape: CallShape) -> float:
        """Return the peak activation memory in GB."""
        return self.peak_bytes(shape) / GIGA

    def forward_memory_kvcache(self, shape: CallShape) -> float:
        """Return the KV cache after the call in GB."""
        return self.kv_cache_bytes(shape) / GIGA


@frozen(kw_only=True)
class Child:
    """One call inside another: the path below the parent, the block's index where it has one, and the call's shape."""

    name: str
    description: Layer
    shape: CallShape
    layer: int | None = None
    kind: LayerKind = field(init=False)

    @kind.default
    def _kind(self) -> LayerKind:
        return self.description.kind


@frozen(kw_only=True)
class Node:
    """A call in a tree of calls: its full path, and the index of the block it lies in."""

    path: str
    layer: int | None
    description: Layer
    shape: CallShape

    @property
    def kind(self) -> LayerKind:
        """What the call computes."""
        return self.description.kind


def walk(path: str, description: Layer, shape: CallShape, layer: int | None = None) -> Iterator[Node]:
    """Yield a call and every call inside it, parents first. ``path`` may be empty for the root of a model."""
    yield Node(path=path, layer=layer, description=description, shape=shape)
    for child in description.children(shape):
        below = f"{path}.{child.name}" if path else child.name
        yield from walk(below, child.description, child.shape, layer if child.layer is None else child.layer)


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs: one construction, where adding two by two would check every field at every step."""
    listed = list(costs)
    return Cost(**{name: sum(getattr(cost, name) for cost in listed) for name in COST_FIELDS})


def grid_rows(shape: CallShape) -> int:
    """Return the rows of the hidden state: of the grid where the call has one, else batch times tokens."""
    return shape.batch * shape.height * shape.width if shape.height else shape.rows
