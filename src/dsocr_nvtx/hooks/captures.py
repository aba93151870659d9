"""Steps captured into CUDA graphs: what the captured calls were, and what each launch of the graph costs.

A replay fires no hooks while the KV cache grows, so nothing is done per module when a graph is launched, but for
announcing, where a tool listens, how long the cache is. The calls that a replay stands for are
written out when records are read.
"""

from collections.abc import Iterator

from attrs import frozen

from dsocr_nvtx.hooks.places import Key, Place
from dsocr_nvtx.hooks.rows import FIRST_REPLAYED, Row


@frozen(eq=False)
class Capture:
    """A captured step: its stage, its calls in the order in which they ended, and the keys of those that grow."""

    stage: int
    rows: list[Row]
    keys: dict[Place, Key]

    def key(self, place: Place, kv_len: int) -> Key:
        """Return the key of a place's call in a replay with so many keys in the cache."""
        key = self.keys[place]
        return (*key[:2], kv_len, *key[3:])

    def is_full(self, place: Place, kv_len: int) -> bool:
        """Return whether so many keys fill the cache: costs grow evenly until then."""
        return bool(kv_len >= self.keys[place][3])


@frozen(eq=False)
class Replay:
    """One launch of a captured step: its KV length, step, the range around it, and when it was about to be launched."""

    capture: Capture
    kv_len: int
    step: int
    parent_id: int | None
    time_ns: int
    thread_id: int


def replayed_rows(replays: list[Replay]) -> Iterator[Row]:
    """Yield every call of every replay: as it was captured, at the step, cache length and time of the launch."""
    for replay, ids in zip(replays, replayed_ids(replays), strict=True):
        for row in replay.capture.rows:
            grows = row.place in replay.capture.keys
            yield row._replace(
                event_id=ids[row.event_id],
                parent_id=replay.parent_id if row.parent_id is None else ids.get(row.parent_id, replay.parent_id),
                priced=row.place.price(replay.capture.key(row.place, replay.kv_len)) if grows else row.priced,
                step=replay.step,
                start_ns=replay.time_ns,
                end_ns=replay.time_ns,
                thread_id=replay.thread_id,
                origin="replayed",
            )


def replayed_ids(replays: list[Replay]) -> list[dict[int, int]]:
    """Return, of each replay, the event ids of its calls by those of the calls that were captured."""
    found, first = [], FIRST_REPLAYED
    for replay in replays:
        found.append({row.event_id: first + number for number, row in enumerate(replay.capture.rows)})
        first += len(replay.capture.rows)
    return found
