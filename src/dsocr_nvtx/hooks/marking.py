"""Markers: an operator in compiled code that opens a site's range, and one that closes it.

The tracer of torch.compile puts them around a hooked method's work. They are run in order, as both change one token,
and after what they are shown was computed: at every call of code that was compiled, and at the capture of a CUDA graph.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch

Method = Callable[..., Any]
Hears = Callable[[int, bool, list[torch.Tensor]], None]

_LIBRARY = torch.library.Library("dsocr", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("mark(Tensor(a!) token, Tensor[] shown, int site, bool enters) -> ()")  # type: ignore[no-untyped-call]
_BITS = 20
"""A site's number in the operator's argument takes so many bits; above them is that of its session."""

TOKENS: dict[torch.device, torch.Tensor] = {}
"""What all markers on a device change: one number, at an address that stays, as CUDA graphs need it."""


class Markers:
    """The markers of one session: ``hears`` takes a site's number, whether it is entered, and tensors."""

    def __init__(self, hears: Hears) -> None:
        global _NEXT  # noqa: PLW0603 - compiled code outlives sessions: no number is given twice in a process
        self.hears, self.number = hears, _NEXT
        _NEXT += 1
        _SESSIONS[self.number] = self

    def traced(self, inner: Method, number: int, *, begins: bool) -> Method:
        """Return what torch.compile's tracer follows in place of a hooked method.

        Markers are shown the first floating tensor that a method takes or returns, and all that it takes where it
        ``begins`` a forward.
        """
        site, first_of = self.number << _BITS | number, _all if begins else _first

        def marked(*args: Any, **kwargs: Any) -> Any:
            shown = first_of([*args, *kwargs.values()])
            token = TOKENS.get(shown[0].device) if shown else None
            if token is None:
                return inner(*args, **kwargs)
            torch.ops.dsocr.mark.default(token, shown, site, True)
            result = inner(*args, **kwargs)
            torch.ops.dsocr.mark.default(token, _first([result]), site, False)
            return result

        return marked

    def leave(self) -> None:
        """Let the markers in compiled code do nothing from now on."""
        _SESSIONS.pop(self.number, None)


_NEXT = 0
_SESSIONS: WeakValueDictionary[int, Markers] = WeakValueDictionary()


def put_token(device: torch.device) -> None:
    """Make the token of a device, if it has none yet."""
    if device not in TOKENS:
        with torch.inference_mode(mode=False):
            token = torch.zeros(1, device=device)
        # As torch._dynamo.mark_static_address does, which takes seconds to import.
        token._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]
        TOKENS[device] = token


def _all(values: list[Any]) -> list[torch.Tensor]:
    return [value for value in values if isinstance(value, torch.Tensor)]


def _first(values: list[Any]) -> list[torch.Tensor]:
    """Return the first floating tensor among values and in sequences and outputs among them, in a list."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                return [value]
        elif isinstance(value, tuple | list):
            return _first(list(value))
        elif isinstance(value, dict):
            return _first(list(value.values()))
    return _all(values)[:1]


def _mark(token: torch.Tensor, shown: list[torch.Tensor], site: int, enters: bool) -> None:  # noqa: ARG001
    session = _SESSIONS.get(site >> _BITS)
    if session is not None:
        session.hears(site & (1 << _BITS) - 1, enters, shown)


def _nothing(token: torch.Tensor, shown: list[torch.Tensor], site: int, enters: bool) -> None:
    """Do nothing, where only shapes are worked out."""


_LIBRARY.impl("mark", _mark, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("mark", _nothing, "Meta")  # type: ignore[no-untyped-call]
_LIBRARY.impl("mark", torch.library.fallthrough_kernel, "Autograd")  # type: ignore[no-untyped-call]
