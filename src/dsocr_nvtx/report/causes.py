"""Causes of a change as people read them: one line each with its numbers, and a second with what it opens into."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from dsocr_nvtx.compare.cause import Cause, Opened, rows_text
from dsocr_nvtx.compare.comparison import Comparison, StageComparison

WAITS = {
    "launch": "in launch calls",
    "sync": "in synchronising calls",
    "memory": "in allocations and copies",
    "host": "in host code",
    "queued": "with work queued",
    "other": "of no recorded cause",
}
_OPENED = 3
"""Places and kernels that a line opens into."""


class Sort(StrEnum):
    """Orders of causes: what a step costs more or less; by how many times it changed; by name."""

    COST = "cost"
    FACTOR = "factor"
    NAME = "name"


_ORDERS: Mapping[Sort, Callable[[Cause], tuple[float, str]]] = {
    Sort.COST: lambda cause: (-abs(cause.cost), cause.title),
    Sort.FACTOR: lambda cause: (-_times(cause), cause.title),
    Sort.NAME: lambda cause: (0.0, cause.title),
}


def _times(cause: Cause) -> float:
    """Return how many times longer or shorter it became, infinite for what is new or gone."""
    factor = cause.factor
    return float("inf") if not factor else max(factor, 1 / factor)


def ranked(found: Comparison, *, stage: str = "", sort: Sort = Sort.COST) -> list[tuple[StageComparison, list[Cause]]]:
    """Return the stages whose causes are known, those first whose causes weigh most over the whole run."""
    told = [(one, sorted(one.causes, key=_ORDERS[sort])) for one in found.stages if stage in ("", one.stage)]
    weigh = {one.stage: sum(abs(cause.cost) for cause in causes) * one.pair.b.units for one, causes in told}
    return sorted(((one, causes) for one, causes in told if causes), key=lambda two: -weigh[two[0].stage])


def milliseconds(ns: float) -> str:
    """Return a signed time in milliseconds, with as many digits as tell it from none."""
    return f"{ns / 1e6:+,.3f}" if abs(ns) >= 500 else f"{ns / 1e6:+,.6f}"


def factor_text(cause: Cause) -> str:
    """Return how a cause's time changed: ``x2.00``, ``+5.1%``, ``new`` or ``gone``."""
    if cause.factor is None:
        return "new"
    if not cause.b_ns:
        return "gone"
    if cause.sort == "stall":
        return "new" if cause.cost > 0 else "gone"
    return f"x{cause.factor:.2f}" if not 0.8 <= cause.factor <= 1.25 else f"{cause.factor - 1:+.1%}"


def called(cause: Cause) -> str:
    """Return what changed of a CUDA function's calls: how many, and how long one takes on the host's thread."""
    said = f"{cause.name}: {_timed(_whole(cause), f'calls a {cause.unit}')}"
    return f"{said}, {milliseconds(cause.cost)} ms of the host's time a {cause.unit}"


def headed(cause: Cause) -> str:
    """Return the first line: what, by how much, and what that is a step."""
    return f"{cause.title}: {factor_text(cause)}, {milliseconds(cause.cost)} ms a {cause.unit}"


def opened(cause: Cause) -> str:
    """Return the second line: launches and mean times, where it lies, or which kernels make it up."""
    if cause.sort == "stall":
        lasted = f"{max(cause.a_ns, cause.b_ns) / 1e6:,.2f} ms, mostly {WAITS.get(cause.name, cause.name)}"
        beside = f"{min(cause.a_ns, cause.b_ns) / 1e6:,.2f} ms in the other run"
        calls = f"; CUDA calls meanwhile: {cause.detail}" if cause.detail else ""
        return f"{lasted}; {beside}{calls}; once, so its cost is the mean over the steps"
    if cause.sort == "idle":
        told = [f"{WAITS[one.name]} {milliseconds(one.cost)}" for one in cause.kernels[:_OPENED] if one.cost]
        return f"{cause.a_ns / 1e6:,.3f} > {cause.b_ns / 1e6:,.3f} ms a {cause.unit}; {', '.join(told)}"
    if cause.sort == "rows":
        kernels = [f"{one.name} {launches(one)}, {milliseconds(one.cost)}".strip() for one in cause.kernels[:_OPENED]]
        rest = len(cause.kernels) - len(kernels)
        more = f"; {rest} more" if rest > 0 else ""
        return f"{cause.a_ns / 1e6:,.3f} > {cause.b_ns / 1e6:,.3f} ms a {cause.unit}; {'; '.join(kernels)}{more}"
    return f"{launches(_whole(cause))}; {places(cause)}"


def _whole(cause: Cause) -> Opened:
    return Opened(name=cause.name, a_count=cause.a_count, b_count=cause.b_count, a_ns=cause.a_ns, b_ns=cause.b_ns)


def launches(one: Opened) -> str:
    """Return launches a unit and the mean time of one, in both runs where they differ."""
    return _timed(one, "launches")


def _timed(one: Opened, what: str) -> str:
    counts = _both(f"{one.a_count:,.4g}", f"{one.b_count:,.4g}")
    means = _both(*(f"{mean / 1e3:,.2f}" for mean in one.means))
    return f"{counts} {what} of {means} us"


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} > {b}"


def places(cause: Cause, most: int = _OPENED) -> str:
    """Return where a cause lies: ``most`` kinds of rows, layers counted, each with what it adds there."""
    told = [
        f"{rows_text(place.module, place.kind, place.layers)} {milliseconds(place.cost)}"
        for place in cause.places[:most]
    ]
    rest = len(cause.places) - len(told)
    return "in " + ", ".join(told) + (f", {rest} more" if rest > 0 else "")


def cause_values(cause: Cause) -> dict[str, object]:
    """Return a cause as plain values, for JSON; times in ns per unit."""
    return {
        "stage": cause.stage, "title": cause.title, "sort": cause.sort, "what": str(cause.what), "name": cause.name,
        "module": cause.module, "kind": cause.kind, "layers": list(cause.layers), "verdict": str(cause.verdict),
        "cost_ns": cause.cost, "unit": cause.unit, "a_ns": cause.a_ns, "b_ns": cause.b_ns, "factor": cause.factor,
        "a_launches": cause.a_count, "b_launches": cause.b_count, "step": cause.step, "detail": cause.detail,
        "places": [
            {"module": one.module, "kind": one.kind, "layers": list(one.layers), "cost_ns": one.cost}
            for one in cause.places
        ],
        "kernels": [_opened_values(one) for one in cause.kernels],
    }  # fmt: skip


def _opened_values(one: Opened) -> dict[str, object]:
    return {
        "name": one.name, "a_launches": one.a_count, "b_launches": one.b_count, "a_ns": one.a_ns, "b_ns": one.b_ns,
        "a_mean_ns": one.means[0], "b_mean_ns": one.means[1], "cost_ns": one.cost,
    }  # fmt: skip


def flat(found: Sequence[tuple[StageComparison, list[Cause]]], limit: int) -> list[Cause]:
    """Return the causes in the order in which they are told, ``limit`` of each stage."""
    return [cause for _, causes in found for cause in causes[:limit]]
