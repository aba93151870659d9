"""How much a report may take: more than any real one needs, so that a hostile one is refused instead of filling memory.

The environment variable `MOST_BYTES` takes the place of every such limit.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused, UsageError

MOST_BYTES = "DSOCR_NVTX_MOST_BYTES"
"""Environment variable: the most bytes that a packed report may unpack to, and that a column of a report may take."""
LIMIT_REMEDY = f"if that is right, set {MOST_BYTES} to as many as it may be"


def most_bytes(usual: int) -> int:
    """Return what the user allows, else the ``usual`` limit."""
    text = os.environ.get(MOST_BYTES, "")
    if not text:
        return usual
    if not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{MOST_BYTES}={text!r}: give a number of bytes")
    return int(text)


_LEAST_UNPACKED, _MOST_RATIO = 1 << 28, 100


def unpacked_bytes(size: int) -> int:
    """Return what a file of so many bytes may unpack to; exports shrink to a fifth or a twentieth."""
    return _LEAST_UNPACKED + _MOST_RATIO * size


_MOST_TEXT = 1 << 29


def limited(where: Path, column: str, pieces: Iterable[pa.Array], usual: int = _MOST_TEXT) -> Iterator[pa.Array]:
    """Return pieces of a column of texts or blobs; refuse one that takes more than the limit, ``usual`` if none is set.

    Rows may share texts in a dictionary: what they take is what each row's own would.
    """
    most, taken = most_bytes(usual), 0
    for piece in pieces:
        taken += _plain_bytes(piece)
        if taken > most:
            raise Refused(where, f"more than {most:,} bytes of text in {column}", LIMIT_REMEDY)
        yield piece


def _plain_bytes(piece: pa.Array) -> int:
    if not pa.types.is_dictionary(piece.type):
        return int(piece.nbytes)
    if pa.types.is_primitive(piece.dictionary.type):
        return len(piece) * int(piece.dictionary.type.bit_width) // 8
    return int(pc.sum(pc.binary_length(piece.dictionary).take(piece.indices)).as_py() or 0)
