"""What a serving engine says in plain text: marks that tell a step's sequences, and what happened to requests.

A step's mark is made just after its range was pushed, on the same thread; a request's at the instant that it tells of,
on any thread of any process. A damaged mark is other text.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "LONGEST_NAME",
    "REQUEST_PREFIX",
    "SERVED_PREFIX",
    "RequestEvent",
    "RequestMark",
    "ServedMark",
    "ServedSequence",
    "parse_request_mark",
    "parse_served_mark",
    "request_mark",
    "request_name",
    "served_mark",
]

SERVED_PREFIX = "dsocr/2s "
"""Starts the marks that say which sequences a step works on."""
REQUEST_PREFIX = "dsocr/2r "
"""Starts the marks that say what happened to a request."""

LONGEST_NAME = 64
"""Characters of a request's name."""


class ServedSequence(NamedTuple):
    """One sequence of a step: its request, query rows, keys in the cache after the step, and whether it decodes."""

    name: str
    rows: int
    keys: int
    decodes: bool


class ServedMark(NamedTuple):
    """The sequences of one step, as the scheduler says. ``event_id`` is that of the step's range.

    ``padded_rows`` are those that the forward is run with, 0 where that is not known.
    """

    event_id: int
    padded_rows: int
    sequences: tuple[ServedSequence, ...]


class RequestEvent(StrEnum):
    """What happens to a request, in this order."""

    ARRIVED = "arrived"
    PREPROCESSED = "preprocessed"
    QUEUED = "queued"
    FINISHED = "finished"


class RequestMark(NamedTuple):
    """What happened to a request at the instant of the mark.

    ``number`` are the tokens of a finished one; of one that arrived, how many nanoseconds before the mark that was,
    where the mark could not be made at once.
    """

    name: str
    what: RequestEvent
    number: int | None = None


@lru_cache(4096)  # a step names all its requests, and is one of very many
def request_name(text: str) -> str:
    """Return a request's id as marks can hold it: printable, without spaces and colons, at most 64 characters."""
    plain = "".join("_" if char in " :" or not char.isprintable() else char for char in text)
    return plain[:LONGEST_NAME] or "_"


def served_mark(event_id: int, padded_rows: int, sequences: Iterable[ServedSequence]) -> str:
    """Return the plain-text form of a `ServedMark`."""
    each = (f" {request_name(name)}:{rows}:{keys}:{'d' if decodes else 'p'}" for name, rows, keys, decodes in sequences)
    return f"{SERVED_PREFIX}{event_id} {padded_rows}{''.join(each)}"


def request_mark(name: str, what: RequestEvent, number: int | None = None) -> str:
    """Return the plain-text form of a `RequestMark`."""
    told = "" if number is None else f" {number}"
    return f"{REQUEST_PREFIX}{request_name(name)} {what}{told}"


_NAME = f"[^ :]{{1,{LONGEST_NAME}}}"
_SERVED_LINE = re.compile(
    f"{re.escape(SERVED_PREFIX)}([0-9]{{1,18}}) ([0-9]{{1,12}})((?: {_NAME}:[0-9]{{1,12}}:[0-9]{{1,12}}:[pd])*)"
)
_REQUEST_LINE = re.compile(f"{re.escape(REQUEST_PREFIX)}({_NAME}) ({'|'.join(RequestEvent)})(?: ([0-9]{{1,15}}))?")


_NUMBERED = {RequestEvent.FINISHED: (False,), RequestEvent.ARRIVED: (True, False)}
"""Whether an event may come without a number; any other than these only does."""


def parse_served_mark(text: str) -> ServedMark | None:
    """Return what a mark says of a step's sequences, or None for any other text, damaged marks included."""
    found = _SERVED_LINE.fullmatch(text) if text.isprintable() else None
    if found is None:
        return None
    each = (word.split(":") for word in found[3].split(" ")[1:])
    sequences = tuple(ServedSequence(name, int(rows), int(keys), kind == "d") for name, rows, keys, kind in each)
    if any(sequence.keys < sequence.rows for sequence in sequences):
        return None
    return ServedMark(int(found[1]), int(found[2]), sequences)


def parse_request_mark(text: str) -> RequestMark | None:
    """Return what a mark says of a request, or None for any other text, damaged marks included."""
    found = _REQUEST_LINE.fullmatch(text) if text.isprintable() else None
    if found is None:
        return None
    what, number = RequestEvent(found[2]), None if found[3] is None else int(found[3])
    return RequestMark(found[1], what, number) if (number is None) in _NUMBERED.get(what, (True,)) else None
