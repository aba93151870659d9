#!/usr/bin/env python
"""A report script of Nsight Systems: the roofline of a hooked DeepSeek-OCR run, in the tool that recorded it.

    nsys stats --report-dir nsys_scripts --report dsocr_roofline report.nsys-rep

The rows are those of ``roofline.arrow`` that `dsocr-nvtx join` writes: it is the same code. nsys runs this script in a
Python of its own, without numpy and pyarrow and without `subprocess`; so it starts one that has them: that which the
environment variable DSOCR_PYTHON names, else python3 of the PATH. The package is taken from the checkout that this
script lies in, else from what is installed there.
"""

import contextlib
import os

import nsysstats


class DsocrRoofline(nsysstats.StatsReport):
    """Rows per stage, module, kind and layer, most time lost first."""

    display_name = "DeepSeek-OCR Roofline"
    usage = """{SCRIPT}[:hardware=<name>][:ceilings=<file>] -- {DISPLAY_NAME}

    hardware - Optional argument, the exact name of the GPU whose datasheet
        the run is held against; by default that of the GPU in the report.

    ceilings - Optional argument, a file that `dsocr-nvtx ceilings` wrote.

    Output: All time values default to nanoseconds
        Stage : vision, prefill or decode
        Module, Kind, Layer : Part of the network; kind rest is a container's own work
        Calls : Calls that the row adds up
        Launches : GPU operations
        Wall : Busy and Idle together
        Busy : GPU time that the calls own
        Idle : GPU idle time that the calls own
        Roofline : Least time that the calls need on this GPU
        Lost : Wall less Roofline
        Efficiency : Roofline / Busy
        Bound : host, compute, memory or latency
        PID, GPU : Process and device

    Rows are disjoint: they add up to the time of the hooked calls.
    Python with numpy and pyarrow: DSOCR_PYTHON, else python3 of the PATH.
"""
    table_checks = {  # noqa: RUF012  (as nsysstats declares it)
        "NVTX_EVENTS": "{DBFILE} does not contain NV Tools Extension (NVTX) data; record with nsys -t cuda,nvtx.",
    }
    _arg_opts = [  # noqa: RUF012
        [["hardware"], {"type": str, "help": "exact name of the GPU"}],
        [["ceilings"], {"type": str, "help": "file of dsocr-nvtx ceilings"}],
    ]

    def setup(self):
        """Have the join done; return None, or one line that says why there is nothing to show."""
        wrong = super().setup()
        if wrong is not None:
            return wrong
        filters = ("start", "end", "nvtx", "process", "thread")
        if any(getattr(self.parsed_args, name, None) not in (None, -1) for name in filters):
            return "dsocr_roofline reads whole reports; leave the filters of nsys stats out"
        lines = _joined(self.dbfile, self.parsed_args.hardware, self.parsed_args.ceilings)
        statements = [line[4:] for line in lines if line.startswith("sql ")]
        queries = [line[6:] for line in lines if line.startswith("query ")]
        if not queries:
            # nsysstats formats the message: braces of its own stay braces.
            return _reason(lines).replace("{", "{{").replace("}", "}}")
        self.statements, self.query = statements, queries[0]
        return None


def _python():
    return os.environ.get("DSOCR_PYTHON") or "python3"


def _reason(lines):
    """Return why there are no rows: what the join says, else the last thing that Python said."""
    refused = [line[6:] for line in lines if line.startswith("error ")]
    if refused:
        return refused[0]
    said = [line for line in lines if line.strip()] or ["it said nothing"]
    return f"{_python()}: {said[-1].strip()}; set DSOCR_PYTHON to a Python that has dsocr-nvtx, numpy and pyarrow"


def _joined(export, hardware, ceilings):
    """Return the lines that `dsocr_nvtx.cli.nsys_rows` prints, errors of Python among them."""
    command = [_python(), "-m", "dsocr_nvtx.cli.nsys_rows", os.path.abspath(export)]
    for name, value in (("--hardware", hardware), ("--ceilings", ceilings)):
        command += [name, value] if value else []
    try:
        return _run(command)
    except OSError as wrong:
        return [str(wrong)]


def _run(command):
    """Run a command; return the lines of its output and errors. `subprocess` is not there in nsys's Python."""
    reading, writing = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, writing, 1),
        (os.POSIX_SPAWN_DUP2, writing, 2),
    ]
    try:
        child = os.posix_spawnp(command[0], command, _environment(), file_actions=actions)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as output:
        text = output.read()
    with contextlib.suppress(ChildProcessError):  # nsys may collect its children itself
        os.waitpid(child, 0)
    return text.split("\n")


def _environment():
    """Return the environment for another Python: without the home of nsys's own, and with this checkout's package."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    source = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")
    if os.path.isdir(os.path.join(source, "dsocr_nvtx")):
        found["PYTHONPATH"] = os.pathsep.join(part for part in (source, found.get("PYTHONPATH")) if part)
    return {**found, "PYTHONIOENCODING": "utf-8"}


if __name__ == "__main__":
    DsocrRoofline.Main()
