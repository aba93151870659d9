"""DeepSeek-OCR's layers against what the hardware allows: hooks that carry costs, and the join that times them.

In a notebook or a script of your own:

    import dsocr_nvtx

    with dsocr_nvtx.hook(model):                      # under nsys, on a GPU
        model.generate(**inputs)

    joined = dsocr_nvtx.join("report.sqlite")         # anywhere, without torch
    dsocr_nvtx.roofline(joined)                       # shows itself: verdicts, stages, the rows that lose most
"""

# Nothing of the library is imported here: `python -m` would look for it in the current directory first.
# Loaded before the functions of the same names are made: loading a room later would put it in their place.
import dsocr_nvtx.join
import dsocr_nvtx.roofline  # noqa: F401

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import nn

    from dsocr_nvtx.hooks import HookSession
    from dsocr_nvtx.notebook import ReportTables, RooflineReport

__version__ = "0.2.0"
__all__ = ["__version__", "hook", "join", "roofline"]


def __dir__() -> list[str]:
    return __all__


def hook(
    model: "nn.Module", *, level: str = "op", observe_experts: bool = False
) -> "AbstractContextManager[HookSession]":
    """Return a context in which every stage, layer and operation of DeepSeek-OCR is an NVTX range with its cost.

    ``level`` is ``stage``, ``layer`` or ``op``; with ``observe_experts`` the experts that were hit are counted. Leaving
    the context takes every hook away; outputs are bit-identical. Needs torch and nvtx; `dsocr_nvtx.hooks.hook` has more
    options. Raises `dsocr_nvtx.errors.DsocrError` for a model of another network.
    """
    from dsocr_nvtx.hooks import hook as attach

    return attach(model, level=level, observe_experts=observe_experts)


def join(report: "str | Path") -> "ReportTables":
    """Return the GPU operations and hooked calls of a report, each operation with the call that launched it.

    ``report`` is what `dsocr-nvtx join` takes: a ``.nsys-rep``, its SQLite export, a folder of its Arrow or Parquet
    export, or a run recorded with CUPTI. Raises `dsocr_nvtx.errors.Refused` for anything else.
    """
    from pathlib import Path

    from dsocr_nvtx.notebook import join_report

    return join_report(Path(report))


def roofline(
    joined: "ReportTables | str | Path", *, hardware: str | None = None, ceilings: "str | Path | None" = None
) -> "RooflineReport":
    """Return the roofline of a join, of a report, or of a directory that `dsocr-nvtx join` wrote.

    The roofs are those of ``ceilings`` (what `dsocr-nvtx ceilings` measured, or JSON), else the datasheet's of
    ``hardware``, else the datasheet's of the report's GPU; a directory keeps the ones it was written with, so neither
    goes with one. Raises `dsocr_nvtx.errors.Refused` for a GPU that is not known.
    """
    from pathlib import Path

    from dsocr_nvtx.notebook import roofline_of

    return roofline_of(joined, hardware, None if ceilings is None else Path(ceilings))


# `import dsocr_nvtx.roofline.points as points` finds the function in the room's place, and then goes by its name.
join.__name__, roofline.__name__ = f"{__name__}.join", f"{__name__}.roofline"
