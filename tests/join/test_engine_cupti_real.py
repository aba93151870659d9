"""A CUDA graph's replays as CUPTI really recorded them, held against what nsys recorded of the same run's twin.

``tests/data/h200-cupti-graph`` is of `python -m dsocr_nvtx.run --decode graph --timing cupti --max-new-tokens 9` on one
NVIDIA H200, 2026-11-23: the true network, one page of 913 prompt tokens, a graph of 817 nodes launched 8 times.
"""

from collections import Counter
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.join.engine import Joined, join

RUN = Path(__file__).parents[1] / "data" / "h200-cupti-graph"
BY_LAYER: dict[int | None, int] = dict(zip((None, *range(12)), (54, 48, *[65] * 11), strict=True))
"""Operations of a replayed step, counted in the nsys report; layer 0 has no experts."""
BUSY_MS = (2.1975, 2.1816, 2.1811, 2.1786, 2.1870, 2.1815, 2.1827, 2.1824)
"""The device time of each step's operations in the nsys report."""


@pytest.fixture(scope="module")
def joined() -> Joined:
    return join(read_report(RUN), "run")


def test_every_operation_of_every_replay_is_on_the_layer_that_nsys_says(joined: Joined) -> None:
    counted: dict[int, Counter[int | None]] = {step: Counter() for step in range(8)}
    busy: Counter[int] = Counter()
    for row in joined.kernels.to_pylist():
        if row["graph_node_id"] is not None:
            layer = row["path"].partition(".")[2].partition(".")[0]
            counted[row["step"]][int(layer) if layer.isdecimal() else None] += 1
            busy[row["step"]] += row["end_ns"] - row["start_ns"]
    assert counted == dict.fromkeys(range(8), BY_LAYER)
    for step, expected in enumerate(BUSY_MS):
        assert busy[step] / 1e6 == pytest.approx(expected, rel=0.02)
    graphs = joined.accounting.graphs
    assert (graphs.launches, graphs.to_layers, graphs.to_steps, graphs.note) == (8, 8 * 817, 0, "")


def test_every_layer_of_every_replay_has_the_length_of_the_cache_at_its_step(joined: Joined) -> None:
    layers = [
        row
        for row in joined.ranges.to_pylist()
        if row["origin"] == "replayed" and row["path"].removeprefix("decoder.").isdecimal()
    ]
    assert len(layers) == 8 * 12
    assert all(row["kv_len"] == 913 + 1 + row["step"] for row in layers)
    assert all(row["inclusive_launches"] == BY_LAYER[row["layer"]] for row in layers)
