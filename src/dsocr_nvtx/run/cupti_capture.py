"""GPU work and API calls of a run, recorded by CUPTI in the process itself: what nsys would see, without nsys.

While the model runs, Python is entered once per buffer of many thousand records; records are read when the run is over.
Times are put on the clock of the run's ranges (`time.perf_counter_ns`) by reading both clocks at both ends.
"""

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.run.advice import under_nsys
from dsocr_nvtx.run.cupti_launches import dictionary, launches_of
from dsocr_nvtx.run.cupti_library import CALLS, COMPLETED, OPERATIONS, REQUESTED, Cupti, demangler, open_cupti
from dsocr_nvtx.run.cupti_nodes import GraphNodes
from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.files import write_table

TIMINGS = "timings"
"""The folder of a run directory that holds what CUPTI saw."""

_BLOCK_BYTES = 16 << 20
_BLOCKS_AHEAD = 8
_COPIES = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}


class CuptiCapture:
    """What CUPTI recorded while the block of ``recording`` ran. Use it once.

    ``note`` says, once it is written, what it lacks.
    """

    def __init__(self, library: Cupti | None = None) -> None:
        self.cupti = library if library is not None else open_cupti()
        self.dropped = 0
        self.note = ""
        self.nodes = GraphNodes(self.cupti)
        self._free = [_block() for _ in range(_BLOCKS_AHEAD)]
        self._lent: dict[int, np.ndarray] = {}
        self._full: list[tuple[np.ndarray, int]] = []
        self._clocks: list[tuple[int, int]] = []
        # CUPTI keeps the addresses of these for good, so they live as long as the process.
        self._callbacks = (REQUESTED(self._lend), COMPLETED(self._take))
        _KEPT.append((*self._callbacks, self.nodes.callback))

    @property
    def opened(self) -> bool:
        """Whether recording began."""
        return bool(self._clocks)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the GPU does inside the block; the device must be idle at both ends."""
        self._clocks.append(self._both_clocks())
        with self.nodes.listening():
            self.cupti.enable(*self._callbacks)
            try:
                yield
            finally:
                self.cupti.disable()
                self._clocks.append(self._both_clocks())

    def _lend(self, buffer: Any, size: Any, most: Any) -> None:
        block = self._free.pop() if self._free else np.empty(_BLOCK_BYTES, np.uint8)
        self._lent[block.ctypes.data] = block
        buffer[0], size[0], most[0] = block.ctypes.data, block.nbytes, 0

    def _take(self, context: int | None, stream: int, buffer: int, _size: int, valid: int) -> None:
        block = self._lent.pop(buffer)
        if valid:
            self._full.append((block, valid))
            self.dropped += self.cupti.dropped(context, stream)
        else:
            self._free.append(block)

    def _both_clocks(self) -> tuple[int, int]:
        """Return (CUPTI's time, ours) of one instant: of several readings the one that took least."""
        found = []
        for _ in range(32):
            before = perf_counter_ns()
            theirs = self.cupti.clock()
            after = perf_counter_ns()
            found.append((after - before, theirs, (before + after) // 2))
        _, theirs, ours = min(found)
        return theirs, ours

    def records(self) -> dict[int, np.ndarray]:
        """Return every record by kind, times still on CUPTI's clock. Refused: a capture that lost records."""
        if self.dropped:
            raise Unavailable(f"CUPTI dropped {self.dropped} records, so its times are not whole; run fewer tokens")
        parts: dict[int, list[np.ndarray]] = {kind: [] for kind in (*OPERATIONS, *CALLS)}
        for block, length in self._full:
            offsets = self.cupti.offsets(block, length)
            kinds = block[: length // 4 * 4].view("<i4")[offsets // 4]
            for kind, found in parts.items():
                layout = self.cupti.layouts[kind]
                rows = offsets[kinds == kind]
                if len(rows):
                    found.append(block[rows[:, None] + np.arange(layout.itemsize)].view(layout)[:, 0])
        layouts = self.cupti.layouts
        return {kind: np.concatenate([np.zeros(0, layouts[kind]), *found]) for kind, found in parts.items()}

    def to_host_clock(self, times: np.ndarray) -> np.ndarray:
        """Return CUPTI's times on our clock: the straight line through the readings at both ends."""
        (theirs, ours), (theirs_end, ours_end) = self._clocks
        drift = ((ours_end - ours) - (theirs_end - theirs)) / max(theirs_end - theirs, 1)
        since = times.astype(np.int64) - theirs
        moved: np.ndarray = ours + since + np.rint(since * drift).astype(np.int64)
        return moved

    def write(self, directory: Path, devices: Mapping[int, Mapping[str, object]]) -> int:
        """Write ``operations.arrow`` and ``launches.arrow`` into ``timings``; return the number of operations.

        Where graphs were captured, also ``graph_nodes.arrow``.
        """
        records = self.records()
        operations = self._operations(records)
        about = {"devices": json.dumps({str(k): dict(v) for k, v in devices.items()}), "tool": "CUPTI in the process"}
        folder = directory / TIMINGS
        folder.mkdir()
        operations = operations.replace_schema_metadata({**operations.schema.metadata, **about})
        write_table(operations, folder / "operations.arrow")
        launches = launches_of(records, self.cupti.function_name, self.to_host_clock)
        write_table(launches, folder / "launches.arrow")
        if len(self.nodes):
            write_table(self.nodes.table(os.getpid()), folder / "graph_nodes.arrow")
        if operations["graph_node_id"].null_count < len(operations):
            self.note = self.nodes.trouble
        return len(operations)

    def _operations(self, records: Mapping[int, np.ndarray]) -> pa.Table:
        readable, names = demangler(), dict[int, str]()
        parts = []
        for kind, operation in OPERATIONS.items():
            rows = records[kind]
            if operation == "kernel":
                unique, code = np.unique(rows["name"], return_inverse=True)
                names = {int(p): readable(ctypes.string_at(int(p))) for p in unique if p}
                words = [names.get(int(p), "unnamed") for p in unique]
            elif operation == "memcpy":
                unique, code = np.unique(rows["copy_kind"], return_inverse=True)
                words = [f"memcpy {_COPIES.get(int(k), f'kind {k}')}" for k in unique]
            else:
                words, code = ["memset"], np.zeros(len(rows), np.int64)
            parts.append(self._part(rows, operation, dictionary(code, words)))
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks()

    def _part(self, rows: np.ndarray, operation: str, name: pa.DictionaryArray) -> pa.Table:
        if (rows["end"] < rows["start"]).any() or (rows["end"] == 0).any():
            raise Unavailable(f"CUPTI recorded a {operation} without its times; run again, without other tools")
        count, kernel = len(rows), operation == "kernel"
        nothing = np.zeros(count, np.int64)
        size = {axis: rows[axis].astype(np.int64) for axis in _AXES} if kernel else dict.fromkeys(_AXES, nothing)
        node = rows["graph_node_id"].astype(np.int64)
        columns = {
            "pid": np.full(count, os.getpid()),
            "device": rows["device_id"].astype(np.int32),
            "stream": rows["stream_id"].astype(np.int64),
            "start_ns": self.to_host_clock(rows["start"]),
            "end_ns": self.to_host_clock(rows["end"]),
            "correlation_id": rows["correlation_id"].astype(np.int64),
            "operation": dictionary(nothing, [operation]),
            "name": name,
            "blocks": size["grid_x"] * size["grid_y"] * size["grid_z"],
            "threads": (size["block_x"] * size["block_y"] * size["block_z"]).astype(np.int32),
            "bytes": nothing if kernel else rows["bytes"].astype(np.int64),
            "graph_node_id": pa.array(node, mask=node == 0),
        }
        return tables.conform(columns, tables.OPERATIONS)


_AXES = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
_KEPT: list[object] = []


def _block() -> np.ndarray:
    block = np.empty(_BLOCK_BYTES, np.uint8)
    block.fill(0)  # its pages are made now, not when CUPTI first writes them inside a launch
    return block


def usable_cupti(open_library: Callable[[], Cupti] = open_cupti) -> CuptiCapture:
    """Return a capture ready to record; `Unavailable` where another tool holds CUPTI, or there is none."""
    if under_nsys():
        raise Unavailable("Nsight Systems holds CUPTI in this process: join its report, or run without it")
    return CuptiCapture(open_library())
