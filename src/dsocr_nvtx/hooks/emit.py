"""Where ranges go: an NVTX domain while a tool listens, nowhere otherwise."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dsocr_nvtx.schema.payload import DOMAIN
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_DTYPE_V1 as PAYLOAD_DTYPE
from dsocr_nvtx.schema.records import Stage

Words = npt.NDArray[np.int64]


class Emitter(Protocol):
    """What taps push to. ``push`` takes what ``prepare`` returned; the payload is read at that moment."""

    @property
    def active(self) -> bool:
        """Whether a tool listens."""
        ...

    @property
    def push(self) -> Callable[[object], object]:
        """Open a range."""
        ...

    @property
    def pop(self) -> Callable[[], object]:
        """Close the innermost open range."""
        ...

    @property
    def mark(self) -> Callable[[str], object]:
        """Say a text at this instant."""
        ...

    @property
    def edge(self) -> Callable[[], object] | None:
        """What is called at both ends of every range where no tool listens; None where nothing is."""
        ...

    def prepare(self, path: str, stage: int, words: Words) -> object:
        """Return the attributes of a range, bound once to its message, category and (edited in place) payload."""
        ...


class Silent:
    """No tool is attached: nothing to push to."""

    active = False
    edge: Callable[[], object] | None = None

    def prepare(self, path: str, stage: int, words: Words) -> object:  # noqa: ARG002 - the protocol's signature
        """Return nothing."""
        return None

    def push(self, attributes: object) -> object:
        """Do nothing."""

    def pop(self) -> object:
        """Do nothing."""

    def mark(self, text: str) -> object:
        """Do nothing."""


class Edges(Silent):
    """No tool is attached, but whoever records the launches wants a call of its own at both ends of every range.

    ``edge`` is called just outside of the times that a range is recorded with.
    """

    def __init__(self, edge: Callable[[], object]) -> None:
        self.edge: Callable[[], object] = edge

    def push(self, attributes: object) -> object:  # noqa: ARG002 - as above
        """Mark where a range begins."""
        return self.edge()

    def pop(self) -> object:
        """Mark where a range ends."""
        return self.edge()


class NvtxDomain:
    """Domain ``dsocr``: registered messages, named categories, typed payloads.

    Announcements are marks of the default domain, made through torch: the ``nvtx`` package would register every
    distinct text and keep it for the life of the process.
    """

    active = True
    edge: Callable[[], object] | None = None

    def __init__(self, domain: object, mark: Callable[[str], object]) -> None:
        self._domain = domain
        self.push = domain.push_range  # type: ignore[attr-defined]
        self.pop = domain.pop_range  # type: ignore[attr-defined]
        self.mark = mark
        # Asked for in the order of `Stage`, so that ids are known where a capture lacks the names.
        self._categories = [domain.get_category_id(str(stage)) for stage in Stage]  # type: ignore[attr-defined]

    def prepare(self, path: str, stage: int, words: Words) -> object:
        """Return event attributes whose payload is a view of ``words``, one record of `PAYLOAD_DTYPE`."""
        record = words.view(PAYLOAD_DTYPE).reshape(())
        attributes: object = self._domain.get_event_attributes(  # type: ignore[attr-defined]
            message=path, category=self._categories[stage], payload=record
        )
        return attributes


def nvtx_emitter() -> Emitter:
    """Return the emitter for this process: the domain if an NVTX tool is attached, else `Silent`.

    The tool is found at the first NVTX call of the process; one attached later is not seen.
    """
    try:
        import nvtx
    except ImportError:
        return Silent()
    domain = nvtx.get_domain(DOMAIN)
    if type(domain).__name__ == "DummyDomain":
        return Silent()
    return NvtxDomain(domain, _marker())


def _marker() -> Callable[[str], object]:
    import torch

    mark: Callable[[str], object] = torch.cuda.nvtx.mark
    # A build of torch without CUDA has no NVTX functions; then payloads alone carry costs.
    return mark if torch.version.cuda else lambda _text: None
