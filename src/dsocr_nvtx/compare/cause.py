"""What a cause of a change is: what its cells have in common, its time in both runs, and what it opens into."""

from collections.abc import Sequence

from attrs import evolve, frozen

from dsocr_nvtx.compare.explain import What
from dsocr_nvtx.compare.verdicts import Verdict

_ALIKE = 0.25
"""Share by which the changes of layers may differ that are told together."""


@frozen(kw_only=True)
class Opened:
    """A kernel of a cause: its launches and time per unit in both runs."""

    name: str
    a_count: float
    b_count: float
    a_ns: float
    b_ns: float

    @property
    def cost(self) -> float:
        """What it adds to a unit, in ns."""
        return self.b_ns - self.a_ns

    @property
    def means(self) -> tuple[float, float]:
        """The mean time of a launch in both runs, in ns; 0 where there is none."""
        one, two = (
            ns / count if count else 0.0 for ns, count in ((self.a_ns, self.a_count), (self.b_ns, self.b_count))
        )
        return one, two


@frozen(kw_only=True)
class Place:
    """Rows of one kind in some layers, and what a cause adds to a unit there, in ns."""

    module: str
    kind: str
    layers: tuple[int, ...]
    cost: float


@frozen(kw_only=True)
class Cause:
    """One cause: what has it in common, its time per unit in both runs, and what it adds; opened into its parts.

    ``sort`` is kernel, rows, idle, stall or call; ``what`` tells which cells: `What`. ``detail`` names CUDA calls
    meanwhile.
    """

    stage: str
    unit: str
    sort: str
    what: What
    name: str
    module: str = ""
    kind: str = ""
    layers: tuple[int, ...] = ()
    verdict: Verdict
    a_ns: float
    b_ns: float
    cost: float
    a_count: float = 0.0
    b_count: float = 0.0
    places: tuple[Place, ...] = ()
    kernels: tuple[Opened, ...] = ()
    step: int | None = None
    detail: str = ""

    @property
    def factor(self) -> float | None:
        """B's time over A's, None where A has none."""
        return self.b_ns / self.a_ns if self.a_ns else None

    @property
    def where(self) -> str:
        """Its rows, like ``decoder.3 experts`` or ``decoder attention x12``; empty where it lies in all of a stage."""
        return rows_text(self.module, self.kind, self.layers) if self.module else ""

    @property
    def title(self) -> str:
        """What it is, and where: what people search for."""
        if self.sort == "stall":
            return f"{self.where}: stall in step {self.step}"
        if self.sort in ("kernel", "call"):
            return f"{self.name} in {self.where}" if self.where else self.name
        if self.sort == "rows":
            return self.where or "every kernel"
        waits = f"idle ({self.name})" if self.name else "idle"
        return f"{self.where}: {waits}" if self.where else f"{waits} everywhere"


def rows_text(module: str, kind: str, layers: Sequence[int]) -> str:
    """Return rows of a module and kind in some layers, several layers by their count."""
    layer = f".{layers[0]}" if len(layers) == 1 else ""
    count = f"x{len(layers)}" if len(layers) > 1 else ""
    return " ".join(word for word in (f"{module}{layer}", kind, count) if word)


def told_together(found: Sequence[Cause]) -> list[Cause]:
    """Return causes of which those that changed alike in several layers of one module and kind are one."""
    answer: list[Cause] = []
    for cause in found:
        at = next((at for at, other in enumerate(answer) if _alike(cause, other)), None)
        if at is None:
            answer.append(cause)
        else:
            answer[at] = _merged(answer[at], cause)
    return answer


def _alike(one: Cause, other: Cause) -> bool:
    if one.what not in (What.LAYER, What.ROW, What.NAME_IN_ROW) or one.what != other.what:
        return False
    if (one.sort, one.module, one.kind, one.name) != (other.sort, other.module, other.kind, other.name):
        return False
    if one.factor is None or other.factor is None:
        return one.factor == other.factor
    changes = one.factor - 1, other.factor - 1
    return changes[0] * changes[1] > 0 and abs(changes[0] - changes[1]) <= _ALIKE * max(map(abs, changes))


def _merged(one: Cause, other: Cause) -> Cause:
    kernels: dict[str, Opened] = {kernel.name: kernel for kernel in one.kernels}
    for kernel in other.kernels:
        mine = kernels.get(kernel.name)
        kernels[kernel.name] = kernel if mine is None else Opened(
            name=kernel.name, a_count=mine.a_count + kernel.a_count, b_count=mine.b_count + kernel.b_count,
            a_ns=mine.a_ns + kernel.a_ns, b_ns=mine.b_ns + kernel.b_ns,
        )  # fmt: skip
    return evolve(
        one, layers=tuple(sorted({*one.layers, *other.layers})), a_ns=one.a_ns + other.a_ns, b_ns=one.b_ns + other.b_ns,
        cost=one.cost + other.cost, a_count=one.a_count + other.a_count, b_count=one.b_count + other.b_count,
        places=one.places + other.places,
        kernels=tuple(sorted(kernels.values(), key=lambda kernel: (-abs(kernel.cost), kernel.name))),
    )  # fmt: skip
