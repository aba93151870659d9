"""What a captured CUDA graph computes for nobody: rows that fill a step up to the size it was captured for."""

from attrs import evolve

from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import COST_FIELDS, CallShape, Cost


def padding_cost(network: DeepseekOCRModel, shape: CallShape, captured_rows: int) -> Cost:
    """Return what a served step over ``captured_rows`` rows costs more than the step's own rows.

    Padding passes every layer and is routed to experts; it attends to nothing, lies in no cache and gets no logits.
    """
    ragged = shape.ragged
    if ragged is None or captured_rows < ragged.rows:
        raise UsageError(f"a served step of {shape.rows} rows is not padded to {captured_rows}")
    padded = network.cost(evolve(shape, ragged=evolve(ragged, rows=captured_rows)))
    step = network.cost(shape)
    more = {name: getattr(padded, name) - getattr(step, name) for name in COST_FIELDS}
    return Cost(**{**more, "kv_read_bytes": 0, "kv_write_bytes": 0})
