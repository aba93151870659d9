"""Arrow columns as numpy arrays, without copies where Arrow allows it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.ingest.source import Mask, Number, whole
from dsocr_nvtx.ingest.words import constant, distinct
from dsocr_nvtx.schema.tables import is_repeated
from dsocr_nvtx.schema.values import values_of

Ints = npt.NDArray[np.int64]

Places = npt.NDArray[np.integer[Any]]
"""Places of rows in a table, -1 for none, in as few bytes as hold them (`no_places`)."""

Rows = Ints | slice
"""Some rows of a table, or a slice of all, by which nothing is copied."""

Key = Places | Callable[[slice], Places]
"""What rows are put in order by; a function makes it of some rows at a time."""

_BLOCK = 1 << 16


def blocks(count: int) -> Iterator[slice]:
    """Return slices that cover so many rows: few enough at a time that what is made of them stays in a cache."""
    return (slice(at, min(at + _BLOCK, count)) for at in range(0, count, _BLOCK))


def integer(row: Mapping[str, object], name: str) -> int:
    """Return a whole number of a row that was read as Python values; `TypeError` for any other."""
    value = row[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is no whole number: {value!r}")
    return value


def numbers(table: pa.Table, name: str, missing: int = 0) -> Ints:
    """Return an integer column as int64, nulls as ``missing``."""
    column = table[name]
    if column.num_chunks > 1 and is_repeated(column):
        value = column[0].as_py()
        return np.broadcast_to(np.int64(missing if value is None else value), len(column))
    column = whole(column)
    if column.null_count:
        column = column.fill_null(missing)
    return np.asarray(values_of(column), np.int64)


def as_they_stand(table: pa.Table, name: str) -> Places:
    """Return `numbers` in as few bytes as the column has; of one with nulls, as int64."""
    column = table[name]
    return values_of(column.chunk(0)) if column.num_chunks == 1 and not column.null_count else numbers(table, name)


def known(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    """Return which rows of a column are not null."""
    missing = table[name].null_count
    if missing in (0, len(table)):
        return np.broadcast_to(np.bool_(not missing), len(table))
    return values_of(whole(table[name].is_valid()))


def coded(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    """Return a dictionary column as (code per row, words); equal words have one code."""
    column = dictionary_column(table, name)
    return values_of(column).astype(np.int64), column.dictionary.to_pylist()


def rows_with(table: pa.Table, name: str, *words: str) -> Mask:
    """Return which rows of a dictionary column hold one of some words; a null is none of them."""
    codes, all_words = coded(table, name)
    return np.isin(codes, [code for code, word in enumerate(all_words) if word in words]) & known(table, name)


def dictionary_column(table: pa.Table, name: str) -> pa.DictionaryArray:
    """Return a dictionary column in one piece, in which equal words have one code."""
    return whole((table if table[name].num_chunks == 1 else table.select([name]).unify_dictionaries())[name])


def recoded(codes: npt.NDArray[np.integer[Any]], words: list[str]) -> pa.DictionaryArray | pa.ChunkedArray:
    """Return codes (-1: null) and their words as a dictionary column; words that repeat become one."""
    if len(codes) and (codes == codes[0]).all() and codes[0] >= 0:
        return constant(words[codes[0]], len(codes))
    unique = {word: code for code, word in enumerate(dict.fromkeys(words))}
    recode = np.array([unique[word] for word in words] or [0], np.int32)
    indices = nullable(recode[codes], codes < 0)  # -1 takes the last code, which stands under a null
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(unique), pa.string()))


def nullable(values: npt.NDArray[np.integer[Any]], missing: Mask) -> pa.Array:
    """Return numbers as an Arrow column, null where they are missing."""
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def rows_where(mask: Mask) -> Rows:
    """Return the rows in a mask."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def rows_at(rows: Rows, places: Places) -> Places:
    """Return the rows at some places among rows."""
    return places if isinstance(rows, slice) else rows[places]


def values_at(values: Places, places: Places) -> Places:
    """Return the value at each place; where there is none (-1), the first one."""
    # numpy's own rooms, of which one that is free again holds the next just so; Arrow's are a little larger.
    found = np.zeros(len(places), values.dtype)
    for part in blocks(len(places) if len(values) else 0):
        values.take(places[part], mode="clip", out=found[part])
    return found


def no_places(count: int, highest: int) -> Places:
    """Return room for so many places, the highest of which can be ``highest``; none is known yet."""
    return np.full(count, -1, np.int32 if highest < 1 << 31 else np.int64)


def falling(values: Ints) -> Key:
    """Return the key by which the highest value comes first."""
    return lambda some: -values[some]


def sorting(first: Places, *others: Key) -> Rows:
    """Return what puts rows in order of the keys, the first one first; equal rows stay as they stand.

    Rows that are in order already give a slice of all, which copies nothing. Of keys by which rows are in order, the
    last ones need no sorting.
    """
    some = (slice(part.start, part.stop + 1) for part in blocks(len(first) - 1))  # all pairs of neighbours
    if all(_sorted_by([first[part], *(_part(key, part) for key in others)])[0] for part in some):
        return slice(None)
    keys = [first, *(_part(key, slice(None)) for key in others)]
    by = _sorted_by(keys)
    needed = keys[: by.index(True)] if True in by else keys
    return np.lexsort([_narrow(key) for key in reversed(needed)])


def _part(key: Key, some: slice) -> Places:
    return key(some) if callable(key) else key[some]


def _sorted_by(keys: list[Places]) -> list[bool]:
    """Return, per key, whether rows are in order of it and those after it."""
    if (keys[0][1:] > keys[0][:-1]).all():
        return [True] * len(keys)  # of which only the first matters
    found, ordered = [], np.ones(len(keys[0]) - 1, bool)
    for key in reversed(keys):
        earlier, later = key[:-1], key[1:]
        ordered = (later > earlier) | ((later == earlier) & ordered)
        found.append(bool(ordered.all()))
    return found[::-1]


def _narrow(key: Places) -> npt.NDArray[np.integer[Any]]:
    """Return a key as 16 bits where it fits: numpy sorts those by counting, several times faster."""
    low = key.min()
    return (key - low).astype(np.uint16) if 0 <= int(key.max()) - int(low) < 1 << 16 else key


def taken(values: npt.NDArray[Number], rows: Ints) -> npt.NDArray[Number]:
    """Return the values of ascending rows; of all rows, the values themselves and no copy."""
    return values if len(rows) == len(values) else values[rows]


def groups(*keys: Places) -> tuple[Ints, Ints]:
    """Return (group number per row, one row index per group) of rows that share all keys; groups in key order.

    The row index is that of a group's first row.
    """
    codes = distinct(keys[0])[1]
    for key in keys[1:]:
        words, code = distinct(key)
        codes = distinct(codes * len(words) + code)[1] if len(words) > 1 else codes
    first = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    if len(first) < 2:
        return codes, first[: len(codes)]
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of several rows, the one written last is the first
    return codes, first


def rows_of(pid: Ints, number: Places, wanted_pid: Ints, wanted: Places) -> Places:
    """Return the row of each wanted (process, number), the first of several, or -1; numbers are of one type."""
    processes = distinct(pid)[0]
    if len(processes) == 1 and (wanted_pid == processes[0]).all():
        return _first_place(number, wanted)
    answer = no_places(len(wanted), len(number))
    for process in processes:
        mine, asking = np.flatnonzero(pid == process), np.flatnonzero(wanted_pid == process)
        place = _first_place(taken(number, mine), taken(wanted, asking))
        answer[asking] = np.where(place >= 0, mine[place], -1)
    return answer


def _first_place(values: Places, wanted: Places) -> Places:
    """Return where each wanted value first stands, or -1; without sorting where values are close to each other."""
    low, high = int(values.min()), int(values.max())
    if high - low > 4 * len(values) + 1024:
        order = sorting(values)
        ordered = values[order]
        place = np.minimum(np.searchsorted(ordered, wanted, side="left"), len(values) - 1)
        return np.where(ordered[place] == wanted, rows_at(order, place), -1)
    place = no_places(high - low + 1, len(values))
    for part in reversed(list(blocks(len(values)))):  # of several, the one written last is the first
        place[values[part][::-1] - low] = np.arange(part.stop - 1, part.start - 1, -1)
    answer = no_places(len(wanted), len(values))
    for part in blocks(len(wanted)):
        asked = wanted[part]
        inside = (asked >= low) & (asked <= high)
        answer[part] = np.where(inside, place.take(asked - low, mode="clip"), -1)
    return answer


def latest(key: Ints, time: Ints, wanted_key: Ints, wanted_time: Ints) -> Ints:
    """Return, per wanted (key, time), the position of the last entry of that key not after that time, or -1.

    Keys are numbers from 0, such as `groups` gives.
    """
    answer = np.full(len(wanted_key), -1)
    if not len(key):
        return answer
    # A time becomes its rank among those of the entries, so that one number can stand for key and time.
    times = np.sort(time)
    whole = key * (len(key) + 1) + np.searchsorted(times, time, side="right")
    order = np.argsort(whole, kind="stable")
    whole = whole[order]
    for part in blocks(len(wanted_key)):
        wanted = wanted_key[part] * (len(key) + 1) + np.searchsorted(times, wanted_time[part], side="right")
        last = order[np.searchsorted(whole, wanted, side="right") - 1]  # the last of all where none is before
        held = (key[last] == wanted_key[part]) & (time[last] <= wanted_time[part])
        answer[part] = np.where(held, last, -1)
    return answer
