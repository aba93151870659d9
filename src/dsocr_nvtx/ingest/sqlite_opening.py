"""Opening a stranger's SQLite file: what it must be, read-only without a trace left beside it, and whether it is sound.

A file in WAL mode makes SQLite write two files beside it even to be read. Where no journal lies there it is read as
unchanging; where one does, the file and its journal are copied and read there, so that the last changes count.
"""

import shutil
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.texts import decoded

REEXPORT = "export it again: nsys export -t sqlite REPORT.nsys-rep"

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
_JOURNALS = ("-wal", "-journal")
_LONGEST_VALUE = 1 << 26
"""SQLite reads no longer text or blob than this for us: a hostile one may be a gigabyte."""


def check_header(path: Path) -> None:
    """Refuse what is no SQLite file, or one that is shorter than it says."""
    if not path.exists():
        raise Refused(path, "no such file", "give the path of a report")
    if not path.is_file():
        raise Refused(path, "not a regular file", "give the path of a report file")
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
    except OSError as cause:
        raise Refused(path, f"cannot be read ({cause.strerror})", "check its permissions") from cause
    if not head:
        raise Refused(path, "empty file", REEXPORT)
    if not head.startswith(_MAGIC):
        raise Refused(path, "not a SQLite file", f"give a .nsys-rep, or {REEXPORT}")
    if _is_cut_short(head, path.stat().st_size):
        raise Refused(path, "damaged: the file is shorter than its header says", REEXPORT)


def _is_cut_short(head: bytes, length: int) -> bool:
    # SQLite reads a last page of which a part is missing as if that part were zeros, and says nothing.
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0  # else it is not kept up to date
    return page >= 512 and (length % page != 0 or length < page * pages)


def journals(path: Path) -> list[Path]:
    """Return what lies beside a file and holds changes that are not in it yet."""
    beside = (path.with_name(path.name + end) for end in _JOURNALS)
    return [file for file in beside if file.is_file() and file.stat().st_size]


def undisturbed(path: Path, closing: ExitStack) -> Path:
    """Return the file, or a temporary copy of it and its journal that goes when ``closing`` does."""
    beside = journals(path)
    if not beside:
        return path
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="dsocr-")))
    for file in (path, *beside):
        shutil.copyfile(file, folder / file.name)
    return folder / path.name


def connect(path: Path, *, copied: bool = False) -> sqlite3.Connection:
    """Connect to a file to read it; to a ``copied`` one so that its journal is taken in."""
    mode = "mode=rw" if copied else "mode=ro"
    if not copied and _is_wal(path):
        mode += "&immutable=1"  # no journal lies beside it, and none is to
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, check_same_thread=False)
    # Real exports hold text that is not UTF-8 (localised times, protobuf in TEXT columns).
    connection.text_factory = bytes
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    return connection


def _is_wal(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(20)[18:] == b"\x02\x02"


class QuickCheck:
    """SQLite's own check of a whole file (``PRAGMA quick_check``), in a thread beside whatever the block does.

    It does without this thread, as SQLite lets go of the GIL. Nothing that was read of the file counts before the block
    has ended well: a row whose header lies about its length would be read as other values.
    """

    def __init__(self, path: Path, read: Path) -> None:
        """Check ``read``: the file at ``path``, which messages name, or a copy of it."""
        self._path = path
        self._connection = connect(read, copied=read is not path)
        # What a schema demands of values is not asked: a stranger's expression would run for every row. And the file is
        # open now, so that a temporary one may go.
        self._connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        self._pool = ThreadPoolExecutor(1)
        self._found = self._pool.submit(self._run)

    def _run(self) -> str:
        try:
            ((found,),) = self._connection.execute("PRAGMA quick_check(1)").fetchall()
        except (sqlite3.Error, ValueError) as error:  # what it says of a name may be no UTF-8
            return f"SQLite: {error}"
        if f"error code={sqlite3.SQLITE_NOMEM}".encode() in found:
            raise MemoryError("SQLite had none left to check the report")
        return "" if found == b"ok" else f"SQLite: {decoded(found).splitlines()[-1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Refuse a malformed file; it may also be what an error, that is no refusal, came of."""
        try:
            if kind is None or (issubclass(kind, Exception) and not issubclass(kind, Refused)):
                wrong = self._found.result()
                if wrong:
                    raise Refused(self._path, f"damaged or unreadable SQLite ({wrong})", REEXPORT) from error
        finally:
            self._connection.interrupt()
            self._pool.shutdown()
            self._connection.close()
