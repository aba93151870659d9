"""The NVTX payload, version 2: one structured record per range, derived from `Cost`, and its plain-text twin.

Every field is a little-endian int64, so that a bound record can be edited through a flat view and every reader
(binaryData, jsonText, announcement) sees the same whole numbers. ``layer`` is -1 where there is none. Costs are
exclusive: what the site itself does, not what hooked sites inside it do. Version 1: `dsocr_nvtx.schema.payload_v1`.
"""

import re
from collections.abc import Iterable
from enum import IntFlag
from typing import NamedTuple

import numpy as np

from dsocr_nvtx.schema.records import COST_FIELDS, CostState
from dsocr_nvtx.schema.wire import Ints, Wire

DOMAIN = "dsocr"


class Flag(IntFlag):
    """What is to be known of a call's cost; bits of the field ``flags``."""

    UNKNOWN = 1
    """The cost is not known: the fields of extent and cost are 0 and mean nothing."""
    CONTRADICTED = 2
    """Tensors were found that contradict what the cost was derived from."""
    ESTIMATED = 4
    """Not used yet."""


STATE_FLAGS: dict[CostState, Flag] = {
    CostState.KNOWN: Flag(0),
    CostState.ESTIMATED: Flag.ESTIMATED,
    CostState.CONTRADICTED: Flag.CONTRADICTED,
    CostState.UNKNOWN: Flag.UNKNOWN,
}
"""What each state is on the wire. Of several flags the one that stands last here says the state."""


HEADER_FIELDS = ("event_id", "stage", "step", "layer", "kind", "level", "dtype", "flags")
EXTENT_FIELDS = ("sequences", "rows", "keys", "pairs")
"""How many sequences (images, tiles) a call works on, and sums over them: query rows, the keys that each can attend to
after the call, and attention pairs without a mask; 0 where the two last have no meaning."""
PAYLOAD_FIELDS: tuple[str, ...] = (*HEADER_FIELDS, *EXTENT_FIELDS, *COST_FIELDS)
PAYLOAD_DTYPE = np.dtype([(name, "<i8") for name in PAYLOAD_FIELDS])
FIELD_INDEX: dict[str, int] = {name: position for position, name in enumerate(PAYLOAD_FIELDS)}

READ_FIELDS: tuple[str, ...] = (*PAYLOAD_FIELDS, "own_activation_bytes", "version")
"""What readers make of a payload of either version: the last two are 0 and 2 but for version 1."""


def _with(values: Ints, version: int) -> Ints:
    more = np.broadcast_to(np.array([0, version], np.int64), (len(values), 2))
    return np.concatenate([values, more], axis=1, dtype=np.int64)


WIRE = Wire(
    fields=PAYLOAD_FIELDS,
    prefix="dsocr/2",
    read=lambda values: _with(values, 2),
    read_increments=lambda _values, increments: _with(increments, 0),
)
"""The version that hooks write."""


def announcement(path: str, values: list[int]) -> str:
    """Return the plain-text form of a payload: prefix, module path, then every field of `PAYLOAD_FIELDS` in order."""
    return WIRE.announcement(path, values)


def growth_announcement(path: str, values: list[int], increments: list[int]) -> str:
    """Return an announcement that holds while the cache grows: prefix, path, every field, then each field's increment.

    After it, a call's fields are ``values`` plus ``increments`` times the keys that each sequence of ``model``, as last
    announced for the same stage on the same thread, has more than ``values`` say.
    """
    return WIRE.growth_announcement(path, values, increments)


MARK_PREFIX = "dsocr/"
"""Starts every mark of ours, whatever it says."""

CONTRADICTION_PREFIX = "dsocr/2! "
"""Starts the marks that say that a range's costs, and those of all ranges inside, are contradicted by tensors."""


def contradiction_mark(event_id: int, text: str) -> str:
    """Return the mark that says by what the costs of a range, and of everything inside it, are contradicted."""
    return f"{CONTRADICTION_PREFIX}{event_id} {' '.join(text.split())}"


class Contradiction(NamedTuple):
    """The range whose costs are contradicted, with those of everything inside it, and by what, in words."""

    event_id: int
    text: str


_CONTRADICTION_LINE = re.compile(f"{re.escape(CONTRADICTION_PREFIX)}([0-9]{{1,18}}) ([^ ].*)")


def parse_contradiction_mark(text: str) -> Contradiction | None:
    """Return what a mark says of a contradiction, or None for any other text, damaged marks included."""
    found = _CONTRADICTION_LINE.fullmatch(text) if text.isprintable() else None
    return Contradiction(int(found[1]), found[2]) if found else None


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
