"""Damaged reports: bits and values of SQLite files and of folders of Parquet and Arrow files, joined and projected."""

import lzma
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.schema.payload import announcement
from tests.builders.folders import as_folder, write_file
from tests.builders.nsys import NsysFile
from tests.builders.tables import announcement_v1, payload, payload_v1
from tests.fuzz.harness import Case, Outcome
from tests.fuzz.mutations import EDGES, TEXTS, damage, damage_file
from tests.fuzz.oracle import join_faults, projection_faults, quick_check, times_of_folder, times_of_sqlite


def small(path: Path) -> Path:
    """Write a report with a little of everything: two GPUs, graphs, copies, payloads as blobs, JSON and marks."""
    file = NsysFile()
    file.device(pids=[1])
    file.device(identity=1, pids=[2])
    file.schema()
    for pid in (1, 2):
        file.domain(pid)
        for step in range(6):
            _step(file, pid, step)
    return file.write(path)


def _step(file: NsysFile, pid: int, step: int) -> None:
    at, event = 10_000 * (step + 1), 3 * step
    costs = {"tensor_flops": 1 << 20, "weight_bytes": 1 << 16, "activation_bytes": 1 << 10}
    _push(file, pid, step, "decode", (at, at + 9000), {"event_id": event, "level": 0})
    for place, path in enumerate(("decoder.0.attention", "decoder.1.mlp")):
        begin = at + 1000 + 3000 * place
        fields = {"event_id": event + place + 1, "layer": place, "level": 2, **costs}
        _push(file, pid, step, path, (begin, begin + 2500), fields)
        file.launch(f"gemm_{place}", begin + 100, begin + 300, begin + 900, pid=pid)
        file.launch("elementwise_kernel", begin + 400, begin + 1000, begin + 1300, pid=pid, stream=8)
    for table, more in (("MEMCPY", {"bytes": 4096, "copyKind": 1}), ("MEMSET", {"bytes": 64, "value": 0})):
        number = file.call(f"cuda{table.title()}Async_v3020", at + 8000, at + 8010, pid=pid)
        kernel = file.rows["CUPTI_ACTIVITY_KIND_KERNEL"][-1]
        common = {name: kernel[name] for name in ("deviceId", "contextId", "streamId", "globalPid")}
        times = {"start": at + 8100 + 10 * len(table), "end": at + 8150 + 10 * len(table)}
        file.add(f"CUPTI_ACTIVITY_KIND_{table}", **times, **common, correlationId=number, **more)


def _push(file: NsysFile, pid: int, step: int, path: str, times: tuple[int, int], fields: dict[str, int]) -> None:
    """Add a range: its cost announced, of the first process as blob or JSON too, of the other in version 1 alone."""
    fields |= {"stage": 2, "step": step}
    if pid == 2:
        file.mark(announcement_v1(path, payload_v1(**fields)), times[0] - 5, pid=pid)
        file.push_pop(path, *times, pid=pid)
    else:
        values = payload(**fields)
        file.mark(announcement(path, values), times[0] - 5, pid=pid)
        file.push_pop(path, *times, pid=pid, values=values, binary=step % 2 == 0, json=step % 3 > 0)


def _join(report: Path, folder: Path, what: str, faults: Callable[[Path, Outcome], Iterator[str]]) -> Case:
    out = folder / "out.dsocr"
    return Case(
        what=f"join, {what}", arguments=("join", str(report), "-o", str(out)), inputs=(report,), outputs=(out,),
        faults=partial(faults, out),
    )  # fmt: skip


def recorded(path: Path) -> Path:
    """Write the capture of an H200 that ships with the package."""
    with resources.as_file(resources.files("dsocr_nvtx.demo") / CAPTURE) as packed:
        path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


class SqliteBits:
    """SQLite reports with damaged bytes: refused where SQLite itself calls them malformed, else joined by its sums."""

    def __init__(self, name: str, make: Callable[[Path], Path], projected: float) -> None:
        """``projected``: share of cases that are projected, whose rules take long in SQL; the others are joined."""
        self.name, self._make, self._projected = name, make, projected

    def prepare(self, folder: Path) -> None:
        """Write the sound report."""
        self._sound = self._make(folder / "sound.sqlite").read_bytes()

    def make(self, random: Random, folder: Path) -> Case:
        """Damage a copy."""
        data, report = bytearray(self._sound), folder / "r.sqlite"
        what = damage(random, data)
        report.write_bytes(data)
        return _case(random, report, folder, what, self._projected)


def _case(random: Random, report: Path, folder: Path, what: str, projected: float) -> Case:
    def check(out: Path, outcome: Outcome) -> Iterator[str]:
        verdict = quick_check(report)
        if verdict != "ok":
            yield f"SQLite says: {verdict}"
        elif out.is_dir():
            yield from join_faults(times_of_sqlite(report), out)
        elif "set apart" not in outcome.stderr:
            yield from projection_faults(report, out)

    if random.random() >= projected:
        return _join(report, folder, what, check)
    out = folder / "out.arrow"
    return Case(
        what=f"project, {what}", arguments=("project", str(report), "-o", str(out)), inputs=(report,), outputs=(out,),
        faults=partial(check, out),
    )  # fmt: skip


class SqliteValues:
    """SQLite reports that are sound as files, with values, rows, columns and tables that nobody expects."""

    name = "sqlite-values"

    def prepare(self, folder: Path) -> None:
        """Write the sound report, without the constraints that third parties drop."""
        self._sound = small(folder / "sound.sqlite")
        with sqlite3.connect(self._sound) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
                plain = ", ".join(f'"{column[1]}" {column[2]}' for column in columns)
                connection.execute(f"ALTER TABLE {table} RENAME TO old")
                connection.execute(f"CREATE TABLE {table} ({plain})")
                connection.execute(f"INSERT INTO {table} SELECT * FROM old")
                connection.execute("DROP TABLE old")
        connection.close()

    def make(self, random: Random, folder: Path) -> Case:
        """Edit a copy, once or a few times."""
        report = folder / "r.sqlite"
        shutil.copyfile(self._sound, report)
        connection = sqlite3.connect(report)
        edits = [_edited(random, connection) for _ in range(random.choice((1, 1, 1, 2, 5)))]
        connection.commit()
        connection.close()
        return _case(random, report, folder, ", ".join(edits), 0.3)


def _edited(random: Random, connection: sqlite3.Connection) -> str:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    table = random.choice(tables)
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")').fetchall()]
    rows = [rowid for (rowid,) in connection.execute(f'SELECT rowid FROM "{table}"').fetchall()]
    kind = random.random()
    if kind < 0.06 or not rows or not columns:
        return _edited_table(random, connection, table, columns)
    row, column = random.choice(rows), random.choice(columns)
    if kind < 0.10:
        connection.execute(f'DELETE FROM "{table}" WHERE rowid = {row}')
        return f"row {row} of {table} deleted"
    if kind < 0.14:
        connection.execute(f'INSERT INTO "{table}" SELECT * FROM "{table}" WHERE rowid = {row}')
        return f"row {row} of {table} twice"
    value = _value(random, connection.execute(f'SELECT "{column}" FROM "{table}" WHERE rowid = {row}').fetchone()[0])
    which = f"WHERE rowid = {row}" if random.random() < 0.9 else ""
    connection.execute(f'UPDATE "{table}" SET "{column}" = ? {which}', (value,))
    return f"{table}.{column} = {str(value)[:40]!r} {which or 'in all rows'}"


def _edited_table(random: Random, connection: sqlite3.Connection, table: str, columns: list[str]) -> str:
    kind = random.choice(("drop", "lower", "view", "suffix", "column", "empty"))
    if kind == "drop":
        connection.execute(f'DROP TABLE "{table}"')
    elif kind == "empty":
        connection.execute(f'DELETE FROM "{table}"')
    elif kind == "column" and len(columns) > 1:
        connection.execute(f'ALTER TABLE "{table}" DROP COLUMN "{random.choice(columns)}"')
    else:
        other = {"lower": table.lower() if table != table.lower() else table.upper(), "suffix": f"{table}_V2"}
        connection.execute(f'ALTER TABLE "{table}" RENAME TO "x_{table}"')
        connection.execute(f'ALTER TABLE "x_{table}" RENAME TO "{other.get(kind, f"y_{table}")}"')
        if kind == "view":
            connection.execute(f'CREATE VIEW "{table}" AS SELECT * FROM "y_{table}"')
    return f"{kind} of {table}"


def _value(random: Random, old: object) -> object:
    """Return another value for an old one: near it, at an edge, or of another type."""
    kind = random.random()
    if isinstance(old, bytes) and kind < 0.8:
        data = bytearray(old)
        damage(random, data)
        return bytes(data)
    if isinstance(old, str) and old and kind < 0.5:
        raw = bytearray(old.encode())
        damage(random, raw)
        return raw.decode("utf-8", "replace")
    if isinstance(old, int) and kind < 0.6:
        near = (old + 1, old - 1, -old, old ^ 1 << random.randrange(63), old + random.randrange(-10_000, 10_000))
        return max(-(2**63), min(random.choice(near), 2**63 - 1))
    return random.choice((*EDGES, *EDGES, *TEXTS, None, None, 1.5, 4.9, float("inf"), b"\x00\xff", b""))


class FolderBits:
    """Folders of Parquet or Arrow files, one of them damaged."""

    kind = "bits"

    def __init__(self, suffix: str) -> None:
        self.name, self._suffix = f"folder{suffix}-{self.kind}", suffix

    def prepare(self, folder: Path) -> None:
        """Write the sound folder."""
        self._sound = as_folder(small(folder / "sound.sqlite"), folder / "sound", self._suffix)

    def make(self, random: Random, folder: Path) -> Case:
        """Change one file of a copy."""
        report = folder / "report"
        shutil.copytree(self._sound, report)
        what = self.change(random, random.choice(sorted(report.iterdir())))
        return _join(report, folder, what, partial(_folder_faults, report))

    def change(self, random: Random, path: Path) -> str:
        """Damage a file's bytes."""
        return damage_file(random, path)


class FolderValues(FolderBits):
    """Folders of sound files with values and types that nobody expects."""

    kind = "values"

    def change(self, random: Random, path: Path) -> str:
        """Edit one value of one column."""
        found = pq.read_table(path) if path.suffix == ".parquet" else _stream(path)
        at, row = random.randrange(found.num_columns), random.randrange(max(len(found), 1))
        values = found.column(at).to_pylist() if not _is_text(found.column(at).type) else _bytes(found.column(at))
        values[row : row + 1] = [_value(random, values[row] if values else None)]
        what = f"{path.name}: {found.column_names[at]}[{row}] = {str(values[row])[:40]!r}"
        write_file(found.set_column(at, found.column_names[at], _column(values, found.column(at).type)), path)
        return what


def _folder_faults(report: Path, out: Path, _: Outcome) -> Iterator[str]:
    try:
        times = times_of_folder(report)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield f"joined, though Arrow says: {error}"
        return
    yield from join_faults(times, out)


def _stream(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind))


def _bytes(column: pa.ChunkedArray) -> list[object]:
    return [value for piece in column.chunks for value in piece.view(pa.large_binary()).to_pylist()]


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    """Return values in the old type where they fit, else in the first that they do."""
    for wanted in (kind, pa.int64(), pa.uint64(), pa.float64(), pa.large_binary()):
        try:
            return pa.array(values, wanted)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return pa.array([str(value) for value in values], pa.large_string())
