"""Results for notebooks: a join and a roofline as values that show themselves. What `import dsocr_nvtx` offers."""

from pathlib import Path

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import notebook
from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.roofline.joined import JoinedReport, joined_report, judged
from dsocr_nvtx.roofline.points import Roofline


@frozen(eq=False, repr=False)
class ReportTables:
    """A joined report: ``kernels`` and ``ranges`` are Arrow tables (KERNELS and MEASURED of `schema.tables`)."""

    name: str
    kernels: pa.Table
    ranges: pa.Table
    accounting: Accounting
    whole: JoinedReport

    def __repr__(self) -> str:
        """Return one line: how many operations and calls, and how many operations no call owns."""
        return notebook.joined_line(self.name, self.accounting)

    def _repr_html_(self) -> str:
        """Return where operations and time went, for a notebook."""
        return notebook.joined_html(self.name, self.accounting)


@frozen(eq=False, repr=False)
class RooflineReport:
    """A roofline: ``rows`` and ``stages`` are Arrow tables (ROOFLINE and STAGES of `schema.tables`)."""

    found: Roofline
    accounting: Accounting

    @property
    def rows(self) -> pa.Table:
        """One row per stage, module, kind and layer; those that lose most first."""
        return self.found.rows

    @property
    def stages(self) -> pa.Table:
        """One row per stage."""
        return self.found.stages

    def __repr__(self) -> str:
        """Return the verdict of each stage."""
        return notebook.verdicts(self.found)

    def _repr_html_(self) -> str:
        """Return verdicts, stages, the rows that lose most and every caveat, for a notebook."""
        return notebook.roofline_html(self.found, self.accounting)


def join_report(report: Path) -> ReportTables:
    """Return a joined report; see `dsocr_nvtx.join`."""
    whole = joined_report(report)
    return ReportTables(report.name, whole.joined.kernels, whole.joined.ranges, whole.joined.accounting, whole)


def roofline_of(joined: "ReportTables | str | Path", hardware: str | None, ceilings: Path | None) -> RooflineReport:
    """Return a roofline; see `dsocr_nvtx.roofline`."""
    if not isinstance(joined, ReportTables):
        path = Path(joined)
        if (path / "join.json").is_file():
            if hardware is not None or ceilings is not None:
                raise UsageError(f"{path} has its roofs already: join the report again with others")
            opened = open_joined(path)
            return RooflineReport(opened.roofline, opened.accounting)
        joined = join_report(path)
    found = judged(joined.whole.trace, joined.whole.joined, hardware, ceilings, joined.name)
    return RooflineReport(found, joined.accounting)
