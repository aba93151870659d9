"""What the directories are that this package writes: a run's, a join's, a fleet's. Each is told by one file in it.

Commands take one kind each. What is another kind is refused by what it is, with the command that takes it.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.checking import check_finite, read_json
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.gauges import ENERGY, POWER
from dsocr_nvtx.schema.page_records import PAGES
from dsocr_nvtx.schema.seal import files_in
from dsocr_nvtx.schema.served_tables import REQUESTS, SERVED_STEPS
from dsocr_nvtx.schema.summaries import API_CALLS, HOST_CALLS, KERNELS_SUMMARY
from dsocr_nvtx.schema.tables import (
    EXPERTS,
    GRAPH_NODES,
    KERNELS,
    LAUNCHES,
    MEASURED,
    OPERATIONS,
    RANGES_READ,
    ROOFLINE,
    SINCE_VERSION_2,
    STAGES,
)

RUN, JOINED, FLEET = "run.json", "join.json", "fleet.json"
"""The file in each kind of directory that tells it."""
_RUN_REMEDY = "give a run's directory as it was written"
REMEDY = "name a directory that dsocr-nvtx join wrote, or join the report again"


JOINED_TABLES = {"kernels": KERNELS, "ranges": MEASURED, "roofline": ROOFLINE, "stages": STAGES}
BESIDE = {"experts": EXPERTS, "energy": ENERGY, "power": POWER}
"""What a run measured beside its ranges: kept with the join's tables, as it is."""
SERVED_TABLES = {"served_steps": SERVED_STEPS, "requests": REQUESTS}
"""What a join has of a serving engine's run alone."""
LATER_TABLES = {"kernels_summary": KERNELS_SUMMARY, "host_calls": HOST_CALLS, "api_calls": API_CALLS}
"""What joins of the first version lack."""
RUN_TABLES = {
    "ranges": RANGES_READ,
    "pages": PAGES,
    **BESIDE,
    "timings/operations": OPERATIONS,
    "timings/launches": LAUNCHES,
    "timings/graph_nodes": GRAPH_NODES,
}


def read_manifest(run: Path) -> dict[str, Any]:
    """Return what ``run.json`` tells of a run, nothing where there is none; refuse one that cannot be read."""
    path = run / RUN
    if not path.exists():
        return {}
    return read_json(path, "not what a run writes of itself", _RUN_REMEDY)


def run_table(run: Path, name: str) -> pa.Table:
    """Return a table of a run's directory, such as ``ranges`` or ``timings/launches``, as `joined_table` does."""
    noted = files_in(read_manifest(run)).get(f"{name}.arrow")
    schema = RUN_TABLES[name]
    needed = [column for column in schema.names if column not in _OF_ONE_VERSION]
    remedy = f"that is no run's {name}: {_RUN_REMEDY}"
    path = run / f"{name}.arrow"
    return check_finite(read_table(path, schema, needed=needed, sha256=noted, remedy=remedy), path, remedy)


_OF_ONE_VERSION = {"origin", "own_activation_bytes", *SINCE_VERSION_2}
"""Columns that not every version's runs have; what needs one says so."""


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
