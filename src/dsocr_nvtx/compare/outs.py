"""What `join` wrote, opened to be compared; and what must agree, or be said, before two of them are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import cattrs
import numpy as np
import pyarrow as pa
from attrs import evolve, frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import SetApart
from dsocr_nvtx.join.columns import Ints, coded, numbers, rows_with
from dsocr_nvtx.join.stalls import Stall
from dsocr_nvtx.schema.directories import REMEDY
from dsocr_nvtx.schema.joins import ACCOUNTING, Part, open_directory, process_name
from dsocr_nvtx.schema.records import Stage

_RANGES = (
    "pid", "path", "module", "kind", "level", "stage", "step", "layer", "dtype", "batch", "tokens", "kv_len",
    "launches", "busy_owned_ns", "idle_owned_ns", "idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_host_ns",
)  # fmt: skip
_ROWS = ("stage", "module", "kind", "layer", "roofline_ns")
_STAGES = ("stage", "steps", "wall_ns")
_Listed = TypeVar("_Listed", Stall, SetApart)
_KERNELS = ("pid", "event_id", "name", "start_ns", "end_ns")


@frozen(kw_only=True, eq=False)
class Out:
    """The tables of one join: hooked calls, roofline rows, stages; its level and what its metadata says of it.

    ``kernels`` are its GPU operations, ``host_calls`` its CUDA calls by step, ``stalls`` its longest idle times, none
    where the join does not have them; ``set_apart`` says which records of the report are in no table.
    """

    where: str
    ranges: pa.Table
    rows: pa.Table
    stages: pa.Table
    level: str
    about: Mapping[str, str]
    kernels: pa.Table | None = None
    host_calls: pa.Table | None = None
    stalls: tuple[Stall, ...] = ()
    set_apart: tuple[SetApart, ...] = ()

    @property
    def processes(self) -> int:
        """How many processes and devices ran hooked calls; a process that does host work alone is none."""
        of_model = ~rows_with(self.ranges, "stage", Stage.HOST)
        return len(np.unique(np.stack(self._places())[:, of_model], axis=1).T)

    def _places(self) -> tuple[Ints, Ints]:
        pid = numbers(self.ranges, "pid")
        return pid, numbers(self.ranges, "device", -1) if "device" in self.ranges.column_names else np.zeros_like(pid)

    def by_process(self) -> dict[str, "Out"]:
        """Return the run as each process and device saw it, by a name to print; roofline rows and stages stay whole."""
        pid, device = self._places()
        places = np.unique(np.stack([pid, device]), axis=1).T.tolist()
        return {
            f"{process_name(self.ranges, one)}{f', device {ordinal}' * (ordinal >= 0)}": evolve(
                self, ranges=self.ranges.filter(pa.array((pid == one) & (device == ordinal)))
            )
            for one, ordinal in places
        }

    @property
    def gpus(self) -> set[str]:
        """The identities of the GPUs, empty where the report does not tell them."""
        if "gpu_uuid" not in self.rows.column_names:
            return set()
        return {str(uuid) for uuid in self.rows["gpu_uuid"].unique().to_pylist() if uuid}

    @property
    def decode_mode(self) -> str:
        """``graph`` where decode steps were replayed from a CUDA graph, else ``calls``."""
        if "origin" not in self.ranges.column_names:
            return "calls"
        codes, words = coded(self.ranges, "origin")
        return "graph" if any(words[code] == "replayed" for code in np.unique(codes)) else "calls"

    @property
    def dtypes(self) -> set[str]:
        """Element types of the calls."""
        codes, words = coded(self.ranges, "dtype")
        return {words[code] for code in np.unique(codes)}


def read_out(directory: Path) -> Out:
    """Open a join's output directory, or a whole fleet's: its reports' calls are then those of one run.

    Refused: what is none, lacks a table or column, or is of a newer version.
    """
    joined = open_directory(directory)
    ranges, rows = joined.table("ranges", _RANGES), joined.table("roofline", _ROWS)
    stages = joined.table("stages", _STAGES)
    about = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
    if "level" not in about:
        remedy = "join the report again with this version"
        raise Refused(joined.parts[0].file("roofline"), "no level in the table's metadata", remedy)
    kernels = joined.beside("kernels", _KERNELS)
    return Out(
        where=str(directory), ranges=ranges, rows=rows, stages=stages, level=about["level"], about=about,
        kernels=kernels if kernels is None else kernels.select(_KERNELS),
        host_calls=joined.beside("host_calls"),
        stalls=tuple(stall for part in joined.parts for stall in _listed(part, "stalls", Stall)),
        set_apart=tuple(one for part in joined.parts for one in _listed(part, "set_apart", SetApart)),
    )  # fmt: skip


def _listed(part: Part, name: str, kind: type[_Listed]) -> tuple[_Listed, ...]:
    try:
        return tuple(cattrs.structure(part.told.get(name, ()), list[kind]))  # type: ignore[valid-type]
    except (ValueError, TypeError, cattrs.BaseValidationError) as cause:
        raise Refused(part.file(ACCOUNTING), f"its {name} are not those of a join", REMEDY) from cause


def check_levels(a: Out, b: Out) -> None:
    """Refuse runs of different levels: a coarser row holds time and cost that the finer run reports apart."""
    if a.level != b.level:
        found = f"level {a.level}, but {b.where} has level {b.level}"
        raise Refused(a.where, found, "record both with the same --level: rows of mixed levels are no pairs")


_DIFFERS = {
    "device": "devices differ: {a} against {b}; a change may be the hardware's",
    "roofs": "roofs differ: {a} against {b}; efficiencies have different denominators",
    "tool": "recorded by {a} and by {b}; each slows host and launches in its own way",
    "dsocr_nvtx": "joined by versions {a} and {b} of dsocr-nvtx; join both again with one",
    "schema_version": "tables of schema versions {a} and {b}; columns may differ in meaning, join both again with one",
    "experts": "experts' weights are {a} in A and {b} in B; efficiencies of experts differ by that",
}


def _rates(out: Out) -> object:
    """Return the roofs as numbers, None where the metadata has none: where they were measured is no difference."""
    try:
        told = json.loads(out.about.get("ceilings", ""))
    except ValueError:
        return None
    return {name: value for name, value in told.items() if name != "source"} if isinstance(told, dict) else None


def warnings(a: Out, b: Out) -> list[str]:
    """Return a line for each circumstance that differs between the runs and may explain a change."""
    lines = []
    for name, text in _DIFFERS.items():
        one, two = (out.about.get(name) or "unknown" for out in (a, b))
        if one != two and (name != "roofs" or _rates(a) is None or _rates(a) != _rates(b)):
            lines.append(text.format(a=one, b=two))
    if a.gpus and b.gpus and a.gpus != b.gpus:
        lines.append("A and B ran on different GPUs of one kind, maybe on different hosts: idle time is not comparable")
    if a.decode_mode != b.decode_mode:
        words = {"graph": "replays a CUDA graph", "calls": "launches every kernel by itself"}
        lines.append(f"decode modes differ: A {words[a.decode_mode]}, B {words[b.decode_mode]}")
    if a.dtypes != b.dtypes:
        lines.append(f"element types differ: {', '.join(sorted(a.dtypes))} against {', '.join(sorted(b.dtypes))}")
    if a.processes != b.processes:
        lines.append(f"{a.processes} against {b.processes} processes and devices; times are sums over all of them")
    elif a.processes > 1:
        lines.append(f"times are sums over {a.processes} processes and devices")
    for name, out in (("A", a), ("B", b)):
        lines += [f"not in {name}, since they cannot be: {one}" for one in out.set_apart]
    report = a.about.get("sha256")
    if report and report == b.about.get("sha256"):
        lines.append("both were joined from the same report")
    return lines
