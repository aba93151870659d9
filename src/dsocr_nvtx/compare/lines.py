"""What is said of one row, one layer or one stage: its times in both runs, their change, and the verdict."""

from attrs import field, frozen

from dsocr_nvtx.compare.steps import PARTS
from dsocr_nvtx.compare.verdicts import Verdict


@frozen(kw_only=True)
class Moved:
    """A time in both runs, per unit, and its change; ``half`` is the noise bound, ``allowance`` that between runs.

    The true change lies between ``low`` and ``high``, noise and allowance counted.
    ``a`` and ``b`` are means over the compared steps, which add up; ``change`` is the typical change, which a few odd
    steps do not move, ``typical`` what it is a share of, and ``base`` the mean of both runs' typical times.
    """

    a: float
    b: float
    change: float
    half: float
    allowance: float
    low: float
    high: float
    typical: float
    base: float
    verdict: Verdict

    @classmethod
    def exact(cls, a: float, b: float, verdict: Verdict | None = None) -> "Moved":
        """Return a change that nothing repeats and no noise is known of, as a count or what ran outside the steps."""
        return cls(
            a=a, b=b, change=b - a, half=0.0, allowance=0.0, low=b - a, high=b - a, typical=a, base=(a + b) / 2,
            verdict=verdict or (Verdict.SAME if a == b else Verdict.INCONCLUSIVE),
        )  # fmt: skip

    @property
    def typical_b(self) -> float:
        """The typical time of B."""
        return 2 * self.base - self.typical

    @property
    def relative(self) -> float | None:
        """The typical change as a share of A, what verdicts rest on; None where A took no time."""
        return self.change / self.typical if self.typical else None

    @property
    def share(self) -> float | None:
        """The change of the means as a share of A's, what stands beside ``a`` and ``b``; None where A took no time."""
        return (self.b - self.a) / self.a if self.a else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """``low`` and ``high`` as shares of A; None where A took no time."""
        return (self.low / self.typical, self.high / self.typical) if self.typical else None


@frozen(kw_only=True)
class Line:
    """A row, or a sum of rows: a layer has no kind, a stage no module either. ``parts`` follow `PARTS`.

    ``present`` is ``both``, ``A`` or ``B``; ``moved`` what the verdict is about: busy, idle, both, or nothing.
    """

    stage: str
    module: str = ""
    kind: str = ""
    layer: int | None = None
    phase: str = "run"
    unit: str
    present: str
    steps: int
    a_calls: float
    b_calls: float
    a_launches: float
    b_launches: float
    busy: Moved
    idle: Moved
    wall: Moved
    drift: float | None = None
    peers: int = 0
    against_peers: bool = False
    verdict: Verdict
    moved: str
    reason: str
    parts: tuple[int, ...] = field(default=(0,) * len(PARTS))

    @property
    def contribution(self) -> int:
        """What the row adds to the change of its stage's wall time, in ns per unit."""
        return sum(self.parts)


def place(line: Line) -> str:
    """Return where a line is, like ``decoder.3 experts``."""
    layer = "" if line.layer is None else f".{line.layer}"
    words = (f"{line.module}{layer}" if line.module else "all", line.kind, "(capture)" * (line.phase == "capture"))
    return " ".join(word for word in words if word)
