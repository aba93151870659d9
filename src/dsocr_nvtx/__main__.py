"""`python -m dsocr_nvtx`: the same as `dsocr-nvtx`."""

from dsocr_nvtx.cli import main

main()
