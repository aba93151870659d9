"""The kernels of a whole report by stage and name: how often, how long, how evenly, and where they were launched."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.join.columns import Ints, Places, blocks, coded, groups, known, numbers, recoded, values_at
from dsocr_nvtx.join.kernels import Kernels
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.roofline.least import Floats
from dsocr_nvtx.roofline.points import ratio
from dsocr_nvtx.schema.summaries import KERNELS_SUMMARY
from dsocr_nvtx.schema.tables import conform
from dsocr_nvtx.schema.values import values_of

_Part = Callable[[slice], Floats]


def kernel_summary(
    kernels: Kernels, devices: Mapping[tuple[int, int], Device], about: Mapping[str, str] | None = None
) -> pa.Table:
    """Return KERNELS_SUMMARY of a join. ``devices`` tell how many blocks make a wave, by (process id, ordinal)."""
    stage, stages = coded(kernels.ranges, "stage")
    names = kernels.name.dictionary.to_pylist()
    group, stage_of, name_of = _groups(kernels, stage, len(names))
    count = len(name_of)
    start, end, busy = (numbers(kernels.known, name) for name in ("start_ns", "end_ns", "busy_owned_ns"))

    def lengths(part: slice) -> Floats:
        return (end[part] - start[part]).astype(np.float64)

    launches = np.bincount(group, minlength=count)
    total = _added(group, count, lengths)
    owned = _added(group, count, lambda part: busy[part].astype(np.float64))
    mean = total / np.maximum(launches, 1)
    spread = np.sqrt(_added(group, count, lambda part: (lengths(part) - mean[group[part]]) ** 2) / launches)
    columns: dict[str, object] = {
        "stage": recoded(stage_of, stages),
        "name": recoded(name_of, names),
        "short_name": recoded(name_of, [short_name(name) for name in names]),
        "class": recoded(name_of, [kind for kind, _ in kernels.classes]),
        "launches": launches,
        "total_ns": total.astype(np.int64),
        "busy_owned_ns": owned.astype(np.int64),
        "stage_share": ratio(owned, np.bincount(stage_of + 1, owned, len(stages) + 1)[stage_of + 1]),
        "mean_ns": mean,
        "spread_ns": spread,
        **_extremes(group, count, lengths),
        **_waves(kernels, devices, group, count),
        **_places(kernels, group, count),
    }
    made = conform(columns, KERNELS_SUMMARY, about)
    return made.take(np.lexsort((np.arange(count), -total)))


def _groups(kernels: Kernels, stage: Ints, words: int) -> tuple[Places, Ints, Ints]:
    """Return the group of each operation, and each group's stage (-1: none) and name."""
    code = values_of(kernels.name).astype(np.int32)
    for part in blocks(len(code) if len(stage) else 0):
        owner = kernels.owner[part]
        code[part] += (np.where(owner >= 0, values_at(stage, owner), -1) + 1).astype(np.int32) * words
    present = np.bincount(code) > 0
    found = np.flatnonzero(present)
    number = (np.cumsum(present) - 1).astype(np.int32)
    return values_at(number, code), found // max(words, 1) - 1, found % max(words, 1)


def _added(group: Places, count: int, values: _Part) -> Floats:
    """Return the sum of some values per group; they are made a part at a time."""
    total = np.zeros(count)
    for part in blocks(len(group)):
        total += np.bincount(group[part], values(part), count)
    return total


def _extremes(group: Places, count: int, lengths: _Part) -> dict[str, Ints]:
    shortest, longest = np.full(count, np.inf), np.zeros(count)
    for part in blocks(len(group)):
        np.minimum.at(shortest, group[part], lengths(part))
        np.maximum.at(longest, group[part], lengths(part))
    return {"shortest_ns": shortest.astype(np.int64), "longest_ns": longest.astype(np.int64)}


def _waves(
    kernels: Kernels, devices: Mapping[tuple[int, int], Device], group: Places, count: int
) -> dict[str, pa.Array]:
    """Return grids in waves of the device's SMs; null where a group has no grid, or its device no known SMs."""
    pid, ordinal, grid = (numbers(kernels.known, name) for name in ("pid", "device", "blocks"))
    which, first = groups(pid, ordinal)
    places = [(int(pid[at]), int(ordinal[at])) for at in first]
    sms = np.array([devices[place].sm_count if place in devices else 0 for place in places] or [0], np.int64)

    def told(part: slice) -> Floats:
        return ((grid[part] > 0) & (sms[which[part]] > 0)).astype(np.float64)

    def waves(part: slice) -> Floats:
        return told(part) * grid[part] / np.maximum(sms[which[part]], 1)

    grids = _added(group, count, told)
    below = _added(group, count, lambda part: told(part) * (grid[part] < sms[which[part]])).astype(np.int64)
    return {
        "waves": ratio(_added(group, count, waves), grids),
        "below_a_wave": pa.array(below, mask=grids == 0),
    }


def _places(kernels: Kernels, group: Places, count: int) -> dict[str, object]:
    """Return, per group, the modules, kinds and layers of the calls that own its operations."""
    ranges = kernels.ranges
    (module, modules), (kind, kinds) = coded(ranges, "module"), coded(ranges, "kind")
    layer = np.where(known(ranges, "layer"), numbers(ranges, "layer"), -1)
    words: dict[str, tuple[Ints, list[str] | None]] = {
        "modules": (module, modules), "kinds": (kind, kinds), "layers": (layer, None),
    }  # fmt: skip
    return {name: _told(kernels.owner, group, count, *one) for name, one in words.items()}


def _told(owner: Places, group: Places, count: int, code: Ints, words: list[str] | None) -> list[list[object]]:
    """Return each group's words, or numbers, in order; a code of -1 stands for none."""
    seen = np.zeros((count, int(code.max(initial=0)) + 2), bool)
    for part in blocks(len(group)):
        mine = owner[part] >= 0
        seen[group[part][mine], values_at(code, owner[part][mine])] = True
    return [[words[at] if words is not None else at for at in np.flatnonzero(line[:-1]).tolist()] for line in seen]
