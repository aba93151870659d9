"""Calls that are known beforehand while a tool listens: the payloads of a whole forward are laid out before it begins.

The first decode step of a shape is learned: which calls come in which order, what each costs, and by how much the cost
grows with each key in the cache. In later ones a call only pushes the record that waits for it and pops it again. A
call that comes out of turn ends that: it and those after it are read and priced one by one, and the next forward is
learned anew.
"""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsocr_nvtx.hooks.places import Key, Place, Slot
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.payload_v1 import announcement_v1 as announcement
from dsocr_nvtx.schema.payload_v1 import growth_announcement_v1 as growth_announcement

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.tap import Tap

_EVENT, _STEP, _KV = FIELD_INDEX["event_id"], FIELD_INDEX["step"], FIELD_INDEX["kv_len"]
_BATCH = FIELD_INDEX["batch"]

Words = npt.NDArray[np.int64]

Plan = tuple[int, object, int, object]
"""A call in a script: position and attributes; then those of the range of its container's work, or -1 and None."""


class Learned(NamedTuple):
    """A range as it was pushed while a forward was learned; ``after``: the call that a container's work followed.

    ``key`` and ``words`` are what its slot held then: other threads may have used the slot since.
    """

    event_id: int
    parent_id: int
    tap: "Tap"
    slot: Slot
    after: "Tap | None"
    key: Key
    words: Words


def growth(place: Place, key: Key) -> Words | None:
    """Return what one more key in the cache adds to each field of a place's payload; None where it is not even."""
    if not place.grows:
        return np.zeros(len(PAYLOAD_FIELDS), np.int64)
    one, two, three = (place.price((*key[:2], key[2] + more, *key[3:])).words for more in range(3))
    if (three - two != two - one).any():
        return None
    return np.concatenate([np.zeros(_BATCH, np.int64), two - one])


def alike(key: Key, other: Key) -> bool:
    """Return whether keys of a growing place differ only in a length of the cache that costs grow evenly with."""
    return key[:2] == other[:2] and key[3:] == other[3:] and (key[2] >= key[3]) == (other[2] >= other[3])


class Script:
    """The calls of a forward: the payload of each, in the order of their pushes, up to date for one step.

    ``head`` is the forward's own range, which a forward that repeats the one before pushes from here too.
    ``lock`` is held by the forward that follows the script: its payloads are of one thread at a time.
    """

    def __init__(
        self, head: Learned, calls: list[Learned], increments: Words, kv_len: int, attributes: Callable[..., object]
    ) -> None:
        self.head, self.calls, self.kv_len = head, calls, kv_len
        self.lock = Lock()
        self.epoch = self.number = -1
        self.codes: list[int] = []
        self.parents = [call.parent_id - calls[0].event_id for call in calls]  # of the forward itself: negative
        self._increments, self._all = increments, np.stack([call.words for call in (head, *calls)])
        self._all[:, _EVENT] = head.event_id + np.arange(len(self._all))
        self.first_id, self.step = calls[0].event_id, int(head.words[_STEP])
        self._all[:, _STEP] = self.step
        self._change, self._stride = (0, 0, 0), np.zeros_like(self._all)
        self.increments, self.records = increments[1:], self._all[1:]
        stage = FIELD_INDEX["stage"]
        self.head_words: Any = self._all[0]
        self.head_attributes, *self.attributes = (
            attributes(call.tap.place.path, int(record[stage]), record)
            for call, record in zip((head, *calls), self._all, strict=True)
        )

    def plans(self) -> dict["Tap", Plan]:
        """Return the plan of every call."""
        found: dict[Tap, Plan] = {}
        for position, call in enumerate(self.calls):
            if call.after is None:
                found[call.tap] = (position, self.attributes[position], -1, None)
            else:
                found[call.after] = (*found[call.after][:2], position, self.attributes[position])
        return found

    def fill(self, first_id: int, step: int, kv_len: int) -> None:
        """Bring all payloads up to date: one addition, as steps mostly differ by what the two before differed by."""
        change = (first_id - self.first_id, step - self.step, kv_len - self.kv_len)
        if change != self._change:
            self._change, self._stride = change, self._increments * change[2]
            self._stride[:, _EVENT], self._stride[:, _STEP] = change[:2]
        self._all += self._stride
        self.first_id, self.step, self.kv_len = first_id, step, kv_len

    def holds(self) -> bool:
        """Return whether what grew is what a call of the present KV length costs."""
        return all(
            (record[_BATCH:] == call.tap.price((*call.key[:2], self.kv_len, *call.key[3:])).words).all()
            for call, record in zip((self.head, *self.calls), self._all, strict=True)
            if call.tap.place.grows
        )

    def announce(self, mark: Callable[[str], object], *, only_growing: bool) -> None:
        """Announce the costs of all calls, or of those that grow; the first record's event must be the next range's."""
        for call in self.calls:
            call.slot.epoch = -1  # a call that is read and priced announces again
        event = int(self.records[0, _EVENT])
        told = set()
        for call, record, more in zip(self.calls, self.records.tolist(), self.increments.tolist(), strict=True):
            path, grows = call.tap.place.path, call.tap.place.grows
            if path in told or (only_growing and not grows):
                continue
            told.add(path)
            record[_EVENT] = event
            mark(growth_announcement(path, record, more) if grows else announcement(path, record))


def learned(lesson: list[Learned], kv_len: int, attributes: Callable[..., object]) -> Script | None:
    """Return the script of a forward, its own range first in the lesson; None where it has none.

    A forward has one if every call in it came once, with nothing unknown between, and every cost grows evenly.
    """
    calls = [call.tap for call in lesson if call.after is None]
    ids = [call.event_id for call in lesson]
    if len(lesson) < 2 or len(set(calls)) < len(calls) or ids != list(range(ids[0], ids[0] + len(ids))):
        return None
    increments = [growth(call.tap.place, call.key) for call in lesson]
    found = [one for one in increments if one is not None]
    return Script(lesson[0], lesson[1:], np.stack(found), kv_len, attributes) if len(found) == len(lesson) else None


class ScriptFrame:
    """A forward whose calls followed a script: the range around them, and the log of (position, start, end)."""

    WIDTH = 3

    def __init__(
        self, script: Script, first_id: int, parent_id: int, stage: int, step: int, kv: tuple[int, int],
        thread_id: int, log: Any,
    ) -> None:  # fmt: skip
        self.script, self.first_id, self.parent_id = script, first_id, parent_id
        self.stage, self.step, self.kv, self.thread_id, self.log = stage, step, kv, thread_id, log

    def __len__(self) -> int:
        return len(self.log) // self.WIDTH

    def event_at(self, ended: int) -> int:
        """Return the event id of the innermost call that was open when ``ended`` ranges had ended: the next to end."""
        return self.first_id + self.log[ended * self.WIDTH] if ended < len(self) else self.parent_id

    def calls(self) -> Any:
        """Yield (event id, parent's, code, start, end) of every call, in the order in which they ended."""
        for at in range(0, len(self.log), self.WIDTH):
            position, start, end = self.log[at : at + self.WIDTH]
            parent = self.script.parents[position]
            around = self.first_id + parent if parent >= 0 else self.parent_id
            yield self.first_id + position, around, self.script.codes[position], start, end
