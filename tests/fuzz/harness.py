"""Runs the command line on damaged inputs, apart from this process, and says what it did that it must not do.

What holds for every input, whatever is wrong with it: the command ends by itself within bounded time and memory, with
an exit code of `ALLOWED`; what it refuses, it refuses in one line on stderr, and leaves nothing behind; its inputs stay
as they are, with nothing left beside them. What holds of the answer where there is one, a `Case` says itself.

A subject makes cases of one kind from a seed. To add one: write its ``prepare`` and ``make``, and name it in
`tests.fuzz.subjects`.
"""

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from attrs import field, frozen

ALLOWED = frozenset({0, 3})
SECONDS = 20
"""Of processor time; a process that waits for ever is stopped after a few times that."""
MEMORY = 2 << 30
"""Bytes of address space beyond what the imports take."""
_FILES = 1 << 28
"""Bytes that one file may grow to."""


@frozen
class Outcome:
    """How a command ended: its exit code (negative: the signal that ended it), what it printed, how long it took."""

    code: int
    stdout: str
    stderr: str
    seconds: float


@frozen(kw_only=True)
class Case:
    """A command on a damaged input.

    ``inputs`` must be as they were afterwards; of ``outputs`` none may be there where the command refused. ``faults``
    says what is wrong with the answer. ``what`` says what was damaged.
    """

    what: str
    arguments: Sequence[str]
    inputs: Sequence[Path]
    outputs: Sequence[Path] = ()
    allowed: frozenset[int] = ALLOWED
    faults: Callable[[Outcome], Iterator[str]] = field(default=lambda _: iter(()))


class Subject(Protocol):
    """A kind of input."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Make what cases are mutations of, once."""
        ...

    def make(self, random: Random, folder: Path) -> Case:
        """Write one damaged input into an empty folder."""
        ...


@frozen
class Found:
    """A case in which something was wrong: which, and what."""

    subject: str
    seed: int
    what: str
    faults: list[str]

    def __str__(self) -> str:
        return f"{self.subject} {self.seed} ({self.what}): {'; '.join(self.faults)}"


def try_case(subject: Subject, seed: int, folder: Path) -> Found | None:
    """Make one case in an empty folder and run it."""
    (found,) = try_cases(subject, [(seed, folder)])
    return found


def try_cases(subject: Subject, places: Sequence[tuple[int, Path]]) -> list[Found | None]:
    """Make a case of each seed in an empty folder of its own, and run them one after the other."""
    cases = [subject.make(Random(f"{subject.name} {seed}"), folder) for seed, folder in places]
    before = [_contents(case.inputs) for case in cases]
    outcomes = run_all([(case.arguments, folder) for case, (_, folder) in zip(cases, places, strict=True)])
    found: list[Found | None] = []
    for case, was, outcome, (seed, folder) in zip(cases, before, outcomes, places, strict=True):
        faults = [*_faults(case, outcome, folder)]
        if _contents(case.inputs) != was:
            faults.append("an input was changed")
        if outcome.code == 0 and not faults:
            faults += case.faults(outcome)
        found.append(Found(subject.name, seed, case.what, faults) if faults else None)
    return found


def _contents(inputs: Sequence[Path]) -> dict[Path, object]:
    """Return what inputs are, of a folder all its files: their bytes, or for what is no file its kind."""
    every = [path for one in inputs for path in ([one, *sorted(one.rglob("*"))] if one.is_dir() else [one])]
    return {path: path.read_bytes() if path.is_file() else path.lstat().st_mode for path in every}


def _faults(case: Case, outcome: Outcome, folder: Path) -> Iterator[str]:
    lines = outcome.stderr.splitlines()
    if outcome.code < 0:
        yield f"ended by {signal.Signals(-outcome.code).name} after {outcome.seconds:.0f} s"
    elif outcome.code not in case.allowed:
        yield f"exit code {outcome.code}: {lines[-1] if lines else 'no word'}"
    elif outcome.code and (len(lines) != 1 or outcome.stdout):
        yield f"not one line on stderr: {outcome.stderr[-300:]!r}, stdout {outcome.stdout[-100:]!r}"
    elif not outcome.code and any(not line.startswith("dsocr-nvtx: ") for line in lines):
        yield f"odd words on stderr: {outcome.stderr[-300:]!r}"
    kept = {*case.inputs, *(case.outputs if outcome.code == 0 else ()), folder / _OUT, folder / _ERR}
    left = [path.name for path in folder.iterdir() if path not in kept and not _is_above(path, case.inputs)]
    if left and outcome.code >= 0:
        yield f"left behind: {', '.join(sorted(left))}"


def _is_above(path: Path, inputs: Sequence[Path]) -> bool:
    return any(path in one.parents for one in inputs)


_OUT, _ERR = "stdout", "stderr"


def run_all(commands: Sequence[tuple[Sequence[str], Path]]) -> list[Outcome]:
    """Run `dsocr-nvtx` with each of the arguments, in a child of this process, which shares its imports.

    What each prints goes to files in its folder. One child runs them one after the other, as to start another takes
    longer than most commands do; where one ends it, another child runs the rest.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(commands):
        outcomes += _run_some(commands[len(outcomes) :])
    return outcomes


def _run_some(commands: Sequence[tuple[Sequence[str], Path]]) -> list[Outcome]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_here(commands, writer)
    os.close(writer)
    outcomes: list[Outcome] = []
    while len(outcomes) < len(commands):
        code, seconds = _told(reader, child)
        _, folder = commands[len(outcomes)]
        stdout, stderr = (_read(folder / name) for name in (_OUT, _ERR))
        outcomes.append(Outcome(code, stdout, stderr, seconds))
        if code < 0:
            break
    os.close(reader)
    if outcomes[-1].code >= 0:
        os.waitpid(child, 0)
    return outcomes


def _told(reader: int, child: int) -> tuple[int, float]:
    """Return the exit code of the command that the child runs, and for how long it ran; by what it ended the child."""
    began = time.monotonic()
    if select.select([reader], [], [], 5 * SECONDS)[0]:
        told = os.read(reader, 4)
        if told:
            return int(told), time.monotonic() - began
    else:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return min(code, -1), time.monotonic() - began


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""


def _run_here(commands: Sequence[tuple[Sequence[str], Path]], writer: int) -> None:
    """Become a process that runs commands; never returns."""
    try:
        for arguments, folder in commands:
            for name, stream in ((_OUT, 1), (_ERR, 2)):
                file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, stream)
                os.close(file)
            code = _command(arguments, folder)
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(writer, b"%4d" % code)
    finally:
        os._exit(0)


def _command(arguments: Sequence[str], folder: Path) -> int:
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the next command
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ["TMPDIR"] = str(folder)
    sys.argv = ["dsocr-nvtx", *arguments]
    try:
        _limit()
        from dsocr_nvtx.cli import main

        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what a user would see as a traceback
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _limit() -> None:
    import tempfile

    tempfile.tempdir = None
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def warm() -> None:
    """Import what commands need, so that each child finds it there; nothing is computed, as threads do not survive."""
    import contextlib
    import io

    import rich._emoji_codes  # noqa: F401

    import dsocr_nvtx.cli.commands
    import dsocr_nvtx.cli.fleet
    import dsocr_nvtx.cli.join
    import dsocr_nvtx.cli.project
    import dsocr_nvtx.report.opened
    import dsocr_nvtx.report.page  # noqa: F401
    from dsocr_nvtx.cli import main

    sys.argv = ["dsocr-nvtx", "project", "no such report", "-o", "p.arrow"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        main()
