"""The NVTX payload: one structured record per range, derived from `Cost`, and its plain-text twin.

Every field is a little-endian int64, so that a bound record can be edited through a flat view and every reader
(binaryData, jsonText, announcement) sees the same whole numbers. ``layer`` is -1 where there is none.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

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


GROWTH_PREFIX = "dsocr/1k "
"""Starts the announcements that also say by how much each key in the KV cache makes every field grow."""


def growth_announcement(path: str, values: list[int], increments: list[int]) -> str:
    """Return an announcement that holds while the cache grows: prefix, path, every field, then each field's increment.

    After it, a call's fields are ``values`` plus ``increments`` times the keys that ``model``, as last announced for
    the same stage on the same thread, has more than ``values`` say.
    """
    return f"{GROWTH_PREFIX}{path} {' '.join(map(str, values))} {' '.join(map(str, increments))}"


_FIELDS = f"((?: -?[0-9]{{1,19}}){{{len(PAYLOAD_FIELDS)}}})"
_LINE = re.compile(f"{re.escape(ANNOUNCE_PREFIX)}([^ ]+){_FIELDS}")
_GROWTH_LINE = re.compile(f"{re.escape(GROWTH_PREFIX)}([^ ]+){_FIELDS}{_FIELDS}")
_WORD = range(-(2**63), 2**63)


def parse_announcement(text: str) -> tuple[str, list[int]] | None:
    """Return (path, values) of an announcement, or None for any other text.

    A damaged announcement is other text: a number that no payload could hold, or a stage that does not exist.
    """
    found = _LINE.fullmatch(text)
    values = _values(found[2]) if found is not None else None
    return (found[1], values) if found is not None and values is not None else None


def parse_growth_announcement(text: str) -> tuple[str, list[int], list[int]] | None:
    """Return (path, values, increments) of an announcement that says how it grows, or None for any other text."""
    found = _GROWTH_LINE.fullmatch(text)
    values = _values(found[2]) if found is not None else None
    if found is None or values is None:
        return None
    increments = [int(word) for word in found[3].split()]
    return (found[1], values, increments) if all(value in _WORD for value in increments) else None


def _values(words: str) -> list[int] | None:
    values = [int(word) for word in words.split()]
    whole = all(value in _WORD for value in values) and values[FIELD_INDEX["stage"]] in range(len(Stage))
    return values if whole else None


MARK_PREFIX = "dsocr/1"
"""Starts every mark of ours, whatever it says."""

EXPERTS_PREFIX = "dsocr/1x "
"""Starts the marks that say which experts were hit, made after the steps that they tell of."""


class ExpertsMark(NamedTuple):
    """The distinct experts that calls of one stage and step hit: pairs of event id and count, one per call.

    The event is the range that the call's cost lies in (several calls may lie in one); its ``weight_bytes`` hold
    ``expected_bytes`` for each of them.
    """

    stage: int
    step: int
    expert_bytes: int
    expected_bytes: int
    distinct: tuple[tuple[int, int], ...]


def experts_mark(
    stage: int, step: int, expert_bytes: int, expected_bytes: int, distinct: Iterable[tuple[int, int]]
) -> str:
    """Return the plain-text form of an `ExpertsMark`: its four numbers, then event:distinct pairs."""
    pairs = " ".join(f"{event}:{count}" for event, count in distinct)
    return f"{EXPERTS_PREFIX}{stage} {step} {expert_bytes} {expected_bytes} {pairs}"


_EXPERTS_LINE = re.compile(
    f"{re.escape(EXPERTS_PREFIX)}([0-9]{{1,18}}(?: [0-9]{{1,18}}){{3}})((?: [0-9]{{1,18}}:[0-9]{{1,9}})+)"
)


def parse_experts_mark(text: str) -> ExpertsMark | None:
    """Return what a mark says of experts, or None for any other text, damaged marks included."""
    found = _EXPERTS_LINE.fullmatch(text)
    if found is None:
        return None
    stage, step, expert_bytes, expected_bytes = map(int, found[1].split())
    pairs = (pair.split(":") for pair in found[2].split())
    distinct = tuple((int(event), int(count)) for event, count in pairs)
    return ExpertsMark(stage, step, expert_bytes, expected_bytes, distinct)
