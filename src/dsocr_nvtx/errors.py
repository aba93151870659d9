"""The errors a user can meet; each knows the exit code it ends a command with. What is said of one is a line."""

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TextIO

UNEXPECTED = 70
"""Exit code of a defect of ours: never 1, by which a gate says that a rule does not hold."""
INTERRUPTED = 130


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


class Unprinted(DsocrError):
    """Standard output takes no more, its disk being full; files that the command wrote are there."""

    slug = "unprinted"


def printable_line(text: str) -> str:
    """Return text as one line whatever it quotes: a path or a report's text may hold line ends and terminal codes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor: what is not printable but line ends is spelt out.

    That goes for whatever a terminal, a page or CSV is given of a report, a path or a table.
    """
    return "\n".join(line if line.isprintable() else printable_line(line) for line in text.split("\n"))


def exit_code_of(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; where it failed, one line on stderr has said why.

    A message to the user has its own code, and so has wrong usage. What the system refuses (disk, memory) is 3, an
    interrupt 130. Anything else is a defect of ours: 70, and the line names the file with the details.
    """
    _wrap_streams()
    # Processes that are started from here import nothing from the current directory either.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()
    except DsocrError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except MemoryError as error:
        why = f" ({error})" if str(error) else ""
        return _say(f"not enough memory{why}; give it more, or a smaller input", DsocrError.exit_code)
    except OSError as error:
        # Disk full, no permission: the file that was being written is gone, what stood there before still stands.
        return _say(f"{error.filename or 'file system'}: {error.strerror or error}", DsocrError.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a line
        return _said_by_parser(error) or _say_defect(error)
    return code if isinstance(code, int) else 0


def _say(text: str, code: int) -> int:
    print(f"dsocr-nvtx: {printable_line(text)}", file=sys.stderr)
    return code


def _said_by_parser(error: Exception) -> int:
    """Print what the parser of options says of wrong usage and return its exit code; 0 for any other error."""
    if type(error).__name__ == "Abort":  # how some of its versions tell an interrupt
        return _say("interrupted", INTERRUPTED)
    show, code = getattr(error, "show", None), getattr(error, "exit_code", 0)
    if show is None or not code:
        return 0
    text = io.StringIO()
    show(file=text)
    print(printable(text.getvalue()), end="", file=sys.stderr)
    return int(code)


def _say_defect(error: Exception) -> int:
    text = f"unexpected: {type(error).__name__}: {str(error)[:200]}"
    try:
        number, name = tempfile.mkstemp(prefix="dsocr-nvtx-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="replace") as file:
            file.write("".join(traceback.format_exception(error)))
        text += f"; the details are in {name}: please report them"
    except OSError:
        text += "; please report it"
    return _say(text, UNEXPECTED)


class _Outlet(io.FileIO):
    """Where output goes, until its reader leaves, as `head` does, or its disk is full: then it goes nowhere.

    A command finishes its work without a reader, and its exit code says how that went.
    """

    is_needed: bool = True

    def write(self, data: Any) -> int:
        """Write, and return how much was."""
        try:
            return super().write(data) or 0
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.is_needed and not isinstance(error, BrokenPipeError):
                raise Unprinted(f"standard output: {error.strerror or error}") from error
            return len(data)


def _wrap_streams() -> None:
    """Let both streams lose their readers, and spell out what their encoding lacks; others' streams are left alone."""
    if sys.stdout is sys.__stdout__ and sys.__stdout__ is not None:
        sys.stdout = _outlet(sys.__stdout__, is_needed=True)
    if sys.stderr is sys.__stderr__ and sys.__stderr__ is not None:
        sys.stderr = _outlet(sys.__stderr__, is_needed=False)


def _outlet(stream: TextIO, *, is_needed: bool) -> TextIO:
    try:
        raw = _Outlet(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError):
        return stream
    raw.is_needed = is_needed
    lines = not is_needed or stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=lines
    )
