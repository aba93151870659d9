"""Forwards like the one before: the same cache, one token longer, is what decoding calls the model with.

Reading and pricing a forward runs through some thirty functions, once per step and so never from the processor's
caches, which takes longer than the ranges of all layers. What a decode step's forward shares with the one before it is
therefore kept, and one function compares it. Any other forward, or one whose step nobody opened, is read.
"""

from array import array
from collections.abc import Callable
from functools import wraps
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from torch import Size
from torch.compiler import is_compiling

from dsocr_nvtx.hooks.places import Key, Place, State
from dsocr_nvtx.hooks.quick import WIDTH as LOGGED
from dsocr_nvtx.hooks.quick import QuickFrame
from dsocr_nvtx.hooks.rows import NO_SCRIPT
from dsocr_nvtx.hooks.scripts import ScriptFrame
from dsocr_nvtx.hooks.stage import stage_now
from dsocr_nvtx.hooks.wrappers import Method, Reading, unseen
from dsocr_nvtx.schema.records import Level, Stage

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.shapes import ModelReader
    from dsocr_nvtx.hooks.tap import Tap

_EXPERTS = ("_experts_implementation_internal", "_experts_implementation")
"""Where configurations keep the experts' implementation, newest first."""


class Repeat:
    """What a forward that is known must have in common with the next: of decode steps only."""

    __slots__ = (
        "around", "cache", "code", "config", "context", "experts", "experts_name", "frame", "held", "key", "logits",
        "said", "script", "shape", "slots", "stage", "token",
    )  # fmt: skip

    def __init__(self, key: Key, config: Any, kwargs: dict[str, Any], held: list[int] | None, around: Place) -> None:
        self.key, self.slots, self.held, self.around = key, key[3], held, around
        self.cache, self.shape = ref(kwargs["past_key_values"]), kwargs["input_ids"].shape
        self.logits = kwargs.get("logits_to_keep")
        self.config: dict[str, Any] = object.__getattribute__(config, "__dict__")
        self.experts_name = next((name for name in _EXPERTS if name in self.config), _EXPERTS[0])
        self.experts = self.config.get(self.experts_name)
        self.context: Stage = stage_now()
        self.frame, self.stage, self.said, self.code = 0, 0, False, 0
        self.token: int | None = None
        self.script: Any = None


def repeat_of(tap: "Tap", state: State, stage: int, kwargs: dict[str, Any]) -> Repeat | None:
    """Return what the next forward may have in common with this one, still open; None where it cannot be told."""
    reader, slot = tap.place.read, tap.slots[stage]
    cache: Any = kwargs.get("past_key_values")
    ids, around = kwargs.get("input_ids"), _step_around(state)
    key = slot.key if slot is not None else None
    if key is None or state.frame is None or key[1] != 1 or key[2] < 2:
        return None
    plain = isinstance(getattr(ids, "shape", None), Size) and type(kwargs.get("logits_to_keep")) in (int, type(None))
    if not plain or around is None or not getattr(cache, "layers", None):
        return None
    if hasattr(cache, "key_cache") or hasattr(cache.layers[0], "prefill_keys") or not type(cache).__weakrefoffset__:
        return None
    if (key[0], *key[2:5]) != (cast("Any", ids).shape[0], *state.frame[1], state.frame[2]):
        return None  # another thread has used the slot since
    held = cast("ModelReader", reader).caches.counted.get(cache) if key[3] else None
    if key[3] and held is None:
        return None
    found = Repeat(key, cast("ModelReader", reader).config, kwargs, held, around)
    found.frame, found.stage, found.said = state.frame[0], stage, state.open[-1][3]
    found.token = state.token
    found.script = state.scripted.script if state.scripted is not None else None
    found.code = tap.shared.rows.code(tap.place, key) if tap.shared.rows is not None else 0
    return found


def _step_around(state: State) -> Place | None:
    """Return the place of the range around the forward that is open, if that is a step of a stage."""
    around = state.open[-2][2] if len(state.open) > 1 else None
    return around if around is not None and around.level is Level.STAGE and not around.is_model else None


def repeated(  # noqa: C901, PLR0915 - one function: the module says why
    tap: "Tap", inner: Method, read: Reading, fail: Callable[[Exception], None]
) -> Method:
    """Return the model's forward, its calls known by the one before where they can be."""
    shared, place, forwards, rest = tap.shared, tap.place, tap.forwards, tap.rest
    threads, steps, active, pop = shared.threads, tap.counters.steps, tap.active, tap.pop
    edge, follows = shared.emitter.edge, forwards.follows
    keep = shared.rows.append_repeat if shared.rows is not None else None

    def priced(last: Repeat, kv: tuple[int, int]) -> int:
        key = (*last.key[:2], *kv, *last.key[4:])
        return shared.rows.late_number(place, key) if shared.rows is not None else 0

    @wraps(inner)
    def hooked(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912, PLR0915 - as above
        state = threads.state
        last, like, kv_len, step = state.last, False, 0, 0
        around = state.open[-1] if state.open else None
        try:
            if last is not None and around is not None and not args:
                cache: Any = kwargs["past_key_values"]
                like = (
                    cache is not None
                    and cache is last.cache()
                    and kwargs["input_ids"].shape == last.shape
                    and kwargs.get("logits_to_keep") is last.logits
                    and last.config.get(last.experts_name) == last.experts
                    and stage_now() is last.context
                    and around[1] == last.stage
                    and around[2] is last.around
                    and state.rest is None
                    and state.token is None
                    and not shared.muted
                    and not shared.is_capturing()
                )
            if like and last is not None:
                kv_len = (last.held[0] if last.held is not None else cache.layers[0].keys.shape[-2]) + 1
                step = steps[last.stage]
                step = step if step > 0 else 0  # max() takes a microsecond here
                like = kv_len > 1 and not (last.slots and kv_len >= last.slots)
                like = like and (not active or follows(last, kv_len, state.next_id + 1, step))
        except Exception:  # noqa: BLE001 - whatever is unlike the last forward is read
            like = False
        if last is None or around is None or not like:
            if is_compiling():
                return inner(*args, **kwargs)
            if active and state.token is not None:  # inside a forward that is known, which did not expect it
                forwards.stray(state)
            return read(state, args, kwargs)
        stage, event_id, outer, first_id = last.stage, state.next_id, state.frame, state.next_id + 1
        if last.held is not None:
            last.held[0] = kv_len
        kv = (kv_len, last.slots)
        state.next_id, state.frame, state.token = first_id, (last.frame, kv, last.key[4]), last.token
        state.open.append((event_id, stage, place, last.said))
        noted = shared.noted
        notes = state.notes = [] if noted is not None and noted.wanted else None
        log = state.log = []
        if active:
            state.at = 0
            state.scripted = ScriptFrame(last.script, first_id, event_id, stage, step, kv, state.native_id, log)
        if edge is not None:
            try:
                edge()
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(error)
        start_ns = perf_counter_ns()
        try:
            return inner(*args, **kwargs)
        finally:
            try:
                if active and state.token is None:  # a call came out of turn
                    tap.leave(state, (event_id, around[0], priced(last, kv), stage, step, None, outer, start_ns))
                else:
                    if active and state.script_rest is not None:
                        forwards.close_script_rest(state)
                    end_ns = perf_counter_ns()
                    if edge is not None:  # at once: what is launched before it counts as this forward's
                        try:
                            edge()
                        except Exception as error:  # noqa: BLE001 - as above
                            fail(error)
                    state.open.pop()
                    state.token, state.frame, state.notes, state.log = None, outer, None, []
                    if active:
                        pop()
                        state.next_id, state.scripted = first_id + state.at, None
                        last.script.lock.release()
                    else:
                        first_id = state.next_id
                        state.next_id = first_id + len(log) // LOGGED
                    if notes and noted is not None:
                        told = (first_id, event_id, stage, step, kv, state.native_id, array("q", log))
                        noted.take(ScriptFrame(last.script, *told) if active else QuickFrame(*told), notes)
                    if keep is not None:
                        number = last.script.number if active else NO_SCRIPT
                        log += (event_id, around[0], last.code, number, stage, step, *kv, first_id, state.native_id,
                                start_ns, end_ns, len(log))  # fmt: skip
                        keep(log)
                    if active and rest is not None:  # the range around this one is a step: the work after it is named
                        rest.begin_rest(state, stage, step, tap)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(error)

    return unseen(hooked, inner)
