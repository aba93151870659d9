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
from pathlib import Path

from tests.fuzz.harness import Found, Subject, try_case, warm
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
        for seed in range(given.seed, given.seed + min(given.cases, sys.maxsize - given.seed)):
            for subject in subjects:
                if time.monotonic() > until:
                    break
                one = tried_once(subject, seed, Path(name), given.keep)
                tried[subject.name] += 1
                if one is not None:
                    found += 1
                    print(one, flush=True)
            if time.monotonic() > until:
                break
    print(f"{tried.total():,} cases, {found} with faults: {dict(tried)}")
    return int(found > 0)


def prepare(subjects: list[Subject], folder: Path) -> None:
    """Prepare each subject in a folder of its own."""
    for subject in subjects:
        (folder / subject.name).mkdir()
        subject.prepare(folder / subject.name)


def tried_once(subject: Subject, seed: int, folder: Path, keep: Path | None) -> Found | None:
    """Try one case in a folder that is empty before and gone afterwards, but for what is to be kept."""
    case = folder / "case"
    case.mkdir()
    try:
        found = try_case(subject, seed, case)
        if keep is not None and (found is not None):
            shutil.copytree(case, keep / f"{subject.name}-{seed}", dirs_exist_ok=True, ignore_dangling_symlinks=True)
    finally:
        shutil.rmtree(case)
    return found


if __name__ == "__main__":
    sys.exit(main())
