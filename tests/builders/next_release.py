"""What a later release of transformers may do to a model: the same network, called in another way.

`calls_otherwise` changes how one module is called: its arguments are handed over under other names, in other places or
inside something else, and taken back where its own code begins. Hooks, which lie in between, see the new way.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
Way = Callable[[tuple[Any, ...], dict[str, Any]], Call]


def calls_otherwise(module: nn.Module, there: Way, back: Way) -> None:
    """Let callers of a module hand over its arguments as ``there`` makes them; ``back`` undoes it inside."""
    kind: Any = type(module)

    @wraps(kind.forward)  # generate() asks for the signature
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = back(args, kwargs)
        return kind.forward(self, *args, **kwargs)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = there(args, kwargs)
        return kind.__call__(self, *args, **kwargs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__call__": call})


def renamed(old: str, new: str) -> tuple[Way, Way]:
    """Return the ways of an argument that has a new name."""

    def way(before: str, after: str) -> Way:
        def rename(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
            return args, {after if name == before else name: value for name, value in kwargs.items()}

        return rename

    return way(old, new), way(new, old)


def handed(name: str, wrap: Callable[[Any], Any], unwrap: Callable[[Any], Any]) -> tuple[Way, Way]:
    """Return the ways of an argument that is handed over inside something else, where there is one."""

    def way(change: Callable[[Any], Any]) -> Way:
        def put(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
            given = {
                key: change(value) if key == name and value is not None else value for key, value in kwargs.items()
            }
            return args, given

        return put

    return way(wrap), way(unwrap)


def reordered(*order: int) -> tuple[Way, Way]:
    """Return the ways of positional arguments in another order: ``order[i]`` is the old place of the i-th."""

    def there(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return tuple(args[old] for old in order), kwargs

    def back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return tuple(args[order.index(place)] for place in range(len(order))), kwargs

    return there, back


def named(*names: str) -> tuple[Way, Way]:
    """Return the ways of positional arguments that have become named ones."""

    def there(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return args[len(names) :], kwargs | dict(zip(names, args, strict=False))

    def back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        first = tuple(kwargs.pop(name) for name in names if name in kwargs)
        return first + args, kwargs

    return there, back
