"""Calls that are only timed: what hooks do inside a forward whose shape they have seen, while no tool listens.

Then nothing has to be known when a call begins. A call logs which it is, when it began and when it ended; the forward
around it says stage, step and KV length once. What each call cost and which lay in which is worked out when records are
read: calls are logged as they end, so a call contains the logged ones that began after it.
"""

from array import array
from collections.abc import Iterator

from attrs import define, frozen

from dsocr_nvtx.hooks.places import Key, Place
from dsocr_nvtx.schema.records import Stage

WIDTH = 3
"""Numbers logged per call: its code, start and end."""


def token_of(frame: int, stage: int) -> int:
    """Return the number of a forward's shape in a stage."""
    return frame * len(Stage) + stage


@define(eq=False)
class QuickFrame:
    """A forward whose calls were only timed: the range around them, and the log of the calls."""

    first_id: int
    parent_id: int
    stage: int
    step: int
    kv: tuple[int, int]
    thread_id: int
    log: "array[int]"

    def __len__(self) -> int:
        return len(self.log) // WIDTH

    def event_at(self, ended: int) -> int:
        """Return the event id of the innermost call that was open when ``ended`` calls had ended: the next one to end.

        True of whatever calls no hooked module before it ends itself; with no logged call around, the forward's range.
        """
        return self.first_id + ended if ended < len(self) else self.parent_id

    def calls(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (event id, parent's, code, start, end) of every call, in the order in which they ended."""
        starts = self.log[1::WIDTH]
        parents, loose = [self.parent_id] * len(self), list[int]()
        for number, start in enumerate(starts):
            while loose and starts[loose[-1]] >= start:
                parents[loose.pop()] = self.first_id + number
            loose.append(number)
        for number, parent in enumerate(parents):
            code, start, end = self.log[number * WIDTH : (number + 1) * WIDTH]
            yield self.first_id + number, parent, code, start, end


@frozen
class QuickCall:
    """What a code in the log stands for: a place, and the key of its calls but for the KV length."""

    place: Place
    key: Key

    def key_at(self, kv: tuple[int, int]) -> Key:
        """Return the key of a call with so many keys and slots in the cache."""
        return (*self.key[:2], *kv, *self.key[4:]) if self.place.grows else self.key
