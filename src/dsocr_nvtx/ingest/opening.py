"""The right reader for what a report is: a SQLite file, or a directory of Arrow or Parquet files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsocr_nvtx.ingest.folder import FolderOfTables
from dsocr_nvtx.ingest.source import Source
from dsocr_nvtx.ingest.sqlite import SqliteFile


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Yield the report's tables; refuse what is neither."""
    if path.is_dir():
        yield FolderOfTables(path)
        return
    with SqliteFile(path) as file:
        yield file
