"""Which reports a fleet is made of: patterns and paths as typed, each report under a name of its own."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from attrs import frozen

from dsocr_nvtx.errors import Refused, UsageError


@frozen
class Input:
    """One report, and the name that stands for it in partitions, tables and links."""

    name: str
    path: Path


def is_pattern(path: Path) -> bool:
    """Say whether a path is a pattern such as ``ranks/*.nsys-rep`` rather than a file's name, there or not.

    A name with a bracket that is there, or matches nothing, is a name; one with * or ? that matches others too is not:
    a file that is called like the pattern is one of those that it matches.
    """
    found = glob(str(path))
    if any(mark in str(path) for mark in "*?"):
        return found != [str(path)] or not path.exists()
    return not path.exists() and bool(found)


def inputs_of(given: Sequence[Path]) -> list[Input]:
    """Return the reports that paths and patterns name, each file once, in the order of their names.

    A name is the file's without its suffix. Where two would share it, or something in it had to be replaced, a part of
    the path's hash is added: names do not depend on the order. Refused: a pattern that nothing matches.
    """
    every: list[Path] = []
    for one in given:
        found = sorted(Path(name) for name in glob(str(one), recursive=True)) if is_pattern(one) else [one]
        if not found:
            raise Refused(str(one), "no report matches the pattern", "give the reports' paths, or quote the pattern")
        every += found
    if not every:
        raise UsageError("no report given")
    # Of several names of one file the first in order, so that the order given does not matter.
    paths = {path.resolve(): path for path in sorted(every, reverse=True)}.values()
    stems = {path: _stem(path) for path in paths}
    shared = Counter(stems.values())
    named = [Input(stem if shared[stem] == 1 else f"{stem}-{_digest(path)}", path) for path, stem in stems.items()]
    return sorted(named, key=lambda one: natural(one.name))


def _stem(path: Path) -> str:
    """Return a name that is fit for a directory, a partition and a link as it is: nothing in it needs an escape."""
    name = path.name.removesuffix(".xz") or path.resolve().name
    stem = name.rsplit(".", 1)[0] or name
    plain = re.sub(r"^[.]|[^A-Za-z0-9._-]", "_", stem)
    return plain if plain == stem else f"{plain}-{_digest(path)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key of names by which rank-10 comes after rank-9."""
    parts: list[str] = []
    for char in name:
        if parts and parts[-1][-1].isdecimal() == char.isdecimal():
            parts[-1] += char
        else:
            parts.append(char)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
