"""Bytes that a report says are text, as Arrow strings: cut to a label's length, and valid UTF-8 whatever came."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.cells import Bytes, gather
from dsocr_nvtx.ingest.source import TEXT_LIMIT, Ints


def decoded(raw: bytes) -> str:
    """Return bytes as text, cut at `TEXT_LIMIT` characters; a character takes at most four bytes."""
    return cut(raw[:MOST_BYTES].decode("utf-8", "replace"))


MOST_BYTES = 4 * (TEXT_LIMIT + 1)
"""Of a text: enough to see whether it is too long."""


def cut(text: str) -> str:
    """Return a text, one that is too long cut with a mark that says so."""
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}\N{HORIZONTAL ELLIPSIS}"


def plain_text(value: object) -> str | None:
    """Return a value of any type SQLite has, as text; NULL stays null."""
    if isinstance(value, bytes):
        return decoded(value)
    return None if value is None else cut(str(value))


def text_array(flat: Bytes, place: Ints, length: Ints) -> pa.Array:
    """Return texts that lie in ``flat``; a negative length is null."""
    data, begins = gather(flat, place, np.clip(length, 0, MOST_BYTES))
    if (data & 0x80).any() or length.max(initial=0) > TEXT_LIMIT:
        whole, edges = data.tobytes(), begins.tolist()
        texts = (decoded(whole[edges[i] : edges[i + 1]]) for i in range(len(length)))
        return _nulled(texts, length)
    return _array(pa.string(), data, begins, length)


def blob_array(flat: Bytes, place: Ints, length: Ints) -> pa.Array:
    """Return blobs that lie in ``flat``; a negative length is null."""
    data, begins = gather(flat, place, np.maximum(length, 0))
    return _array(pa.binary(), data, begins, length)


def _nulled(texts: Iterable[str], length: Ints) -> pa.Array:
    found = [None if size < 0 else text for text, size in zip(texts, length.tolist(), strict=True)]
    return pa.array(found, pa.string())


def _array(kind: pa.DataType, data: Bytes, begins: Ints, length: Ints) -> pa.Array:
    valid = np.packbits(length >= 0, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(begins.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(length), buffers)
