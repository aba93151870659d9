"""The Arrow schema of ``pages.arrow``: what became of every page of a run of many, failed ones included."""

import pyarrow as pa

from dsocr_nvtx.schema.tables import WORD, column

_I64, _I32, _F64 = pa.int64(), pa.int32(), pa.float64()

PAGES = pa.schema(
    [
        column("index", _I64, "", "position of the page on the command line, the same for every rank"),
        column("path", pa.string(), "", "the page as it was named"),
        column("status", WORD, "", "done; failed: see error; not_run: the run had to stop before"),
        column("error", pa.string(), "", "why it failed, in one line", null=True),
        column("grid", WORD, "", "columns x rows of tiles; 1x1: none", null=True),
        column("tiles", _I64, "", "tiles beside the whole page; 0 where it has none", null=True),
        column("prompt_tokens", _I64, "", "tokens of the prompt, the image's included", null=True),
        column(
            "decoded_tokens", _I64, "", "tokens after the first, the end's included; the first is prefill's", null=True
        ),
        column("batch", _I64, "", "number of the batch that the page was in, from 0", null=True),
        column("batch_pages", _I64, "", "pages in that batch", null=True),
        column("vision_step", _I64, "", "step of stage vision that the batch made, as in ranges.arrow", null=True),
        column("prefill_step", _I64, "", "step of stage prefill that the batch made", null=True),
        column("decode_step", _I64, "", "first step of stage decode that the batch made", null=True),
        column("decode_steps", _I64, "", "decode steps of the batch", null=True),
        column("load_ns", _I64, "ns", "reading and decoding the image, on the host", null=True),
        column(
            "vision_ns", _I64, "ns", "stage vision of the batch: between CUDA events, on a CPU by the host", null=True
        ),
        column("prefill_ns", _I64, "ns", "stage prefill of the batch", null=True),
        column("decode_ns", _I64, "ns", "from the batch's first decode step to the end of its last", null=True),
        column("joules", _F64, "J", "energy of the batch / its pages; null where not resolved", null=True),
        column("rank", _I32, "", "rank of the process; 0 where there is one"),
        column("gpu_uuid", WORD, "", "identity of the GPU", null=True),
    ]
)
"""``pages.arrow`` of a run directory. Metadata: rank, world_size, host."""
