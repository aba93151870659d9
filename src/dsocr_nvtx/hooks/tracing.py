"""What torch.compile's tracer sees in place of a hooked method."""

from collections.abc import Callable, Iterator
from typing import Any

Method = Callable[..., Any]


def unseen(hooked: Method, inner: Method) -> Method:
    """Return ``hooked``, which torch.compile's tracer takes for ``inner``.

    Asking at every call whether it is traced took a tenth of what a hook costs. The names are those by which
    torch.compile's own wrappers tell the tracer what they stand for; one that did not know them would trace the hook
    itself, and find no forward under way.
    """

    def plain(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    told = {"_torchdynamo_inline": plain, "_torchdynamo_orig_callable": plain, "_torchdynamo_wrapper_id": id(hooked)}
    hooked.__dict__ = _Attributes(hooked.__dict__ | told)
    return hooked


class _Attributes(dict[str, Any]):
    """A function's attributes, of which `functools.wraps` copies none that torch.compile's tracer is told.

    The tracer would take the function that they were copied to for the hooked method as well, and leave out its work.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if not name.startswith("_torchdynamo_"))

    def keys(self) -> Any:
        return list(self)
