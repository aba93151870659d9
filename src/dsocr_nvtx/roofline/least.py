"""The least time a call can take on given roofs, and what binds a row that took longer.

It is the highest of matrix time, vector time and memory time. Memory time counts as DRAM traffic only what cannot come
from the L2: weights, KV cache, and the activations beyond the size of the L2; where the rate of the L2 is known, all
bytes are also held against it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.schema.hardware import Ceilings

Floats = npt.NDArray[np.float64]

THRESHOLD = 0.6
"""A busy row is bound by a roof when the roof's time is at least this share of its busy time."""

BOUNDS = ["host", "compute", "memory", "latency"]
MOVED = ("weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes")
"""The fields of `Cost` whose sum is the lower bound of the bytes moved."""


@frozen(eq=False)
class LeastTimes:
    """Least times per call in ns: by matrix units, by vector units, by memory, and the highest of the three."""

    tensor: Floats
    vector: Floats
    memory: Floats

    @property
    def roofline(self) -> Floats:
        """The least time of each call."""
        return np.maximum(self.compute, self.memory)

    @property
    def compute(self) -> Floats:
        """The least time of each call if memory were free."""
        return np.maximum(self.tensor, self.vector)


def least_times(own: Mapping[str, Ints], dtypes: tuple[Ints, list[str]], roofs: Ceilings) -> LeastTimes:
    """Return each call's least times; refuse an element type whose matrix rate the roofs do not have."""
    codes, words = dtypes
    peaks = np.ones(len(words))
    for code, word in enumerate(words):
        peak = roofs.tensor_peak(word)
        if peak is None and own["tensor_flops"][codes == code].any():
            raise Refused(roofs.device, f"no matrix rate for {word}", "pass --ceilings FILE with that rate")
        peaks[code] = peak or 1
    moved = np.sum([own[name] for name in MOVED], axis=0)
    cold = moved - np.minimum(own["activation_bytes"], roofs.l2_bytes)
    memory = cold * 1e9 / roofs.bandwidth
    if roofs.l2_bandwidth:
        memory = np.maximum(memory, moved * 1e9 / roofs.l2_bandwidth)
    return LeastTimes(own["tensor_flops"] * 1e9 / peaks[codes], own["vector_flops"] * 1e9 / roofs.vector, memory)


def bound_of(busy: Ints, idle: Ints, compute: Floats, memory: Floats) -> Ints:
    """Return what binds each row as a position in `BOUNDS`, -1 where it took no device time.

    In this order: ``host`` where owned idle exceeds owned busy; ``compute`` or ``memory`` where that roof's time is at
    least `THRESHOLD` of busy; else ``latency``: small or serial kernels, neither roof near.
    """
    floor = THRESHOLD * busy
    by_roof = np.where(compute >= memory, BOUNDS.index("compute"), BOUNDS.index("memory"))
    answer = np.where(np.maximum(compute, memory) >= floor, by_roof, BOUNDS.index("latency"))
    answer = np.where(idle > busy, BOUNDS.index("host"), answer)
    return np.where(busy + idle > 0, answer, -1)
