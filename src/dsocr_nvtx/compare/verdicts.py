"""Better, worse, same, or inconclusive: when each may be said.

A change has a noise bound (`dsocr_nvtx.compare.noise`) and an allowance: what two runs of one code may differ by that
steps of one run do not show (memory addresses, clocks, the host's speed). It is

- ``worse`` or ``better`` when it is at least the smallest change that counts, and bound and allowance leave no zero;
- ``same`` when it is below the smallest change that counts, and so is the bound; of idle time, when it is negligible;
- ``inconclusive`` otherwise; so also where no bound is known, as of idle time in too few steps, unless times are equal.

Everything is symmetric: of B against A the verdict is the opposite of that of A against B.
"""

from enum import StrEnum

from attrs import frozen


class Verdict(StrEnum):
    """What can be said of a change."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"

    @property
    def is_change(self) -> bool:
        """Whether something moved for sure."""
        return self in (Verdict.BETTER, Verdict.WORSE)


@frozen(kw_only=True)
class Limits:
    """What counts as a change, and what is allowed for between runs.

    What counts is a share of the smaller of both times, so that a rise counts from that percentage of A on; what is
    allowed is one of their mean.

    Busy: ``busy_min`` counts, ``busy_floor_ns`` at least; allowed are ``busy_allowed`` and ``launch_ns`` for each
    launch, since a kernel's time depends on where its operands lie. Of a sum, whose kinds drift apart, allowed are
    ``sum_launch_ns`` for each launch of a kind, squares added, as all its errors are. Against its peers (rows of equal
    kind, shape and launches in other layers, which share that) a row is allowed ``peer_allowed`` and
    ``peer_launch_ns`` times the root of its launches. Idle: ``idle_allowed`` and
    ``idle_call_ns`` a call, both as what counts and as allowance; idle time is the same only where it moved by less
    than ``busy_min`` of the row's wall time, noise counted. Allowed are ``once_factor`` times as much where it
    ran once, and ``once_stall_ns`` besides: a single wait for a lazily loaded library or the operating system.
    """

    busy_min: float = 0.03
    busy_floor_ns: float = 64.0
    busy_allowed: float = 0.01
    launch_ns: float = 100.0
    sum_launch_ns: float = 60.0
    peer_allowed: float = 0.01
    peer_launch_ns: float = 40.0
    idle_allowed: float = 0.5
    idle_call_ns: float = 10_000.0
    once_factor: float = 3.0
    once_stall_ns: float = 5e6


def judge(change: float, half: float, *, allowance: float, smallest: float, negligible: float | None = None) -> Verdict:
    """Return the verdict on a change of a time: less is better. All in the same unit.

    Where ``negligible`` is given, it is the same only within that, noise counted, and not below what counts as a
    change: what may be the host's doing is no proof that nothing changed.
    """
    if abs(change) >= smallest and abs(change) > half + allowance:
        return Verdict.WORSE if change > 0 else Verdict.BETTER
    if negligible is not None:
        return Verdict.SAME if abs(change) + half <= negligible else Verdict.INCONCLUSIVE
    if abs(change) <= smallest and half <= smallest:
        return Verdict.SAME
    return Verdict.INCONCLUSIVE
