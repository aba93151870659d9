"""The errors a user can meet; each knows the exit code it ends a command with. What is said of one is a line."""

from pathlib import Path
from typing import ClassVar


class DsocrError(Exception):
    """Base of every error that is a message to the user rather than a defect of ours."""

    exit_code: ClassVar[int] = 3
    slug: ClassVar[str] = "error"


class Partial(DsocrError):
    """Some of many could not be done; what could is written whole, and is there to be used."""

    exit_code = 1
    slug = "partial"


class UsageError(DsocrError):
    """The command was called with arguments that do not fit together."""

    exit_code = 2
    slug = "usage"


class Refused(DsocrError):
    """An input cannot be used: which one, what was found there, what to do about it.

    A wrong answer is worse than none, so readers refuse rather than guess.
    """

    slug = "refused"

    def __init__(self, where: Path | str, found: str, remedy: str) -> None:
        self.where, self.found, self.remedy = where, found, remedy
        super().__init__(f"{where}: {found}; {remedy}")


class Unavailable(DsocrError):
    """Something this machine lacks (a GPU, a package, a tool) is needed: what, and how to get it."""

    slug = "unavailable"


def printable_line(text: str) -> str:
    """Return text as one line whatever it quotes: a path or a report's text may hold line ends and terminal codes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
