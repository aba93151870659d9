"""Joined runs made by hand or with the noise of a real one, as `join` would have written them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.schema.files import write_json, write_table
from dsocr_nvtx.schema.seal import FILES, digests, sealed
from dsocr_nvtx.schema.tables import MEASURED, ROOFLINE, STAGES
from tests.builders.tables import Row, filled

ABOUT = {
    "level": "op", "device": "NVIDIA H200", "roofs": "NVIDIA H200: datasheet", "tool": "nsys 1", "dsocr_nvtx": "0",
    "schema_version": "1",
}  # fmt: skip


def call(
    busy: int = 0, idle: int = 0, *, step: int = 0, kind: str = "mlp", layer: int | None = 0, stage: str = "decode",
    cause: str = "host", launches: int = 1, **more: object,
) -> dict[str, object]:  # fmt: skip
    """Return a hooked call that owns some time."""
    return {
        "stage": stage, "step": step, "kind": kind, "layer": layer, "busy_owned_ns": busy, "kernel_ns": busy,
        "busy_ns": busy, "idle_owned_ns": idle, f"idle_{cause}_ns": idle, "wall_ns": busy + idle, "launches": launches,
        "tensor_flops": 1, "path": f"decoder.{layer}.{kind}", **more,
    }  # fmt: skip


def model_call(
    step: int, *, stage: str = "decode", kv_len: int = 0, idle: int = 0, **more: object
) -> dict[str, object]:  # fmt: skip
    """Return the call around a step, which says how many tokens it has and how long the cache is."""
    usual: Row = {"path": "model", "module": "model", "kind": "rest", "level": "stage", "launches": 0, "kv_len": kv_len}
    return {**call(0, idle, step=step, stage=stage, layer=None), **usual, **more}


def out_of(calls: Sequence[Row], where: str = "run", about: Mapping[str, str] | None = None) -> Out:
    """Return the run that these calls make."""
    rows = [{"event_id": at, **one} for at, one in enumerate(calls)]
    stages = sorted({str(one["stage"]) for one in rows})
    places = sorted({(str(r["stage"]), str(r.get("module", "decoder")), str(r["kind"]), _layer(r)) for r in rows})
    told = {**ABOUT, **(about or {})}
    return Out(
        where=where,
        ranges=filled(MEASURED, rows),
        rows=_about(filled(ROOFLINE, [_roofline(*place) for place in places]), told),
        stages=filled(STAGES, [_stage(stage, rows) for stage in stages]),
        level=told["level"],
        about=told,
    )


def _layer(row: Row) -> int:
    layer = row["layer"]
    return layer if isinstance(layer, int) else -1


def _roofline(stage: str, module: str, kind: str, layer: int) -> Row:
    place = {"stage": stage, "module": module, "kind": kind, "layer": layer if layer >= 0 else None}
    return {**place, "roofline_ns": 1000}


def _stage(stage: str, rows: Sequence[Row]) -> Row:
    mine = [row for row in rows if row["stage"] == stage]
    wall = sum(int(str(row["wall_ns"])) for row in mine)
    return {"stage": stage, "steps": len({row["step"] for row in mine}), "wall_ns": wall, "mfu": 0.5, "mbu": 0.25}


def _about(table: pa.Table, about: Mapping[str, str]) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **about})


def write_out(out: Out, directory: Path) -> Path:
    """Write a run as `join` does and return its directory."""
    for name, table in (("ranges", out.ranges), ("roofline", out.rows), ("stages", out.stages)):
        write_table(_about(table, out.about if name != "ranges" else {}), directory / f"{name}.arrow")
    write_json({}, directory / "join.json")
    return directory


def reseal(directory: Path) -> None:
    """Note the hashes of a join's files anew, after a test has changed some of them, or taken some away."""
    told = json.loads((directory / "join.json").read_text(encoding="utf-8"))
    told.pop("seal", None)
    files = digests(directory, [directory / name for name in told[FILES] if (directory / name).exists()])
    write_json(sealed({**told, FILES: files}), directory / "join.json")


KINDS: Mapping[str, tuple[int, int]] = {
    "attention": (49_000, 18), "norm": (23_000, 16), "experts": (49_500, 10), "gate": (15_800, 7),
    "shared_experts": (18_700, 4), "rest": (3_700, 3),
}  # fmt: skip
"""Busy ns and launches of a decoder layer's rows in an H200's decode step."""
LAYERS = 12


def noisy_run(seed: int, *, steps: int = 40, slow: Mapping[int, float] | None = None, host: float = 1.0) -> Out:
    """Return a run with the noise of real ones; two seeds are two runs of one code.

    A kind's kernels drift as one between runs (addresses), layers a little besides, steps scatter by 1.2 % in ticks of
    32 ns, and idle time wanders with the host. ``slow`` stretches the kernels of layers, ``host`` all idle time.
    """
    return out_of(list(_noisy(np.random.default_rng(seed), steps, slow or {}, host)), f"run {seed}")


def _noisy(random: np.random.Generator, steps: int, slow: Mapping[int, float], host: float) -> Iterator[Row]:
    speed = host * np.exp(random.normal(0, 0.12))
    mood = np.exp(np.convolve(random.normal(0, 0.1, steps + 4), np.ones(5) / 2, "valid"))
    for step in range(steps):
        yield model_call(step, kv_len=900 + step, idle=int(700_000 * speed * mood[step]))
    for kind, (busy, launches) in KINDS.items():
        drift = random.normal(0, 35.0) * launches
        for layer in range(LAYERS):
            usual = (busy + drift) * (1 + random.normal(0, 0.004)) * slow.get(layer, 1.0)
            times = usual * (1 + random.normal(0, 0.012, steps))
            waits = 25_000 * launches * speed * mood * np.exp(random.normal(0, 0.2, steps))
            for step in range(steps):
                ticks = int(times[step] / 32 + 0.5) * 32
                yield call(ticks, int(waits[step]), step=step, kind=kind, layer=layer, launches=launches)
