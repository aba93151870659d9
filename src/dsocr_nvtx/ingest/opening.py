"""The right reader for what a report is: a SQLite file, or a directory of Arrow or Parquet files."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dsocr_nvtx.ingest.folder import FolderOfTables
from dsocr_nvtx.ingest.source import Source
from dsocr_nvtx.ingest.sqlite import SqliteFile


@contextmanager
def open_source(path: Path, later: ExitStack | None = None) -> Iterator[Source]:
    """Yield the report's tables; refuse what is neither, and what is damaged (``later``: as `SqliteFile`)."""
    if path.is_dir():
        yield FolderOfTables(path)
        return
    with SqliteFile(path, later=later) as file:
        yield file
