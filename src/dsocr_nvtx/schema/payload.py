"""The NVTX payload: one structured record per range, derived from `Cost`, and its plain-text twin.

Every field is a little-endian int64, so that a bound record can be edited through a flat view and every reader
(binaryData, jsonText, announcement) sees the same whole numbers. ``layer`` is -1 where there is none.
"""

import numpy as np

from dsocr_nvtx.schema.records import COST_FIELDS

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


def parse_announcement(text: str) -> tuple[str, list[int]] | None:
    """Return (path, values) of an announcement, or None for any other text, damaged announcements included."""
    if not text.startswith(ANNOUNCE_PREFIX):
        return None
    path, *words = text[len(ANNOUNCE_PREFIX) :].split(" ")
    try:
        values = [int(word) for word in words]
    except ValueError:
        return None
    return (path, values) if path and len(values) == len(PAYLOAD_FIELDS) else None
