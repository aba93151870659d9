"""What a report's marks say in plain text, as tables: costs of any version of the wire, and experts that were hit.

A mark that is damaged, or says something else, is left out.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.ingest.fields import Fields
from dsocr_nvtx.ingest.source import Ints, whole
from dsocr_nvtx.ingest.words import dictionary
from dsocr_nvtx.schema.payload import EXPERTS_PREFIX, parse_experts_mark
from dsocr_nvtx.schema.payload_v1 import WIRES
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import COSTS, HITS, conform
from dsocr_nvtx.schema.values import values_of
from dsocr_nvtx.schema.wire import Wire


@frozen(eq=False)
class _Parsed:
    """Announcements: rows among the texts, path codes and their words, payloads as they stand, increments or none."""

    wire: Wire
    rows: Ints
    path: Ints
    words: list[str]
    values: Ints
    increments: Ints | None = None


def read_costs(announcements: pa.Table) -> pa.Table:
    """Return COSTS of an ANNOUNCEMENTS table, in its order but for the kinds of announcements, one after the other."""
    texts = whole(announcements["text"])
    parts = [part for wire in WIRES for part in (_plain(texts, wire), _growing(texts, wire)) if len(part.rows)]
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
    values, increments = Fields(len(rows)), Fields(len(rows))
    words: list[str] = []
    paths, first = [np.zeros(0, np.int64)], 0
    for part in parts:
        here, first = slice(first, first + len(part.rows)), first + len(part.rows)
        known = np.ones(len(part.rows), bool)
        values.put(here, part.wire.read(part.values), known)
        if part.increments is not None:
            increments.put(here, part.wire.read_increments(part.values, part.increments), known)
        paths.append(part.path + len(words))
        words += part.words
    told = announcements.select(["pid", "tid", "time_ns"]).take(pa.array(rows))
    columns = {name: told[name] for name in told.column_names}
    columns |= {
        "path": _words(np.concatenate(paths), words),
        "values": values.array(),
        "increments": increments.array(),
    }
    return conform(columns, COSTS, narrow=True)


def _words(codes: Ints, words: list[str]) -> pa.Array:
    unique = {word: code for code, word in enumerate(dict.fromkeys(words))}
    return dictionary(np.array([unique[word] for word in words] or [0], np.int64)[codes], list(unique))


def _plain(texts: pa.Array, wire: Wire) -> _Parsed:
    rows = np.flatnonzero(values_of(pc.starts_with(texts, wire.announced)))
    path, words, values = _parse(texts if len(rows) == len(texts) else texts.take(pa.array(rows)), wire)
    stage = values[:, wire.fields.index("stage")]
    good = np.flatnonzero((path >= 0) & (stage >= 0) & (stage < len(Stage)))
    return _Parsed(wire, rows[good], path[good], words, values[good])


def _growing(texts: pa.Array, wire: Wire) -> _Parsed:
    rows = np.flatnonzero(values_of(pc.starts_with(texts, wire.growing)))
    parsed = [wire.parse_growth(text) for text in texts.take(pa.array(rows)).to_pylist()]
    found = [one for one in parsed if one is not None]
    words = {path: code for code, path in enumerate(dict.fromkeys(path for path, _, _ in found))}
    values, increments = (
        np.array([one[part] for one in found], np.int64).reshape(len(found), len(wire.fields)) for part in (1, 2)
    )
    rows = rows[np.array([one is not None for one in parsed], bool)]
    return _Parsed(
        wire, rows, np.array([words[path] for path, _, _ in found], np.int64), list(words), values, increments
    )


def _parse(texts: pa.Array, wire: Wire) -> tuple[Ints, list[str], Ints]:
    """Return (path code or -1, paths, fields) of texts that begin as announcements do."""
    found = _parse_alike(texts, wire) if len(texts) else None
    if found is not None:
        return found
    parsed = [wire.parse(text) for text in texts.to_pylist()]
    words = {path: code for code, path in enumerate(dict.fromkeys(one[0] for one in parsed if one is not None))}
    path = np.array([-1 if one is None else words[one[0]] for one in parsed], np.int64)
    values = [[0] * len(wire.fields) if one is None else one[1] for one in parsed]
    return path, list(words), np.array(values, np.int64).reshape(len(parsed), len(wire.fields))


_TOGETHER = 1 << 15
"""Texts parsed together: few enough that what is made of them on the way stays small."""


def _parse_alike(texts: pa.Array, wire: Wire) -> tuple[Ints, list[str], Ints] | None:
    """Parse texts that are all whole announcements; None where one is not."""
    path, values = np.empty(len(texts), np.int64), np.empty((len(texts), len(wire.fields)), np.int64)
    words: dict[str, int] = {}
    for at in range(0, len(texts), _TOGETHER):
        some = slice(at, at + _TOGETHER)
        found = _parse_some(texts[some], wire)
        if found is None:
            return None
        codes, said, values[some] = found
        path[some] = np.array([words.setdefault(word, len(words)) for word in said], np.int64)[codes]
    return path, list(words), values


def _parse_some(texts: pa.Array, wire: Wire) -> tuple[Ints, list[str], Ints] | None:
    """Parse texts that are all whole announcements, as a table with spaces between columns; None where one is not."""
    import pyarrow.csv as pv

    together = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.binary_join(together, pa.scalar("\n", pa.string()))[0].as_buffer()
    data = np.frombuffer(joined, np.uint8)
    if np.count_nonzero(data < ord(" ")) != len(texts) - 1:  # a line break of its own, or a tab
        return None
    names = ["prefix", "path", *wire.fields]
    kinds = {"prefix": pa.string(), "path": pa.dictionary(pa.int32(), pa.string())}
    try:
        table = pv.read_csv(
            pa.BufferReader(joined),
            pv.ReadOptions(column_names=names),
            pv.ParseOptions(delimiter=" ", quote_char=False),
            pv.ConvertOptions(null_values=[], column_types=kinds | dict.fromkeys(wire.fields, pa.int64())),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != len(texts):
        return None
    path = whole(table.select(["path"]).unify_dictionaries()["path"])
    words = path.dictionary.to_pylist()
    if "" in words:
        return None
    values = np.empty((len(table), len(wire.fields)), np.int64)
    for at, name in enumerate(wire.fields):
        values[:, at] = values_of(whole(table[name]))
    return values_of(path).astype(np.int64), words, values


_MOST_BYTES = 1 << 62
"""No weights are so large; numbers beyond are damage."""


def read_hits(announcements: pa.Table) -> pa.Table:
    """Return HITS of an ANNOUNCEMENTS table; a mark that a process made twice counts once."""
    ours = announcements.filter(pc.starts_with(announcements["text"], EXPERTS_PREFIX))
    marks = dict.fromkeys(zip(ours["pid"].to_pylist(), ours["text"].to_pylist(), strict=True))
    rows = [
        (pid, event, mark.step, mark.expected_bytes, count * mark.expert_bytes)
        for pid, text in marks
        if (mark := parse_experts_mark(text)) is not None
        for event, count in mark.distinct
        if count * mark.expert_bytes < _MOST_BYTES
    ]
    return conform(dict(zip(HITS.names, np.array(rows, np.int64).reshape(len(rows), 5).T, strict=True)), HITS)
