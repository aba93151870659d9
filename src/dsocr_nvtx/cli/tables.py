"""Reading the tables that `join` wrote into a directory."""

from pathlib import Path

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.files import read_table


def joined_table(directory: Path, name: str, needed: set[str]) -> pa.Table:
    """Return a table of a join's directory; refuse a file of that name without the columns that are needed."""
    path = directory / f"{name}.arrow"
    table = read_table(path)
    if not needed <= set(table.column_names):
        found = "another table than the one of that name"
        raise Refused(path, found, "name the directory that dsocr-nvtx join wrote")
    return table
