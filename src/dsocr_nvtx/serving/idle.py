"""Ranges without a cost of their own: around the steps of a serving engine, and around what its host does besides."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from attrs import define, field

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.prices import ForwardCosts, NoWork
from dsocr_nvtx.hooks.sites import Site, idle_site
from dsocr_nvtx.schema.payload import FIELD_INDEX
from dsocr_nvtx.schema.records import HOST_PREFIX, STEP_PREFIX, CallShape, LayerKind, Stage

HOST_WORK = (
    "engine", "preprocessing", "tokenizing", "scheduling", "preparing", "encoding", "logits_processors", "sampling",
    "detokenizing", "output",
)  # fmt: skip
"""What an engine's host does besides the model; ``engine`` is its own loop around all of it."""

_EVENT, _STEP = FIELD_INDEX["event_id"], FIELD_INDEX["step"]


def idle_sites(first: int) -> list[Site]:
    """Return the sites of steps and of host work, numbered from ``first``."""
    steps = [(f"{STEP_PREFIX}{stage}", LayerKind.REST) for stage in Stage]
    host = [(f"{HOST_PREFIX}{what}", LayerKind.HOST) for what in HOST_WORK]
    return [idle_site(path, kind, first + number) for number, (path, kind) in enumerate([*steps, *host])]


@define(eq=False)
class IdleRanges:
    """The idle ranges of one process. What goes wrong in here goes to ``fail``, never to the engine.

    While they are ``paused`` no range is opened, nor is a step begun: what hooks cost is measured so, step by step.
    """

    forwards: Forwards
    fail: Callable[[str, Exception], None]
    _costs: dict[str, ForwardCosts] = field(factory=dict)
    paused: bool = False

    @classmethod
    def on(cls, forwards: Forwards, sites: Iterable[Site], fail: Callable[[str, Exception], None]) -> "IdleRanges":
        """Return the ranges of some sites, beside the forwards of a session: event ids count all of a thread."""
        costs = {site.path: forwards.prices.of(site, NoWork(), CallShape()) for site in sites}
        return cls(forwards, fail, costs)

    def push(self, path: str) -> int | None:
        """Open a range on the calling thread, in the stage and step under way there; return its event id."""
        forwards, costs = self.forwards, self._costs[path]
        if self.paused or not forwards.emitter.active:
            return None
        try:
            state = forwards.threads.state
            stage = Stage.HOST if state.frame is None else state.frame.stage
            table = state.table(costs, stage, 0, forwards.emitter)
            if table.attributes[costs.root.number] is None:
                table.admit(costs.root.number)
            event_id = state.next_id
            table.words[_EVENT], table.words[_STEP] = event_id, forwards.step(stage)
            forwards.emitter.push(table.attributes[costs.root.number])
            state.next_id = event_id + 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine must go on
            self.fail(path, error)
            return None
        return event_id

    def pop(self, path: str, event_id: int | None) -> None:
        """Close the range that `push` opened, if it did."""
        if event_id is None:
            return
        try:
            self.forwards.emitter.pop()
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(path, error)


def around(inner: Callable[..., Any], what: str, ranges: Callable[[], IdleRanges | None]) -> Callable[..., Any]:
    """Return ``inner`` in a range of host work, of the ranges that the process has when it is called."""
    path = f"{HOST_PREFIX}{what}"

    @wraps(inner)
    def hosted(*args: Any, **kwargs: Any) -> Any:
        idle = ranges()
        event_id = idle.push(path) if idle is not None else None
        try:
            return inner(*args, **kwargs)
        finally:
            if idle is not None:
                idle.pop(path, event_id)

    return hosted


def bare_forwards(emitter: Emitter) -> tuple[Forwards, list[Site]]:
    """Return forwards, and the sites of idle ranges, for a process that has no model."""
    sites = idle_sites(0)
    return Forwards(sites, emitter, record=False, on_gpu=False), sites
