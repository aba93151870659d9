"""Steps captured into CUDA graphs: what the captured calls were, and what each launch of the graph stands for.

A replay fires no hooks while the KV cache grows, so nothing is done per module when a graph is launched, but for
announcing, where a tool listens, how long the cache is. The calls that a replay stands for are written out when records
are read.
"""

from time import perf_counter_ns

from attrs import field, frozen

from dsocr_nvtx.hooks.calls import FIRST_REPLAYED, CallLog, Forward
from dsocr_nvtx.hooks.prices import ForwardCosts
from dsocr_nvtx.hooks.threads import Frame
from dsocr_nvtx.schema.records import Stage


@frozen(eq=False)
class Capture:
    """A captured step: its stage, its forwards, and the kinds of them whose costs depend on the cache's length."""

    stage: Stage
    forwards: list[Forward]
    kinds: list[ForwardCosts]


@frozen(eq=False)
class Replay:
    """One launch of a captured step: its KV length, step, the range around it, and when it was about to be launched."""

    capture: Capture
    kv_len: int
    step: int
    parent_id: int | None
    time_ns: int
    thread_id: int

    def length(self, forward: Forward) -> int:
        """Return the KV length of one of its forwards; 0 for what has no cache."""
        return self.kv_len if forward.kv_len else 0


def replayed_ids(replays: list[Replay]) -> list[dict[int, int]]:
    """Return, of each replay, the event ids of its calls by those of the calls that were captured."""
    found, first = [], FIRST_REPLAYED
    for replay in replays:
        calls = [call for forward in replay.capture.forwards for call in forward.calls]
        captured = sorted(calls, key=lambda call: (call.end_ns, -call.event_id))  # in the order in which they ended
        found.append({call.event_id: first + number for number, call in enumerate(captured)})
        first += len(captured)
    return found


@frozen(eq=False)
class CompiledGraphs:
    """The calls that went into CUDA graphs which torch.compile made, and what their launches stand for.

    A forward may be made of several graphs, each captured when it is ready, with calls between them that are heard. So
    calls are kept one by one, by kind of forward and stage: of every site those that were captured last.
    """

    log: CallLog
    replays: list[Replay] = field(factory=list)
    captured: dict[tuple[int, Stage], list[Forward]] = field(factory=dict)
    """The calls that were captured, by the number of their kind of forward and its stage."""

    def closed(self, frame: Frame, thread_id: int) -> None:
        """Note, of a forward that was kept, the calls that were captured, and those for which a launched graph stood.

        The latter are the calls that were captured in a forward of this kind, of sites that were not heard in this one.
        """
        key = frame.costs.number, frame.stage
        if frame.captured or not (frame.graphed or key in self.captured):
            return
        inside = [forward for forward in self.log.since(frame.begins_at) if forward.thread_id == thread_id]
        fresh = [forward for forward in inside if forward.captured]
        known = self.captured[key] = [*_without(self.captured.get(key, []), fresh), *fresh]
        stood_for = _without(known, [forward for forward in inside if not forward.captured])
        if stood_for:
            capture = Capture(frame.stage, stood_for, [])
            replay = Replay(capture, frame.kv_len, frame.step, frame.event_id, perf_counter_ns(), thread_id)
            self.replays.append(replay)


def _without(forwards: list[Forward], heard: list[Forward]) -> list[Forward]:
    """Return forwards without the calls of sites that were called in others."""
    sites = {call.site for forward in heard for call in forward.calls}
    left = [forward._replace(calls=[call for call in forward.calls if call.site not in sites]) for forward in forwards]
    return [forward for forward in left if forward.calls]
