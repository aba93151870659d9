"""Reading what `nsys export -t parquetdir` or `-t arrowdir` wrote: a directory with one file per table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import NULL, TEXT_LIMIT, Ints, Mask, product
from dsocr_nvtx.ingest.source import whole as concatenated
from dsocr_nvtx.ingest.texts import plain_text
from dsocr_nvtx.schema.values import values_of

_REEXPORT = "export it again: nsys export -t parquetdir REPORT.nsys-rep"


def _parquet_names(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(path).names
    return names


def _parquet(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    # The file itself, not its path: a path is looked at for partition columns.
    return pq.ParquetFile(path).read(columns)


def _arrow_names(path: Path) -> list[str]:
    names: list[str] = _ipc(path).schema.names
    return names


def _arrow(path: Path, columns: list[str]) -> pa.Table:
    return _ipc(path).read_all().select(columns)


def _ipc(path: Path) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(source)


_FORMATS: dict[str, tuple[Callable[[Path], list[str]], Callable[[Path, list[str]], pa.Table]]] = {
    ".parquet": (_parquet_names, _parquet),
    ".arrow": (_arrow_names, _arrow),
    ".feather": (_arrow_names, _arrow),
}


class FolderOfTables:
    """A directory of tables as a `dsocr_nvtx.ingest.source.Source`; a file's name is its table's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = self._listed(path)
        self._files = {file.stem: file for file in files}
        if not files:
            found = "a directory without .parquet or .arrow files"
            raise Refused(path, found, f"give a report's file, or {_REEXPORT}")
        self.columns = {table: frozenset(self._names(file)) for table, file in self._files.items()}

    @staticmethod
    def _listed(path: Path) -> list[Path]:
        with _refusing(path):
            files = sorted(p for p in path.iterdir() if p.suffix in _FORMATS)
        for file in files:
            if file.is_symlink():
                raise Refused(file, "a link, which may lead anywhere", "copy the file itself into the directory")
            if not file.is_file():
                raise Refused(file, "not a regular file", _REEXPORT)
        return files

    def _names(self, file: Path) -> list[str]:
        with _refusing(file):
            return _FORMATS[file.suffix][0](file)

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def _read(self, table: str, columns: list[str]) -> pa.Table:
        file = self._files[table]
        with _refusing(file):
            return _FORMATS[file.suffix][1](file, columns)

    def integers(self, table: str, columns: Sequence[str]) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        if table not in self.columns:
            return {name: np.empty(0, np.int64) for name in columns}
        if any("*" in name for name in columns):
            plain = self.integers(table, list(dict.fromkeys(part for name in columns for part in name.split("*"))))
            return {name: product([plain[part] for part in name.split("*")]) for name in columns}
        present = [name for name in columns if name in self.columns[table]]
        found = self._read(table, present or sorted(self.columns[table])[:1])
        missing = np.broadcast_to(np.int64(NULL), (len(found),))
        with _refusing(self._files[table]):
            return {name: _integers(found[name]) if name in present else missing for name in columns}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut at `TEXT_LIMIT`."""
        found = self._column(table, column, rows)
        if pa.types.is_binary(found.type) or pa.types.is_large_binary(found.type):
            return pa.array([plain_text(value) for value in found.to_pylist()], pa.string())
        with _refusing(self.path):
            return pc.utf8_slice_codeunits(found.cast(pa.string()), 0, TEXT_LIMIT)

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob."""
        found = self._column(table, column, rows)
        binary = pa.types.is_binary(found.type) or pa.types.is_large_binary(found.type)
        yield found.cast(pa.binary()) if binary else pa.nulls(len(found), pa.binary())

    def _column(self, table: str, column: str, rows: Mask | None) -> pa.Array:
        if not self.has(table, column):
            whole = self.integers(table, ["rowid"])["rowid"]  # no such column: a NULL for every row
            return pa.nulls(len(whole) if rows is None else int(rows.sum()), pa.string())
        found = concatenated(self._read(table, [column])[column])
        if pa.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        return found if rows is None else found.filter(pa.array(rows))


def _integers(column: pa.ChunkedArray) -> Ints:
    if pa.types.is_null(column.type):
        return np.full(len(column), NULL)
    if not pa.types.is_integer(column.type):
        raise pa.ArrowInvalid(f"values that are not integers ({column.type})")
    if pa.types.is_uint64(column.type):
        return values_of(concatenated(column.fill_null(pa.scalar(1 << 63, pa.uint64())))).view(np.int64)
    whole = concatenated(column.cast(pa.int64()))
    return values_of(whole.fill_null(NULL) if whole.null_count else whole)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as cause:
        raise Refused(path, f"damaged or unreadable ({str(cause).splitlines()[0]})", _REEXPORT) from cause
