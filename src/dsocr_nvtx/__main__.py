"""`python -m dsocr_nvtx`: the same as `dsocr-nvtx`."""

import os
import sys

# Python puts the current directory first, and a json.py there would be imported in the library's place. Only where the
# package itself lies there is it needed.
if sys.path[0] in ("", os.getcwd()) and sys.path[0] != os.path.abspath(os.path.join(__file__, "../..")):
    del sys.path[0]

from dsocr_nvtx.cli import main

main()
