"""The static table of a page: what vision, prefill and decode cost, row by row, without running anything.

Rows are disjoint and add up: every leaf, and for every container one row of kind ``rest``. Rows of the same stage,
module, kind and layer are one row with their calls added (a layer's two norms, the two vision calls of gundam).
"""

from collections.abc import Iterable, Iterator

from attrs import evolve, field, frozen

from dsocr_nvtx.analytic.layer import Layer, Node, total, walk
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.page import NO_TILES, TILE_SIDE, Grid, View, views
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, CallShape, Cost, LayerKind, Stage

PROMPT_TEXT_TOKENS = 10
"""Begin-of-sequence and "<|grounding|>Convert the document to markdown.", roughly: prompts differ by a few."""

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
EXPERTS = ("grouped_mm", "batched_mm", "eager", "deepgemm", "sonicmoe")

_MOST, _MOST_STEPS = 1 << 20, 1 << 17
"""Sequences, tokens and tiles of a page; and decode steps, each of which is priced by itself."""

ROW_COLUMNS: tuple[str, ...] = ("stage", "module", "kind", "layer", "calls", *COST_FIELDS)


@frozen(kw_only=True)
class PageRequest:
    """Which page, and how it is run. ``prompt_tokens`` is the whole prompt, image included; None for the usual one.

    ``decode_tokens`` counts decode steps: forwards of one token after the prefill, which itself yields the first.
    ``decode_experts`` differs from ``experts`` where `generate` switches by itself; ``kv_slots`` is a static cache's
    length, 0 for a dynamic one. ``whole_side`` is the global view's side in pixels where it is not the mode's own.
    """

    mode: str = "base"
    grid: Grid = NO_TILES
    prompt_tokens: int | None = None
    decode_tokens: int = 0
    batch: int = 1
    dtype: str = "bfloat16"
    attention: str = "sdpa"
    experts: str = "grouped_mm"
    decode_experts: str | None = None
    logits: str = field(default="last")
    kv_slots: int = 0
    tile_side: int = TILE_SIDE
    whole_side: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.logits not in ("last", "all"):
            raise UsageError(f"logits are computed for the last row or for all, not for {self.logits!r}")
        named = {"dtype": DTYPE_BYTES, "attention": ATTENTIONS, "experts": EXPERTS, "decode_experts": (None, *EXPERTS)}
        for name, known in named.items():
            if getattr(self, name) not in known:
                raise UsageError(f"no {name} {getattr(self, name)!r}; there are {', '.join(filter(None, known))}")
        if self.batch < 1 or self.decode_tokens < 0 or (self.prompt_tokens is not None and self.prompt_tokens < 1):
            raise UsageError("a page has a batch and a prompt of at least one, and no fewer than zero decode tokens")
        sizes = {"batch": self.batch, "prompt_tokens": self.prompt_tokens or 0, "tiles": self.grid[0] * self.grid[1]}
        for name, size in (*sizes.items(), ("decode_tokens", self.decode_tokens)):
            most = _MOST_STEPS if name == "decode_tokens" else _MOST
            if size > most:
                raise UsageError(f"{name} {size:,} is more than the {most:,} that are priced")

    def views(self) -> tuple[View, ...]:
        """Return the calls of the vision tower."""
        return tuple(
            evolve(view, side=self.tile_side if view.name == "local" else self.whole_side or view.side)
            for view in views(self.mode, self.grid, self.batch)
        )


@frozen(kw_only=True)
class Row:
    """One row: ``calls`` calls and their summed cost."""

    stage: Stage
    module: str
    kind: LayerKind
    layer: int | None
    calls: int
    cost: Cost

    def values(self) -> tuple[str | int | None, ...]:
        """Return the row in the order of `ROW_COLUMNS`."""
        key = (self.stage.value, self.module, self.kind.value, self.layer, self.calls)
        return key + tuple(getattr(self.cost, name) for name in COST_FIELDS)


Key = tuple[Stage, str, LayerKind, int | None]


@frozen(kw_only=True)
class Calls:
    """Calls of one row's key: how many there are of each cost. What was priced once is shared between keys."""

    key: Key
    costs: tuple[tuple[int, Cost], ...]


def page_table(layers: DeepseekOCRModel, request: PageRequest) -> list[Row]:
    """Return the rows of a page: vision, then prefill, then decode, each in the order of the network."""
    gathered: dict[Key, tuple[int, list[Cost]]] = {}
    summed: dict[int, Cost] = {}
    for calls in page_calls(layers, request):
        if id(calls.costs) not in summed:
            summed[id(calls.costs)] = total(cost * count for count, cost in calls.costs)
        before, costs = gathered.get(calls.key, (0, []))
        gathered[calls.key] = (before + sum(count for count, _ in calls.costs), [*costs, summed[id(calls.costs)]])
    return [
        Row(stage=stage, module=module, kind=kind, layer=layer, calls=calls, cost=total(costs))
        for (stage, module, kind, layer), (calls, costs) in gathered.items()
    ]


def page_calls(layers: DeepseekOCRModel, request: PageRequest) -> list[Calls]:
    """Return every call of a page with its own cost: what the rows of `page_table` add up."""
    return list(_entries(layers, request))


def page_total(rows: Iterable[Row], stage: Stage | None = None) -> Cost:
    """Return the sum of all rows, or of one stage's."""
    return total(row.cost for row in rows if stage in (None, row.stage))


def image_tokens(layers: DeepseekOCRModel, request: PageRequest) -> int:
    """Return the tokens of one page's images: features, a newline after each row of the whole grid, one separator."""
    _, rows = request.grid
    count = 1
    for view in request.views():
        children = layers.vision.children(vision_shape(request, view))
        per_image, images = children[-1].shape.tokens, view.batch // request.batch
        count += per_image * images
        if layers.vision.newlines:
            count += view.grid * (rows if view.name == "local" else 1)
    return count


def prompt_tokens(layers: DeepseekOCRModel, request: PageRequest) -> int:
    """Return the length of the whole prompt: as asked, else the image's tokens and a usual sentence."""
    least = image_tokens(layers, request)
    if request.prompt_tokens is None:
        return least + PROMPT_TEXT_TOKENS
    if request.prompt_tokens < least:
        raise UsageError(f"a prompt of {request.prompt_tokens} tokens cannot hold the image's {least}")
    return request.prompt_tokens


def vision_shape(request: PageRequest, view: View) -> CallShape:
    """Return the shape of a vision call. SAM and CLIP know no attention but eager and sdpa."""
    attention = "eager" if request.attention == "eager" else "sdpa"
    return CallShape(batch=view.batch, height=view.side, width=view.side, dtype=request.dtype, attention=attention)


def prompt_shape(request: PageRequest, prompt: int) -> CallShape:
    """Return the shape of the forward over the prompt."""
    shape = text_shape(request, prompt, prompt, prompt, request.experts)
    return evolve(shape, logits=shape.rows if request.logits == "all" else 0)


def text_shape(request: PageRequest, prompt: int, tokens: int, keys: int, experts: str) -> CallShape:
    """Return the shape of a forward over ``tokens`` new tokens that ends with ``keys`` in the cache."""
    if request.kv_slots and keys > request.kv_slots:
        raise UsageError(f"{keys} tokens do not fit into a static cache of {request.kv_slots}")
    return CallShape(
        batch=request.batch,
        tokens=tokens,
        kv_len=keys,
        kv_slots=request.kv_slots,
        dtype=request.dtype,
        attention=request.attention,
        experts=experts,
        prompt=prompt,
    )


def walk_text(layers: DeepseekOCRModel, shape: CallShape) -> Iterator[Node]:
    """Yield every call of a forward over tokens, the model's own part first."""
    yield Node(path="model", layer=None, description=layers, shape=shape)
    for child in layers.children(shape):
        yield from walk(child.name, child.description, child.shape, child.layer)


def walk_vision(layers: DeepseekOCRModel, shape: CallShape) -> Iterator[Node]:
    """Yield every call of the vision tower, its own part first."""
    yield Node(path="model", layer=None, description=layers.vision, shape=shape)
    for child in layers.vision.children(shape):
        yield from walk(child.name, child.description, child.shape, child.layer)


def _entries(layers: DeepseekOCRModel, request: PageRequest) -> Iterator[Calls]:
    for view in request.views():
        for node in walk_vision(layers, vision_shape(request, view)):
            yield Calls(key=_key(Stage.VISION, node), costs=((1, node.description.own(node.shape)),))
    prompt = prompt_tokens(layers, request)
    for node in walk_text(layers, prompt_shape(request, prompt)):
        yield Calls(key=_key(Stage.PREFILL, node), costs=((1, node.description.own(node.shape)),))
    yield from _decode(layers, request, prompt)


def _decode(layers: DeepseekOCRModel, request: PageRequest, prompt: int) -> Iterator[Calls]:
    """Yield the decode steps, each key longer by one.

    What does not see the cache costs the same at every step; of the rest, equal layers share one description.
    """
    experts, steps = request.decode_experts or request.experts, request.decode_tokens
    shapes = [text_shape(request, prompt, 1, prompt + step + 1, experts) for step in range(steps)]
    priced: dict[int, tuple[tuple[int, Cost], ...]] = {}
    for node in walk_text(layers, shapes[0]) if shapes else ():
        description = node.description
        if node.shape is not shapes[0]:
            yield Calls(key=_key(Stage.DECODE, node), costs=((steps, description.own(node.shape)),))
            continue
        if id(description) not in priced:
            priced[id(description)] = tuple((1, description.own(shape)) for shape in shapes)
        yield Calls(key=_key(Stage.DECODE, node), costs=priced[id(description)])


def _key(stage: Stage, node: Node) -> Key:
    kind = LayerKind.REST if _is_container(node.description, node.shape) else node.kind
    return stage, node.path.split(".")[0], kind, node.layer


def _is_container(description: Layer, shape: CallShape) -> bool:
    return bool(description.children(shape))
