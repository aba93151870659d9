"""Whether cuBLAS's `nvjet` kernels read a weight matrix more than once: one product each, its weights cold in the L2.

    ncu --cache-control none --clock-control none --nvtx --nvtx-include "regex:.*x.*/" --csv --page raw \
        --metrics dram__bytes_read.sum python3 reports/nvjet_reads.py

Compare ``dram__bytes_read.sum`` of each range, which is named for its matrix (rows x columns), with 2 bytes an element.
"""

import torch

SHAPES = ((1792, 1280), (1280, 1792), (6848, 1280), (1280, 1280), (129280, 1280))
"""Of DeepSeek-OCR: shared experts in and out, the dense layer, attention's projections, the head."""


def main() -> None:
    """Multiply one row by each matrix, after 256 MiB were written through the L2."""
    flushed = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for rows, columns in SHAPES:
        weights = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)
        row = torch.randn(1, columns, device="cuda", dtype=torch.bfloat16)
        for _ in range(2):
            torch.nn.functional.linear(row, weights)
        flushed.zero_()
        torch.cuda.synchronize()
        torch.cuda.nvtx.range_push(f"{rows}x{columns}")
        torch.nn.functional.linear(row, weights)
        torch.cuda.synchronize()
        torch.cuda.nvtx.range_pop()


if __name__ == "__main__":
    main()
