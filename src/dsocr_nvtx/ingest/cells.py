"""The cells of SQLite's table pages: rows as a header of types and the values after it, read with numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class NotPlain(Exception):
    """These pages are not the plain case; SQLite itself must read them."""


@frozen(eq=False)
class Chunk:
    """The rows of some leaf pages: where each row's header and body lie in ``flat``, and how much is on the page.

    ``words`` is ``flat`` as big-endian numbers of eight bytes.
    """

    flat: Bytes
    words: npt.NDArray[np.uint64]
    rowid: Ints
    header: Ints
    header_end: Ints
    body_end: Ints


def varint(flat: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """Return (values, positions after them) of SQLite's variable-length numbers."""
    first = flat.take(at, mode="clip")
    value = (first & 0x7F).astype(np.int64)
    after = at + 1
    more = np.flatnonzero(first & 0x80)
    for length in range(2, 10):
        if not len(more):
            break
        rows = slice(None) if len(more) == len(at) else more  # mostly all are of one length, and nothing is picked
        byte = flat.take(at[rows] + (length - 1), mode="clip")
        value[rows] = value[rows] << 8 | byte if length == 9 else value[rows] << 7 | byte & 0x7F
        after[rows] += 1
        more = more[byte >= 0x80] if length < 9 else more[:0]
    return value, after


_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0], np.int64)
_SHORT_SIZES = np.array([*_SIZES, *((kind - 12) // 2 for kind in range(12, 128))], np.int64)

PADDING = 256
"""Bytes after the last page in a chunk, so that wide loads stay inside."""


Kinds = npt.NDArray[np.signedinteger | np.uint8]
"""Serial types: what a value is and how long; -1 for a value that the row lacks."""


def fields(chunk: Chunk, positions: Sequence[int]) -> dict[int, tuple[Kinds, Ints]]:
    """Return (serial type, place of the value) per row for each wanted column; type -1 where a row has no such column.

    A row has none when the column was added to the table after it was written.
    """
    count = max(positions, default=-1) + 1
    found = _short_fields(chunk, set(positions), count)
    return _any_fields(chunk, set(positions), count) if found is None else found


def _short_fields(chunk: Chunk, positions: set[int], count: int) -> dict[int, tuple[Kinds, Ints]] | None:
    """Return fields where every type of every row is one byte; else None."""
    if count > PADDING or not len(chunk.header) or (chunk.header + count > chunk.header_end).any():
        return None
    kinds = np.ascontiguousarray(windows(chunk.flat, chunk.header, count).T)
    if kinds.size and kinds.max() >= 0x80:
        return None
    found: dict[int, tuple[Kinds, Ints]] = {}
    place, skipped = chunk.header_end, 0
    alike = (kinds == kinds[:, :1]).all(axis=1).tolist()
    for position, kind in enumerate(kinds):
        if position in positions:
            found[position] = (kind, place + skipped if skipped else place)
        if alike[position]:  # all rows' values are of one size: nothing is looked up
            skipped += int(_SHORT_SIZES[kind[0]])
        else:
            place = place + _SHORT_SIZES.take(kind, mode="clip")
    return found


def _any_fields(chunk: Chunk, positions: set[int], count: int) -> dict[int, tuple[Kinds, Ints]]:
    found: dict[int, tuple[Kinds, Ints]] = {}
    at, place = chunk.header, chunk.header_end
    for position in range(count):
        kind, after = varint(chunk.flat, at)
        missing = at >= chunk.header_end
        if missing.any():
            kind[missing], after[missing] = 0, at[missing]
        if kind.size and (kind.max() > 1 << 32 or kind.min() < 0):
            raise NotPlain("a value longer than any")
        if position in positions:
            found[position] = (np.where(missing, -1, kind), place)
        if kind.size and (kind == kind[0]).all():
            size = (kind[:1] - 12) >> 1 if kind[0] >= 12 else _SIZES[kind[:1]]
        else:
            size = np.where(kind >= 12, (kind - 12) >> 1, _SIZES.take(kind, mode="clip"))
        at, place = after, place + size
    return found


def integers(chunk: Chunk, kind: Kinds, place: Ints, null: int) -> Ints:
    """Return the integers of one column; ``null`` for NULL and for a column that the row lacks."""
    low, high = (int(kind.min()), int(kind.max())) if kind.size else (0, 0)
    if high > 9 or (high >= 7 and (kind == 7).any()):
        raise NotPlain("a value that is not an integer")
    if low == high and high in (-1, 0, 8, 9):  # one constant, which takes no room
        return np.full(len(kind), null if high <= 0 else high - 8, np.int64)
    size = _SIZES.take(kind, mode="clip") if low >= 0 else np.where(kind < 0, 0, _SIZES.take(kind, mode="clip"))
    if ((place + size > chunk.body_end) & (size > 0)).any():
        raise NotPlain("an integer beyond the page")
    if high == 1:
        value = chunk.flat.take(place, mode="clip").view(np.int8).astype(np.int64)
    else:
        value = _load(chunk.words, place) >> (64 - 8 * (_SIZES[high] if low == high else np.maximum(size, 1)))
    if low == high:
        return value
    value[size == 0] = 0
    value[kind == 9] = 1
    value[kind <= 0] = null
    return value


def _load(words: npt.NDArray[np.uint64], place: Ints) -> Ints:
    """Return the eight bytes at each place as a big-endian signed number: two aligned loads, shifted together."""
    word = place >> 3
    shift = ((place & 7) << 3).astype(np.uint64)
    high = words.take(word, mode="clip") << shift
    # Shifting by 64 gives 0 in numpy, which is what a place that is aligned needs.
    low = words.take(word + 1, mode="clip") >> (np.uint64(64) - shift)
    return (high | low).view(np.int64)


def spans(chunk: Chunk, kind: Kinds, place: Ints) -> tuple[Ints, Ints]:
    """Return (place, length) of texts or blobs; length -1 for NULL, -2 for what continues on overflow pages."""
    kind = kind.astype(np.int64)
    if ((kind > 0) & (kind < 12)).any():
        raise NotPlain("a number where text should be")
    length = np.where(kind >= 12, (kind - 12) >> 1, -1)
    return place, np.where((length > 0) & (place + length > chunk.body_end), -2, length)


def windows(flat: Bytes, place: Ints, width: int) -> Bytes:
    """Return the bytes at each place, [places, width]: not copied where places lie evenly, else one copy per place."""
    if width == 0 or not len(place):
        return np.empty((len(place), width), np.uint8)
    step = int(place[1] - place[0]) if len(place) > 1 else width
    if place.min() < 0 or int(place.max()) + width > len(flat):
        raise NotPlain("a value beyond the pages")
    if step >= width and (np.diff(place) == step).all():
        whole = flat[int(place[0]) : int(place[-1]) + width]
        return np.lib.stride_tricks.as_strided(whole, (len(place), width), (step, 1), writeable=False)
    overlapping: npt.NDArray[np.void] = np.ndarray((len(flat) - width + 1,), f"V{width}", flat, strides=(1,))
    return overlapping[place].view(np.uint8).reshape(len(place), width)


def gather(flat: Bytes, place: Ints, length: Ints) -> tuple[Bytes, Ints]:
    """Return (all bytes end to end, where each value begins and the last ends)."""
    begins = np.concatenate([[0], np.cumsum(length)])
    if len(length) and (length == length[0]).all():
        return windows(flat, place, int(length[0])).reshape(-1), begins
    from_here = np.repeat(place - begins[:-1], length)
    from_here += np.arange(begins[-1])
    return flat.take(from_here), begins
