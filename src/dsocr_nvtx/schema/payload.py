"""The NVTX payload: one structured record per range, derived from `Cost`, and its plain-text twin.

Every field is a little-endian int64, so that a bound record can be edited through a flat view and every reader
(binaryData, jsonText, announcement) sees the same whole numbers. ``layer`` is -1 where there is none.
"""

import re

import numpy as np

from dsocr_nvtx.schema.records import COST_FIELDS, Stage

DOMAIN = "dsocr"
HEADER_FIELDS = ("event_id", "stage", "step", "layer", "kind", "level", "dtype", "batch", "tokens", "kv_len")
PAYLOAD_FIELDS: tuple[str, ...] = (*HEADER_FIELDS, *COST_FIELDS, "own_activation_bytes")
PAYLOAD_DTYPE = np.dtype([(name, "<i8") for name in PAYLOAD_FIELDS])
FIELD_INDEX: dict[str, int] = {name: position for position, name in enumerate(PAYLOAD_FIELDS)}

ANNOUNCE_PREFIX = "dsocr/1 "
"""Starts every announcement; the number grows when `PAYLOAD_FIELDS` changes."""


def announcement(path: str, values: list[int]) -> str:
    """Return the plain-text form of a payload: prefix, module path, then every field of `PAYLOAD_FIELDS` in order."""
    return f"{ANNOUNCE_PREFIX}{path} {' '.join(map(str, values))}"


_LINE = re.compile(f"{re.escape(ANNOUNCE_PREFIX)}([^ ]+)((?: -?[0-9]{{1,19}}){{{len(PAYLOAD_FIELDS)}}})")
_WORD = range(-(2**63), 2**63)


def parse_announcement(text: str) -> tuple[str, list[int]] | None:
    """Return (path, values) of an announcement, or None for any other text.

    A damaged announcement is other text: a number that no payload could hold, or a stage that does not exist.
    """
    found = _LINE.fullmatch(text)
    if found is None:
        return None
    values = [int(word) for word in found[2].split()]
    whole = all(value in _WORD for value in values) and values[FIELD_INDEX["stage"]] in range(len(Stage))
    return (found[1], values) if whole else None
