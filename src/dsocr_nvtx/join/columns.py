"""Arrow columns as numpy arrays, without copies where Arrow allows it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


def groups(*keys: Ints) -> tuple[Ints, Ints]:
    """Return (group number per row, one row index per group) of rows that share all keys; groups in key order."""
    stacked = np.stack(keys, axis=1) if keys[0].size else np.empty((0, len(keys)), np.int64)
    _, first, inverse = np.unique(stacked, axis=0, return_index=True, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64), first.astype(np.int64)
