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
        byte = flat.take(at[more] + (length - 1), mode="clip").astype(np.int64)
        value[more] = value[more] << 8 | byte if length == 9 else value[more] << 7 | byte & 0x7F
        after[more] += 1
        more = more[byte >= 0x80] if length < 9 else more[:0]
    return value, after


_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0] + [(t - 12) // 2 for t in range(12, 256)], np.int64)


def fields(chunk: Chunk, positions: Sequence[int]) -> dict[int, tuple[Ints, Ints]]:
    """Return (serial type, place of the value) per row for each wanted column; type -1 where a row has no such column.

    A row has none when the column was added to the table after it was written.
    """
    found: dict[int, tuple[Ints, Ints]] = {}
    at, place = chunk.header, chunk.header_end
    ended = False
    for position in range(max(positions, default=-1) + 1):
        kind = chunk.flat.take(at, mode="clip").astype(np.int64)
        after = at + 1
        if (kind >= 0x80).any():
            kind, after = varint(chunk.flat, at)
            if kind.size and (kind.max() > 1 << 32 or kind.min() < 0):
                raise NotPlain("a value longer than any")
        size = _SIZES.take(kind, mode="clip") if not kind.size or kind.max() < 256 else _sizes(kind)
        ended = ended or bool((after > chunk.header_end).any())
        if ended:
            missing = at >= chunk.header_end
            kind, size, after = np.where(missing, -1, kind), np.where(missing, 0, size), np.where(missing, at, after)
        if position in positions:
            found[position] = (kind, place)
        at, place = after, place + size
    return found


def _sizes(kind: Ints) -> Ints:
    return np.where(kind >= 12, (kind - 12) >> 1, _SIZES.take(kind, mode="clip"))


def integers(chunk: Chunk, kind: Ints, place: Ints, null: int) -> Ints:
    """Return the integers of one column; ``null`` for NULL and for a column that the row lacks."""
    if ((kind == 7) | (kind > 9)).any():
        raise NotPlain("a value that is not an integer")
    size = np.where(kind < 0, 0, _SIZES.take(kind, mode="clip"))
    if ((size > 0) & (place + size > chunk.body_end)).any():
        raise NotPlain("an integer beyond the page")
    widest = int(size.max(initial=0))
    if widest <= 1:
        value = chunk.flat.take(place, mode="clip").view(np.int8).astype(np.int64)
    else:
        value = _load(chunk.words, place) >> (64 - 8 * np.maximum(size, 1))
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


def spans(chunk: Chunk, kind: Ints, place: Ints) -> tuple[Ints, Ints]:
    """Return (place, length) of texts or blobs; length -1 for NULL, -2 for what continues on overflow pages."""
    if ((kind > 0) & (kind < 12)).any():
        raise NotPlain("a number where text should be")
    length = np.where(kind >= 12, (kind - 12) >> 1, -1)
    return place, np.where((length > 0) & (place + length > chunk.body_end), -2, length)


def gather(flat: Bytes, place: Ints, length: Ints) -> tuple[Bytes, Ints]:
    """Return (all bytes end to end, where each value begins and the last ends)."""
    begins = np.concatenate([[0], np.cumsum(length)])
    from_here = np.repeat(place - begins[:-1], length)
    from_here += np.arange(begins[-1])
    return flat.take(from_here), begins
