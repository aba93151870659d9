"""Steps captured into CUDA graphs: what the captured calls were, and what each launch of the graph stands for.

A replay fires no hooks while the KV cache grows, so nothing is done per module when a graph is launched, but for
announcing, where a tool listens, how long the cache is. The calls that a replay stands for are written out when records
are read.
"""

from attrs import frozen

from dsocr_nvtx.hooks.calls import FIRST_REPLAYED, Forward
from dsocr_nvtx.hooks.prices import ForwardCosts
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
