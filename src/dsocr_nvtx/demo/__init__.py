"""A real capture that ships with the package, and how it was made.

Made on 2026-11-23 on one NVIDIA H200 (driver 580.159, CUDA 13.0, PyTorch 2.11.0, transformers 5.23.0) with the Nsight
Systems that comes with Nsight Compute 2025.3.1 (``nsys --version`` says 2025.3.1.0, its exports say 2025.3.2.0), at
full size with seeded random bf16 weights:

    nsys_scripts/profile.sh -o demo --range --mode gundam --tiles 2x3 --max-new-tokens 33
    nsys export -t sqlite --include-blobs true -o demo.sqlite demo.nsys-rep
    python -m dsocr_nvtx.demo.reduce demo.sqlite h200-gundam-2x3.sqlite.xz

One page of 2x3 tiles, 913 prompt tokens, 32 decode steps, level ``op``.
"""

CAPTURE = "h200-gundam-2x3.sqlite.xz"
"""The capture's file, beside this one."""
