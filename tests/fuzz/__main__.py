"""`python -m tests.fuzz --minutes N`: fuzz every kind of input, and print what was found, a line each.

A line begins with the subject and the seed: ``--only SUBJECT --seed SEED --cases 1 --keep DIR`` makes the case again
and keeps it.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.harness import Found, Subject, try_cases, warm
from tests.fuzz.subjects import SUBJECTS


def main() -> int:
    """Fuzz; return 1 where something was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="of each subject, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--only", action="append", help="a subject; several may be named")
    parser.add_argument("--keep", type=Path, help="keep what was found in this directory")
    given = parser.parse_args()
    subjects = [one for one in SUBJECTS if not given.only or one.name in given.only]
    tried = Counter[str]()
    until = time.monotonic() + 60 * given.minutes
    warm()
    found = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        prepare(subjects, Path(name))
        for subject, seeds in _batches(subjects, given.seed, given.cases):
            if time.monotonic() > until:
                break
            for one in tried_together(subject, seeds, Path(name), given.keep):
                found += 1
                print(one, flush=True)
            tried[subject.name] += len(seeds)
    print(f"{tried.total():,} cases, {found} with faults: {dict(tried)}")
    return int(found > 0)


def prepare(subjects: list[Subject], folder: Path) -> None:
    """Prepare each subject in a folder of its own."""
    for subject in subjects:
        (folder / subject.name).mkdir()
        subject.prepare(folder / subject.name)


_TOGETHER = 20


def _batches(subjects: list[Subject], first: int, cases: int) -> Iterator[tuple[Subject, range]]:
    """Return subjects in turns, each with some of its seeds: few at first, so that a short run meets all of them."""
    done, size = 0, 2
    while done < cases:
        for subject in subjects:
            yield subject, range(first + done, first + min(done + size, cases))
        done, size = done + size, _TOGETHER


def tried_together(subject: Subject, seeds: range, folder: Path, keep: Path | None) -> list[Found]:
    """Return what was found in some cases; their folders go afterwards, but for what is to be kept."""
    places = [(seed, folder / f"case-{seed}") for seed in seeds]
    for _, place in places:
        place.mkdir()
    found = [one for one in try_cases(subject, places) if one is not None]
    if keep is not None:
        for one in found:
            shutil.copytree(folder / f"case-{one.seed}", keep / f"{one.subject}-{one.seed}", dirs_exist_ok=True)
    for _, place in places:
        shutil.rmtree(place)
    return found


if __name__ == "__main__":
    sys.exit(main())
