"""The least time a call can take on given roofs.

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

MOVED = ("weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes")
"""The fields of `Cost` whose sum is the lower bound of the bytes moved."""


@frozen(eq=False)
class LeastTimes:
    """Least times per call in ns: by matrix units, by vector units, by DRAM, by L2 (0 where its rate is not known)."""

    tensor: Floats
    vector: Floats
    dram: Floats
    l2: Floats

    @property
    def roofline(self) -> Floats:
        """The least time of each call."""
        return np.maximum(self.compute, self.memory)

    @property
    def compute(self) -> Floats:
        """The least time of each call if memory were free."""
        return np.maximum(self.tensor, self.vector)

    @property
    def memory(self) -> Floats:
        """The least time of each call if arithmetic were free."""
        return np.maximum(self.dram, self.l2)

    def at_roofs(self) -> dict[str, Floats]:
        """Return the least time of each call under the roof it is at: compute, memory or l2; 0 under the others."""
        compute = self.compute >= self.memory
        l2 = ~compute & (self.l2 > self.dram)
        masks = {"compute": compute, "memory": ~compute & ~l2, "l2": l2}
        return {name: np.where(mask, self.roofline, 0.0) for name, mask in masks.items()}


def least_times(own: Mapping[str, Ints], dtypes: tuple[Ints, list[str]], roofs: Ceilings) -> LeastTimes:
    """Return each call's least times, 0 without roofs; refuse an element type whose matrix rate the roofs lack."""
    if not roofs.is_known:
        return LeastTimes(*[np.zeros(len(dtypes[0]))] * 4)
    codes, words = dtypes
    peaks = np.ones(len(words))
    for code, word in enumerate(words):
        peak = roofs.tensor_peak(word)
        if peak is None and own["tensor_flops"][codes == code].any():
            raise Refused(roofs.device, f"no matrix rate for {word}", "pass --ceilings FILE with that rate")
        peaks[code] = peak or 1
    moved = np.sum([own[name] for name in MOVED], axis=0)
    cold = moved - np.minimum(own["activation_bytes"], roofs.l2_bytes)
    return LeastTimes(
        tensor=own["tensor_flops"] * 1e9 / peaks[codes],
        vector=own["vector_flops"] * 1e9 / roofs.vector,
        dram=cold * 1e9 / roofs.bandwidth,
        l2=moved * 1e9 / roofs.l2_bandwidth if roofs.l2_bandwidth else np.zeros(len(moved)),
    )
