"""How tables and text reach disk and come back: whole or not at all, in the format that the suffix names."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from dsocr_nvtx.errors import Refused, UsageError, printable
from dsocr_nvtx.schema.checking import REMEDY, arrow_table, check_columns, read_regular
from dsocr_nvtx.schema.exchange import check_movable, check_removable, put_in_place
from dsocr_nvtx.schema.formats import WRITERS, Written
from dsocr_nvtx.schema.seal import check_seal
from dsocr_nvtx.schema.tables import SCHEMA_VERSION


def check_file(target: Path, *, force: bool) -> None:
    """Refuse a name where something stands, a link to nothing too; with ``force``, only what is no file.

    To be called before long work. Of a link, the link is what is replaced, never what it leads to.
    """
    if target.is_dir():
        raise Refused(target, "a directory", "name a file")
    if target.exists() and not target.is_file():
        raise Refused(target, "a device or a pipe", "name a file")
    if not force and (target.is_symlink() or target.exists()):
        found = "a link" if target.is_symlink() else "a file"
        raise Refused(target, f"{found} is there already", "name another, or replace it with --force")
    check_place(target)


_ELSEWHERE = "name a place that you can write to"


def check_place(target: Path) -> None:
    """Refuse a name under what is no directory, or one that may not be written to."""
    above = next((folder for folder in target.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise Refused(target, f"{above} is a file, not a directory", _ELSEWHERE)
    if above is not None and not os.access(above, os.W_OK | os.X_OK):
        raise Refused(target, f"no permission to write in {above}", _ELSEWHERE)


@contextmanager
def _told_as(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let what goes wrong at the temporary name be told of the user's; without one, all of it is about ``target``."""
    mine = str(temporary) if temporary is not None else ""
    try:
        yield
    except Refused as refusal:
        if not mine or not str(refusal.where).startswith(mine):
            raise
        where = str(refusal.where).replace(mine, str(target), 1)
        raise Refused(where, refusal.found, refusal.remedy) from refusal
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None
        if mine not in str(error) and not full:
            raise
        where = str(error.filename or target).replace(mine, str(target), 1) if mine else str(target)
        why = os.strerror(error.errno) if error.errno else str(error).replace(mine, str(target))
        raise Refused(where, f"cannot be written: {why}", "make room there" if full else _ELSEWHERE) from error


@contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; move it into place when the block ends well, remove it when not.

    Rules of `check_file` hold at both ends: without ``force``, what came to stand there meanwhile is not overwritten.
    Of several processes that write to one path, each leaves a whole file or none.
    """
    check_file(path, force=force)
    with _told_as(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _told_as(path, temporary):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            check_file(path, force=force)
            os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_directory(target: Path, marker: str, *, force: bool) -> None:
    """Refuse a directory that holds something; with ``force``, only one without ``marker``, which is not ours."""
    check_place(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise Refused(target, "a file", "name a directory")
    check_movable(target.resolve())
    if not any(target.iterdir()):
        return
    if not force:
        raise Refused(target, "a directory that is not empty", "name another, or replace it with --force")
    if not (target / marker).is_file():
        raise Refused(target, f"a directory without {marker}, so none of ours", "name another; it is not deleted")
    check_removable(target.resolve())


@contextmanager
def replacing_directory(target: Path, marker: str, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside ``target``; move it into place when the block ends well, remove it when not.

    Rules of `check_directory` hold at both ends: what came to stand there meanwhile is not overwritten either. A link
    stays, and the directory that it leads to is what is written. At every instant the old one is there, or the new.
    """
    check_directory(target, marker, force=force)
    named, target = target, target.resolve()
    with _told_as(named):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _told_as(named, temporary):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            check_directory(target, marker, force=force)
            put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_format(path: Path, more: Sequence[str] = ()) -> None:
    """Refuse a name whose suffix is of no table format, nor one of ``more`` to write, before the work is done."""
    known = dict.fromkeys((*more, *WRITERS))
    if path.suffix not in known:
        found = f"no table format is called {path.suffix!r}" if path.suffix else "a name without a suffix"
        raise UsageError(f"{path}: {found}; end the name in {', '.join(known)}")


def write_table(table: Written, path: Path, *, force: bool = True) -> None:
    """Write a table whole, in the format of the suffix: Arrow IPC, Parquet, CSV or JSON. ``force``: as `replacing`."""
    check_format(path)
    with replacing(path, force=force) as temporary:
        WRITERS[path.suffix](table, temporary)


def write_json(value: object, path: Path, *, force: bool = True) -> None:
    """Write JSON whole, indented for people. ``force``: as `replacing`."""
    write_text(json.dumps(value, indent=2) + "\n", path, force=force)


def write_text(text: str, path: Path, *, force: bool = True) -> None:
    """Write text whole, as UTF-8; what is not printable in it is spelt out. ``force``: as `replacing`."""
    with replacing(path, force=force) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def read_table(
    path: Path,
    schema: pa.Schema | None = None,
    *,
    needed: Sequence[str] | None = None,
    sha256: str | None = None,
    remedy: str = REMEDY,
) -> pa.Table:
    """Return an ``.arrow`` table that this package wrote; refuse any other file, a damaged one, and a newer version's.

    It has the columns ``needed`` of ``schema`` (all, unless some are named), in their types, and may have more.
    ``sha256``: what was noted of the file when it was written; other bytes are refused.
    """
    if path.is_dir():
        raise Refused(path, "a directory, not an Arrow IPC file", remedy)
    data = read_regular(path, remedy)
    table = arrow_table(path, data)
    version = (table.schema.metadata or {}).get(b"schema_version", b"")
    if not version.isdigit() or len(version) > _DIGITS or not int(version):
        raise Refused(path, "an Arrow file not written by dsocr-nvtx", "name a table that `dsocr-nvtx` wrote")
    if int(version) > SCHEMA_VERSION:
        found = f"table schema version {int(version)}, this is version {SCHEMA_VERSION}"
        raise Refused(path, found, "upgrade dsocr-nvtx")
    if schema is not None:
        check_columns(table, schema, path, remedy, needed=needed)
    check_seal(path, data, sha256)  # last: what else is wrong says more
    return table


_DIGITS = 9
