"""A join and a roofline as a notebook shows them: small pieces of HTML, every text escaped."""

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import words
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.report.page import environment, shorten
from dsocr_nvtx.report.terminal import LOSS_COLUMNS, STAGE_COLUMNS, loss_rows
from dsocr_nvtx.roofline.points import Roofline

_MOST_LOSSES = 10


def joined_line(name: str, accounting: Accounting) -> str:
    """Return a join in one line."""
    owned = accounting.buckets.get("attributed")
    share = f"{owned.operations:,}" if owned is not None else "none"
    return f"{shorten(name)}: {accounting.operations:,} GPU operations, {share} in {accounting.ranges:,} hooked calls"


def joined_html(name: str, accounting: Accounting) -> str:
    """Return the accounting of a join as HTML."""
    buckets = [(bucket.replace("_", " "), count.operations, words.milliseconds(count.ns))
               for bucket, count in accounting.buckets.items() if count.operations]  # fmt: skip
    page = environment().get_template("joined.html.j2")
    return page.render(line=joined_line(name, accounting), buckets=buckets, stalls=words.stalls(accounting.stalls))


def verdicts(found: Roofline) -> str:
    """Return the verdict of each stage, a line each."""
    return "\n".join(map(words.verdict, found.stages.to_pylist())) or "no hooked call ran"


def roofline_html(found: Roofline, accounting: Accounting) -> str:
    """Return verdicts, stages, the rows that lose most and the caveats as HTML."""
    stages = found.stages.to_pylist()
    tables = (
        ("Stages (times in ms)", STAGE_COLUMNS, stages),
        ("The rows that lose most (times in ms)", LOSS_COLUMNS, loss_rows(found, _MOST_LOSSES)),
    )
    page = environment().get_template("roofline.html.j2")
    return page.render(
        verdicts=map(words.verdict, stages), tables=tables, roofs=f"{found.roofs.device}, {found.roofs.source}",
        caveats=caveats(found, accounting),
    )  # fmt: skip
