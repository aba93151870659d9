"""Work that threads do ahead of who asks for it, though not far: what is done and not yet taken needs memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")

_MOST = 4


def ahead(pool: Executor, function: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T]:
    """Return what ``function`` makes of each set of arguments, in order; a few at most wait to be taken."""
    waiting: deque[Future[T]] = deque()
    try:
        for each in zip(*arguments, strict=True):
            waiting.append(pool.submit(function, *each))
            if len(waiting) > _MOST:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
