"""What the directories are that this package writes: a run's, a join's, a fleet's. Each is told by one file in it.

Commands take one kind each. What is another kind is refused by what it is, with the command that takes it.
"""

import json
from pathlib import Path

from dsocr_nvtx.errors import Refused

RUN, JOINED, FLEET = "run.json", "join.json", "fleet.json"
"""The file in each kind of directory that tells it."""
REMEDY = "name a directory that dsocr-nvtx join wrote, or join the report again"


def check_joined(folder: Path) -> None:
    """Refuse what is no output directory of one report's join, before any table is looked for."""
    if not folder.exists():
        raise Refused(folder, "no such directory", REMEDY)
    if not folder.is_dir():
        raise Refused(
            folder, "a file, not the directory that join wrote", f"dsocr-nvtx join {folder}, if it is a report"
        )
    if (folder / FLEET).exists():
        remedy = "open its fleet.html; for this command join one report alone: dsocr-nvtx join REPORT -o OUT"
        raise Refused(folder, "a data set of many reports (a fleet)", remedy)
    if not (folder / JOINED).is_file():
        remedy = f"dsocr-nvtx join REPORT --run {folder} -o OUT, and name OUT"
        is_run = (folder / RUN).is_file()
        raise Refused(folder, "a run's directory" if is_run else "no join.json in it", remedy if is_run else REMEDY)
    try:
        told = json.loads((folder / JOINED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise Refused(folder / JOINED, "not the accounting of a join", REMEDY) from cause
    if not isinstance(told, dict):
        raise Refused(folder / JOINED, "not the accounting of a join", REMEDY)


def check_run_directory(folder: Path) -> None:
    """Refuse what is no directory of one run, as `join --run` takes it."""
    remedy = "give the directory that the run wrote (its --out, or the newest in runs/)"
    if not folder.is_dir():
        raise Refused(folder, "a file" if folder.exists() else "no such directory", remedy)
    if (folder / JOINED).is_file():
        raise Refused(folder, "what join wrote, no run's directory", remedy)
    if not (folder / "ranges.arrow").is_file():
        ranks = sorted(one.name for one in folder.glob("rank-*") if one.is_dir())
        if ranks:
            raise Refused(folder, "the directory of several ranks", f"for one report give its own: {folder / ranks[0]}")
        raise Refused(folder, "no run's directory: no ranges.arrow in it", remedy)


def check_report(path: Path) -> None:
    """Refuse a directory of ours where a report is asked for. One in which CUPTI recorded a run is for its reader."""
    if (path / JOINED).is_file() or (path / FLEET).is_file():
        remedy = "give the report that it was joined from; show, report and diff take what join wrote"
        raise Refused(path, "what join wrote, not a report", remedy)
    if (path / RUN).is_file():
        remedy = f"dsocr-nvtx join REPORT --run {path}, with the report that nsys wrote of it"
        raise Refused(path, "a run's directory, not a report", remedy)
