"""Where taps sit and what they hold: places and their prices, what a thread has open, bound payloads."""

from collections.abc import Callable
from threading import get_native_id, local
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, CallShape, Cost, LayerKind, Level, code_of

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.repeats import Repeat
    from dsocr_nvtx.hooks.scripts import Learned, ScriptFrame
    from dsocr_nvtx.hooks.tap import Tap

Key = tuple[Any, ...]


@frozen(eq=False)
class Priced:
    """A call's shape with what it costs, ``own_activation_bytes`` as in `RangeRecord`; ``words``: both as payload."""

    shape: CallShape
    cost: Cost
    own_activation_bytes: int
    words: npt.NDArray[np.int64] = field(init=False)

    @words.default
    def _words(self) -> npt.NDArray[np.int64]:
        shape, costs = self.shape, [getattr(self.cost, name) for name in COST_FIELDS]
        return np.array([shape.batch, shape.tokens, shape.kv_len, *costs, self.own_activation_bytes], "<i8")


NOTHING = Priced(CallShape(), Cost(), 0)


@frozen(kw_only=True, eq=False)
class Place:
    """Where a tap sits in the network, and how its calls are read and priced.

    ``read`` turns a call's arguments into the key that its cost depends on; ``price`` turns the key into a cost.
    ``is_vision`` and ``is_model`` say how the stage is inferred where nobody set one. ``framed``: inside a forward of
    the model every call has the shape that the forward gives it, so it need not be read again. ``grows``: the cost
    depends on the KV length, which is the third number of the key. ``rest`` names a range for what
    the container does itself after this call (residual additions, reshapes, masks, sampling), so that a timeline
    shows it by name.
    """

    path: str
    kind: LayerKind
    level: Level
    layer: int | None
    read: Callable[[tuple[Any, ...], dict[str, Any], "State"], Key]
    price: Callable[[Key], Priced]
    is_vision: bool = False
    is_model: bool = False
    framed: bool = False
    grows: bool = False
    dtype: str = "bfloat16"
    rest: "Rest | None" = None


@frozen(kw_only=True)
class Rest:
    """A container's own work after one of its calls: the range's path, and the container (None: any step)."""

    path: str
    container: str | None

    def place(self, like: Place) -> Place:
        """Return the place of that range, beside the call that it follows and no finer than that."""
        layer = like.layer if self.container else None
        return Place(
            path=self.path,
            kind=LayerKind.REST,
            level=like.level,
            layer=layer,
            read=no_key,
            price=nothing,
            dtype=like.dtype,
        )


def no_key(_args: tuple[Any, ...], _kwargs: dict[str, Any], _state: "State") -> Key:
    """Return the key of a range whose cost depends on nothing."""
    return ()


def nothing(_key: Key) -> Priced:
    """Return the cost of a range that has none of its own."""
    return NOTHING


Frame = tuple[int, tuple[int, int], str]
"""A forward of the model as the calls inside see it: its shape's number, (kv_len, kv_slots), experts implementation."""

OpenRange = tuple[int, int, Place, bool]
"""A range that is open on a thread: event id, stage, place, and whether the stage was said rather than inferred."""

Opened = tuple[int, int, int, int, int, Any, "Frame | None", int]
"""What closes a range: event id, parent's, number of its cost, stage, step, timing event, outer frame, start."""


class State:
    """What one thread has open, and the id of its next range.

    ``token`` is set inside a forward whose calls are known, and are only timed, into ``log``: see
    `dsocr_nvtx.hooks.quick`. ``notes`` takes the experts chosen in it, three items a call: the layer's number, the
    length of the log, the indices; None where nobody wants them. Where a tool listens, ``scripted`` tells of the calls,
    ``at`` which of them comes next, ``script_rest`` which range of a container's own work is open and since when, and
    ``lesson`` is what a forward teaches: see `dsocr_nvtx.hooks.scripts`. ``last`` is the forward before, where the next
    may be like it: see `dsocr_nvtx.hooks.repeats`.
    """

    __slots__ = (
        "at", "frame", "last", "lesson", "log", "native_id", "next_id", "notes", "open", "rest", "script_rest",
        "scripted", "token",
    )  # fmt: skip

    def __init__(self, block: int) -> None:
        self.next_id = block << 40  # ids of different threads lie in different blocks, so they never meet
        self.native_id = get_native_id()
        self.open: list[OpenRange] = []
        self.frame: Frame | None = None
        self.rest: tuple[Tap, Opened] | None = None
        self.script_rest: tuple[int, int] | None = None
        self.token: int | None = None
        self.log: list[int] = []
        self.notes: list[Any] | None = None
        self.scripted: ScriptFrame | None = None
        self.at = 0
        self.lesson: list[Learned] | None = None
        self.last: Repeat | None = None


class Threads(local):
    """The state of each thread, made when the thread is first seen."""

    def __init__(self, taken: Callable[[], int]) -> None:
        self.state = State(taken())


class Slot:
    """A tap in one stage: its bound range attributes, its payload, and the key that the payload holds now."""

    __slots__ = ("array", "attributes", "epoch", "frame", "growth", "key", "number", "round", "words")

    def __init__(self, place: Place, stage: int, emitter: Emitter) -> None:
        self.array = np.zeros(len(PAYLOAD_FIELDS), "<i8")
        self.words = self.array.data  # a flat view: writing an element takes a third of what numpy's own takes
        self.key: Key | None = None
        self.number = 0
        self.frame = 0
        self.epoch = -1
        self.round = -1
        self.growth: npt.NDArray[np.int64] | None = None
        self.words[FIELD_INDEX["stage"]] = stage
        self.words[FIELD_INDEX["layer"]] = -1 if place.layer is None else place.layer
        self.words[FIELD_INDEX["kind"]] = code_of(place.kind)
        self.words[FIELD_INDEX["level"]] = code_of(place.level)
        self.words[FIELD_INDEX["dtype"]] = list(DTYPE_BYTES).index(place.dtype)
        self.attributes = emitter.prepare(place.path, stage, self.array)

    def hold(self, key: Key, priced: Priced, number: int) -> None:
        """Put another call's cost, known by ``number``, into the payload; it is announced before the next push."""
        self.array[FIELD_INDEX["batch"] :] = priced.words
        self.key, self.number, self.epoch = key, number, -1
