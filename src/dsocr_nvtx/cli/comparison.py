"""`diff` and `gate`: two joins in; verdicts, files and exit codes out."""

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx.cli.outputs import ForceFile, tell, written


class _Suffix(StrEnum):
    """What can be written beside tables."""

    HTML = ".html"
    MARKDOWN = ".md"
    JSON = ".json"


class _Sort(StrEnum):
    """Orders of causes."""

    COST = "cost"
    FACTOR = "factor"
    NAME = "name"


_DEFAULT_BUSY, _DEFAULT_IDLE = 0.01, 0.5
Busy = Annotated[
    float, typer.Option(min=0, help="Share of busy time that two runs of one code may differ by on this machine.")
]
Idle = Annotated[float, typer.Option(min=0, help="The same of idle time, which follows the host.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="What `join` wrote of the run to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What `join` wrote of the run that changed.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Also write it: .html, .md, .json, .arrow, .parquet or .csv.")
    ] = None,
    as_json: Json = False,
    limit: Annotated[int, typer.Option(min=1, help="Causes of each stage, and rows, that are told.")] = 10,
    sort: Annotated[_Sort, typer.Option(help="Order of the causes: by what they cost a step, by factor, by name.")] = (
        _Sort.COST
    ),
    stage: Annotated[str, typer.Option(help="Only this stage.", show_default="all")] = "",
    busy_allowed: Busy = _DEFAULT_BUSY,
    idle_allowed: Idle = _DEFAULT_IDLE,
    force: ForceFile = False,
) -> None:
    """Compare two joined runs: each stage, the kernels, layers and waits that made the difference, and every row."""
    from dsocr_nvtx.compare.comparison import compare, only_stage
    from dsocr_nvtx.compare.outs import read_out
    from dsocr_nvtx.compare.tables import as_values, comparison_table
    from dsocr_nvtx.compare.verdicts import Limits
    from dsocr_nvtx.report.causes import Sort, cause_values, flat, ranked
    from dsocr_nvtx.report.columns import wide_console
    from dsocr_nvtx.report.comparison_markdown import comparison_markdown
    from dsocr_nvtx.report.comparison_page import comparison_page
    from dsocr_nvtx.report.comparison_terminal import show_comparison
    from dsocr_nvtx.schema.files import write_json, write_table, write_text

    if out is not None:
        _check(out, (*_Suffix,), force=force)
    limits = Limits(busy_allowed=busy_allowed, idle_allowed=idle_allowed)
    found = only_stage(compare(read_out(a), read_out(b), limits), stage)
    order = Sort(sort.value)

    def values() -> dict[str, object]:
        told = [cause_values(cause) for cause in flat(ranked(found, sort=order), limit)]
        calls = [cause_values(cause) for one in found.stages for cause in one.calls[:limit]]
        return {"causes": told, "calls": calls, **as_values(found)}

    if out is not None:
        writers: dict[str, Callable[[], None]] = {
            _Suffix.HTML: lambda: write_text(comparison_page(found, limit=limit, sort=order), out, force=force),
            _Suffix.MARKDOWN: lambda: write_text(comparison_markdown(found, limit=limit), out, force=force),
            _Suffix.JSON: lambda: write_json(values(), out, force=force),
        }
        writers.get(out.suffix, lambda: write_table(comparison_table(found), out, force=force))()
    if as_json:
        print(json.dumps(values(), indent=2))
        return
    said = f"comparison: {out}" if out is not None else "nothing was to be written"
    with written(said):
        show_comparison(wide_console(), found, limit=limit, sort=order)
        if out is not None:
            tell(said)


def gate_command(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="What `join` wrote of the run under test.")],
    rules: Annotated[
        list[str],
        typer.Option(
            "--rule",
            help="STAGE[.MODULE][.KIND][.LAYER].METRIC<=BOUND, times per step: decode.busy_ns<=+3%, "
            "decode.wall_ns<=15ms, vision.efficiency>=0.4. In %: a change against the baseline. Once or more.",
        ),
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            help="What `join` wrote of the run that bounds in % are changes against. Three and more runs of one code "
            "show how much runs differ: idle and wall time are decided by that, not by what is allowed for."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Also write it: .md, .json, .arrow, .parquet or .csv.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Json = False,
    busy_allowed: Busy = _DEFAULT_BUSY,
    idle_allowed: Idle = _DEFAULT_IDLE,
    force: ForceFile = False,
) -> None:
    """Hold a run against rules. Exit code 0: all hold; 1: one is broken; 4: noise leaves one open."""
    from dsocr_nvtx.compare.gate import gate
    from dsocr_nvtx.compare.outs import read_out
    from dsocr_nvtx.compare.rules import parse_rule
    from dsocr_nvtx.compare.rulings import EXIT_CODES, gate_table
    from dsocr_nvtx.compare.verdicts import Limits
    from dsocr_nvtx.report.columns import wide_console
    from dsocr_nvtx.report.comparison_markdown import gate_markdown
    from dsocr_nvtx.report.comparison_terminal import show_gate
    from dsocr_nvtx.schema.files import write_table, write_text

    parsed = [parse_rule(rule) for rule in rules]
    if out is not None:
        _check(out, (_Suffix.MARKDOWN,), force=force)
    limits = Limits(busy_allowed=busy_allowed, idle_allowed=idle_allowed)
    baselines = [read_out(one) for one in baseline or []]
    found = gate(read_out(directory), baselines[0] if baselines else None, parsed, limits, baselines[1:])
    table = gate_table(found)
    if out is not None:
        if out.suffix == _Suffix.MARKDOWN:
            write_text(gate_markdown(found), out, force=force)
        else:
            write_table(table, out, force=force)
    if as_json:
        print(json.dumps({"outcome": str(found.outcome), "rules": table.to_pylist()}, indent=2))
    elif markdown:
        print(gate_markdown(found))
    else:
        show_gate(wide_console(), found)
    raise typer.Exit(EXIT_CODES[found.outcome])


def _check(path: Path, more: Sequence[str], *, force: bool) -> None:
    from dsocr_nvtx.schema.files import check_file, check_format

    check_format(path, more)
    check_file(path, force=force)
