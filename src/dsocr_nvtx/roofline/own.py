"""What each hooked call costs: as announced, with the experts that were observed; and how much of that is certain."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, known, numbers, rows_with
from dsocr_nvtx.schema.records import COST_FIELDS, LayerKind, Level


def own_costs(ranges: pa.Table) -> dict[str, Ints]:
    """Return, per row of a MEASURED table, every `Cost` field, weights with the experts observed."""
    return {name: numbers(ranges, name) for name in COST_FIELDS} | {"weight_bytes": weights(ranges)}


def weights(ranges: pa.Table) -> Ints:
    """Return the weights that each call read, those of the experts observed where they were, else of the expected."""
    if "observed_weight_bytes" not in ranges.column_names:  # a table written before experts were observed
        return numbers(ranges, "weight_bytes")
    return np.where(
        known(ranges, "observed_weight_bytes"),
        numbers(ranges, "observed_weight_bytes"),
        numbers(ranges, "weight_bytes"),
    )


def certain_costs(ranges: pa.Table, own: dict[str, Ints]) -> dict[str, Ints]:
    """Return own costs without weights that are only expected: of routed experts that nobody observed.

    Only what a call cannot have done without may contradict its time.
    """
    coarse, routed = ~rows_with(ranges, "level", Level.OP), rows_with(ranges, "module", "decoder", "model")
    observed = "observed_weight_bytes" in ranges.column_names and known(ranges, "observed_weight_bytes")
    unsure = (_experts(ranges) | (coarse & routed)) & ~np.asarray(observed)
    return {**own, "weight_bytes": np.where(unsure, 0, own["weight_bytes"])}


def experts_source(ranges: pa.Table) -> str:
    """Return whose number of experts the weights hold: that observed, that expected under uniform routing, or both."""
    if "observed_weight_bytes" not in ranges.column_names or not known(ranges, "observed_weight_bytes").any():
        return "expected"
    return "observed" if known(ranges, "observed_weight_bytes")[_experts(ranges)].all() else "observed in part"


def _experts(ranges: pa.Table) -> Mask:
    """Return which calls are experts'; captured ones ran nothing."""
    return rows_with(ranges, "kind", LayerKind.EXPERTS) & ~of_origin(ranges, "captured")


def of_origin(ranges: pa.Table, word: str) -> Mask:
    """Return which calls came about this way: call, captured or replayed."""
    if "origin" not in ranges.column_names:  # a table written before graphs were replayed
        return np.full(len(ranges), word == "call")
    return rows_with(ranges, "origin", word)
