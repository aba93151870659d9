"""What torch.compile's tracer sees in place of a hooked method, and what it does not look at.

Where compiled code calls back into Python, the tracer looks at every function that is entered. The hooks' own are not
for it: those that call the model are skipped, so that the model's inside them are traced, the others are shielded.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from types import FunctionType, MethodType
from typing import Any, ParamSpec, TypeVar

import torch

_FRAMES: Any = (
    torch._C._dynamo.eval_frame
)  # torch._dynamo, which has all this under public names, takes seconds to import

Method = Callable[..., Any]
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Method)


def skipped(function: F) -> F:
    """Return a function that is run as it stands where compiled code calls it; what it calls is traced."""
    code = function.__code__
    if hasattr(_FRAMES, "skip_code"):  # before torch 2.7
        _FRAMES.skip_code(code)
    else:
        action = _FRAMES._FrameAction
        _FRAMES.set_code_exec_strategy(code, _FRAMES._FrameExecStrategy(action.SKIP, action.DEFAULT))
    return function


def shielded(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function in which torch.compile's tracer looks at nothing."""

    @wraps(function)
    def untraced(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _FRAMES.set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            _FRAMES.set_eval_frame(before)

    return skipped(untraced)


def hidden(function: Method) -> Method:
    """Return a function as it is where it is not written in Python, else shielded."""
    return shielded(function) if isinstance(function, FunctionType | MethodType) else function


def traced_as(stand_in: Method, traced: Method, *, begins: bool = False) -> Method:
    """Return ``stand_in``, in whose place torch.compile's tracer follows ``traced``.

    Asking at every call whether it is traced took a tenth of what a hook costs. The names are those by which
    torch.compile's own wrappers tell the tracer what they stand for. Where the stand-in itself is handed to
    torch.compile ``traced`` is compiled; not so where it ``begins`` a forward: it runs, and what it calls is compiled.
    """
    told: dict[str, Any] = {"_torchdynamo_inline": traced, "_torchdynamo_wrapper_id": id(stand_in)}
    if not begins:
        told["_torchdynamo_orig_callable"] = traced
    stand_in.__dict__ = _Attributes(stand_in.__dict__ | told)
    return skipped(stand_in)


class _Attributes(dict[str, Any]):
    """A function's attributes, of which `functools.wraps` copies none that torch.compile's tracer is told.

    The tracer would take the function that they were copied to for the hooked method as well, and leave out its work.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if not name.startswith("_torchdynamo_"))

    def keys(self) -> Any:
        return list(self)
