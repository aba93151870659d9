"""What `nsys_scripts/dsocr_roofline.py` relies on of nsys's module of this name, and nothing else.

Nsight Systems 2025.3 imports a report script in a Python inside nsys, where `subprocess` cannot be imported: the
built-in module under it is missing. It makes the report of (database, arguments), calls `setup`, runs ``statements``
and ``query`` on a read-only connection, and prints the rows.
"""

import argparse
import csv
import sqlite3
import sys
from typing import Any


class StatsReport:
    """A report: declared by its class attributes, made by `Main`."""

    display_name = ""
    usage = ""
    query = ""
    statements: list[str] = []  # noqa: RUF012
    table_checks: dict[str, str] = {}  # noqa: RUF012
    _arg_opts: list[list[Any]] = []  # noqa: RUF012

    def __init__(self, dbfile: str, args: list[str]) -> None:
        self.dbfile, self._args = dbfile, args
        self._database = sqlite3.connect(f"file:{dbfile}?mode=ro&immutable=1", uri=True)

    def setup(self) -> str | None:
        for table, text in self.table_checks.items():
            if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                return text
        parser = argparse.ArgumentParser()
        for names, options in [*self._arg_opts, *([[n], {}] for n in ("start", "end", "nvtx"))]:
            parser.add_argument(*(f"--{name}" for name in names), **options)
        self.parsed_args = parser.parse_args([f"--{arg}" for arg in self._args])
        return None

    @classmethod
    def Main(cls) -> None:  # noqa: N802
        if len(sys.argv) < 2:
            sys.exit(cls.usage.format(SCRIPT="dsocr_roofline", DISPLAY_NAME=cls.display_name, ROW_LIMIT=50))
        report = cls(sys.argv[1], sys.argv[2:])
        wrong = report.setup()
        if wrong is not None:
            sys.exit(wrong.format(DBFILE=report.dbfile))
        for statement in report.statements:
            report._database.execute(statement)
        rows = report._database.execute(report.query)
        writer = csv.writer(sys.stdout)
        writer.writerow([column[0] for column in rows.description])
        writer.writerows(rows)
