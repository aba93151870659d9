"""Where the nodes of CUDA graphs were made: what puts a replayed operation on the call that was captured.

CUPTI calls back when a node is made or cloned, which is while a graph is captured or instantiated and never when it is
launched. Nothing in here stops a run: a node that cannot be noted is counted.
"""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import get_native_id
from time import perf_counter_ns
from typing import Any

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.run.cupti_library import NODE_CLONED, NODE_EVENT, Cupti, GraphData
from dsocr_nvtx.schema import tables

_NO_ORIGINAL = -1
_WIDTH = 4


class GraphNodes:
    """The nodes made and cloned while the block of ``listening`` ran, on the clock and threads of the run's ranges.

    ``failed`` counts those that CUPTI did not identify. CUPTI holds ``callback`` while the block runs.
    """

    def __init__(self, cupti: Cupti) -> None:
        self.cupti = cupti
        self.failed = 0
        self.callback = NODE_EVENT(self._note)
        self._noted = array("q")
        self._refused = self._reason = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note nodes inside the block; where CUPTI has no place for another listener, only ``trouble`` says so."""
        subscriber = None
        try:
            subscriber = self.cupti.listen(self.callback)
        except Unavailable as error:
            self._refused = str(error)
        try:
            yield
        finally:
            if subscriber is not None:
                with suppress(Unavailable):  # what was noted is noted
                    self.cupti.unlisten(subscriber)

    def _note(self, _given: object, _domain: int, event: int, about: Any) -> None:
        try:
            now, graph = perf_counter_ns(), GraphData.from_address(about[0].descriptor)
            original = self.cupti.node_id(graph.original_node) if event == NODE_CLONED else _NO_ORIGINAL
            self._noted.extend((now, get_native_id(), self.cupti.node_id(graph.node), original))
        except Exception as error:  # noqa: BLE001 - CUPTI called: there is nobody to raise it to
            self.failed += 1
            self._reason = self._reason or str(error)

    def __len__(self) -> int:
        return len(self._noted) // _WIDTH

    @property
    def trouble(self) -> str:
        """Why operations of graphs cannot be put on layers, in one line; empty where nothing went wrong."""
        if self._refused:
            return f"operations of CUDA graphs stay with their steps, not layers: {self._refused}"
        if self.failed:
            share = f"{self.failed} of {self.failed + len(self)} times that a node of a CUDA graph was made"
            return f"{share} it could not be identified, so operations may stay with their steps: {self._reason}"
        return "" if len(self) else "operations of CUDA graphs stay with their steps: CUPTI told of no node being made"

    def table(self, pid: int) -> pa.Table:
        """Return GRAPH_NODES."""
        time, tid, node, original = np.array(self._noted, np.int64).reshape(-1, _WIDTH).T
        columns = {
            "pid": np.full(len(time), pid),
            "tid": tid,
            "time_ns": time,
            "graph_node_id": node,
            "original_node_id": pa.array(original, mask=original == _NO_ORIGINAL),
        }
        return tables.conform(columns, tables.GRAPH_NODES)
