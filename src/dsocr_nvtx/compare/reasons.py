"""Why a verdict is what it is, in few words."""

from dsocr_nvtx.compare.lines import Line, Moved
from dsocr_nvtx.compare.verdicts import Verdict


def overall(busy: Moved, idle: Moved) -> tuple[Verdict, str]:
    """Return a row's verdict from those of its busy and idle time, and which of them moved.

    Where they moved against each other, the larger change in time decides; both are named.
    """
    moved = {name: one for name, one in (("busy", busy), ("idle", idle)) if one.verdict.is_change}
    if moved:
        most = max(moved, key=lambda name: abs(moved[name].change))
        return moved[most].verdict, " and ".join(sorted(moved, key=lambda name: name != most))
    if busy.verdict == idle.verdict == Verdict.SAME:
        return Verdict.SAME, ""
    return Verdict.INCONCLUSIVE, ""


_APART = 0.01
"""Of a mean and a typical change: by more, odd steps made the mean, and both are told."""


def change_text(name: str, moved: Moved) -> str:
    """Return a change of the means, like ``busy +5.1%``; beside it the typical one, where that is another."""
    if moved.share is None:
        return f"{name} {(moved.b - moved.a) / 1e3:+,.1f} us, none before"
    text = f"{name} {moved.share:+.1%}"
    if moved.relative is None or abs(moved.relative - moved.share) > _APART:
        usual = f"{moved.change / 1e3:+,.1f} us" if moved.relative is None else f"{moved.relative:+.1%}"
        text += f" ({usual} in a typical step)"
    return text


def reason_of(line: Line, unlike: str, *, once: bool) -> str:
    """Return what a verdict rests on; empty for `same`."""
    if line.verdict.is_change:
        return ", ".join(_moved(line, name) for name in line.moved.split(" and "))
    if line.verdict == Verdict.SAME:
        return ""
    if unlike:
        return unlike
    if line.busy.verdict != Verdict.INCONCLUSIVE:
        text = change_text("idle", line.idle)
        return f"busy the same; {text}: {_seldom(line)}" if once else f"{text}, which the host's noise may explain"
    text = change_text("busy", line.busy)
    shared = 0.0 if line.drift is None else abs(line.drift) * line.busy.base
    if abs(line.busy.change) > line.busy.half and shared > abs(line.busy.change) / 2:
        return f"{text}, its {line.peers} peers {line.drift:+.1%}: clocks or addresses may explain it"
    low, high = line.busy.interval or (0.0, 0.0)
    rests = "it ran too seldom" if once else f"{line.steps} steps"
    return f"{text}, noise leaves {low:+.1%} to {high:+.1%} ({rests})"


def _seldom(line: Line) -> str:
    times = "once" if line.steps == 1 else f"{line.steps} times"
    return f"ran {times}, so no noise bound"


def _moved(line: Line, name: str) -> str:
    moved = line.busy if name == "busy" else line.idle
    text = change_text(name, moved)
    if name == "busy" and line.against_peers:
        text += f" where its {line.peers} peers moved {line.drift:+.1%}"
    return text
