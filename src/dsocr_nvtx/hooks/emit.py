"""Where ranges go: NVTX, CUPTI, a test's listener, or nowhere."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dsocr_nvtx.schema.payload import DOMAIN, PAYLOAD_DTYPE, PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import Stage

Words = npt.NDArray[np.int64]


class Emitter(Protocol):
    """What recorders push to. ``push`` takes what ``prepare`` returned; the payload is read at that moment."""

    @property
    def active(self) -> bool:
        """Whether ranges are pushed and popped at all."""
        ...

    @property
    def announces(self) -> bool:
        """Whether somebody hears marks."""
        ...

    @property
    def push(self) -> Callable[[object], object]:
        """Open a range on the calling thread."""
        ...

    @property
    def pop(self) -> Callable[[], object]:
        """Close the innermost open range of the calling thread."""
        ...

    @property
    def mark(self) -> Callable[[str], object]:
        """Say a text at this instant."""
        ...

    def prepare(self, path: str, stage: int, words: Words) -> object:
        """Return the attributes of a range, bound once to its message, category and (edited in place) payload."""
        ...


class Silent:
    """No tool is attached: nothing to push to."""

    active = announces = False

    def prepare(self, path: str, stage: int, words: Words) -> object:  # noqa: ARG002 - the protocol's signature
        """Return what stands for a range that nobody sees."""
        return True

    def push(self, attributes: object) -> object:
        """Do nothing."""

    def pop(self) -> object:
        """Do nothing."""

    def mark(self, text: str) -> object:
        """Do nothing."""


class NvtxDomain:
    """Domain ``dsocr``: registered messages, named categories, typed payloads.

    Announcements are marks of the default domain, made through torch: the ``nvtx`` package would register every
    distinct text and keep it for the life of the process.
    """

    active = announces = True

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


class NativeDomain:
    """The same domain, through the native recorder, which pushes its ranges without entering Python."""

    active = announces = True

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self.push, self.pop, self.mark = domain.push, domain.pop, domain.mark

    def prepare(self, path: str, stage: int, words: Words) -> object:
        """Return a range whose payload is read from ``words`` at every push."""
        made: object = self._domain.prepare(path, stage + 1, words)
        return made


def nvtx_emitter(native: Any = None) -> Emitter:
    """Return the emitter for this process: the domain if an NVTX tool is attached, else `Silent`.

    The tool is found at the first NVTX call of the process; one attached later is not seen. ``native`` is the compiled
    recorder, if that records: then it makes the ranges as well.
    """
    if native is not None:
        domain = native.Domain(DOMAIN, [str(stage) for stage in Stage], list(PAYLOAD_FIELDS))
        return NativeDomain(domain) if domain.active else Silent()
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
