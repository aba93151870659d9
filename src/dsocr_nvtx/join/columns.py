"""Arrow columns as numpy arrays, without copies where Arrow allows it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.ingest.words import distinct

Ints = npt.NDArray[np.int64]


def numbers(table: pa.Table, name: str, missing: int = 0) -> Ints:
    """Return an integer column as int64, nulls as ``missing``."""
    column = table[name].combine_chunks()
    if column.null_count:
        column = column.fill_null(missing)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def known(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    """Return which rows of a column are not null."""
    return np.asarray(table[name].combine_chunks().is_valid().to_numpy(zero_copy_only=False), bool)


def coded(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    """Return a dictionary column as (code per row, words); equal words have one code."""
    column = table.select([name]).unify_dictionaries()[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return np.asarray(column.indices.to_numpy(zero_copy_only=False), np.int64), column.dictionary.to_pylist()


def recoded(codes: Ints, words: list[str]) -> pa.DictionaryArray:
    """Return codes (-1: null) and their words as a dictionary column; words that repeat become one."""
    unique = {word: code for code, word in enumerate(dict.fromkeys(words))}
    recode = np.array([unique[word] for word in words] or [0], np.int32)
    indices = pa.array(recode[np.maximum(codes, 0)], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(unique), pa.string()))


def joined_bytes(table: pa.Table, name: str) -> memoryview:
    """Return the values of a binary column end to end, nulls left out."""
    column = table[name].drop_null().combine_chunks()
    if not len(column):
        return memoryview(b"")
    edges = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    return memoryview(column.buffers()[2])[edges[0] : edges[len(column)]]


def groups(*keys: Ints) -> tuple[Ints, Ints]:
    """Return (group number per row, one row index per group) of rows that share all keys; groups in key order.

    The row index is that of a group's first row.
    """
    codes = distinct(keys[0])[1]
    for key in keys[1:]:
        words, code = distinct(key)
        codes = distinct(codes * max(len(words), 1) + code)[1]
    first = np.empty(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of several rows, the one written last is the first
    return codes, first


def latest(key: Ints, time: Ints, wanted_key: Ints, wanted_time: Ints) -> Ints:
    """Return, per wanted (key, time), the position of the last entry of that key not after that time, or -1."""
    keys, times = np.concatenate([key, wanted_key]), np.concatenate([time, wanted_time])
    asks = np.concatenate([np.zeros(len(key), np.int64), np.ones(len(wanted_key), np.int64)])
    order = np.lexsort((np.arange(len(keys)), asks, times, keys))
    place = np.where(asks[order] == 0, np.arange(len(order)), -1)
    last = np.maximum.accumulate(place)
    found = np.where((last >= 0) & (keys[order[last]] == keys[order]), order[last], -1)
    answer = np.full(len(keys), -1)
    answer[order] = found
    return answer[len(key) :]
