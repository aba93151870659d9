"""NVTX in an nsys export: domains, ranges with their payloads, stages, announcements.

A text is a registered string's id or plain; payloads are a blob, JSON, or neither, as the export was asked for; domains
are numbered per process.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.nsys_ids import pid_of, tid_of
from dsocr_nvtx.ingest.payloads import Entry, decode_blobs, decode_json
from dsocr_nvtx.ingest.records import Records, taken
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, Source, whole
from dsocr_nvtx.ingest.words import Names, dictionary, distinct, labels, words
from dsocr_nvtx.schema.payload import MARK_PREFIX
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import ANNOUNCEMENTS, EVERY_RANGE, NVTX, conform
from dsocr_nvtx.schema.values import values_of

EVENTS = "NVTX_EVENTS"
CATEGORY, MARK, PUSH_POP, START_END, NVTXT_PUSH_POP, NVTXT_START_END, DOMAIN_CREATE = 33, 34, 59, 60, 70, 71, 75

_COLUMNS = ("eventType", "globalTid", "endGlobalTid", "start", "end", "domainId", "textId", "category")


@frozen(eq=False)
class Events:
    """The integer columns of all NVTX events."""

    column: Mapping[str, Ints]

    def of(self, *kinds: int) -> Mask:
        """Return which events are of these kinds."""
        return np.isin(self.column["eventType"], kinds)

    def take(self, rows: Mask, *names: str) -> dict[str, Ints]:
        """Return columns of some events; one of a single value takes no room."""
        return taken({name: self.column[name] for name in names}, rows)


def read_events(report: Source) -> Events:
    """Return the integer columns of all NVTX events; without the table, none."""
    return Events(report.integers(EVENTS, _COLUMNS))


def texts_of(report: Source, events: Events, rows: Mask, names: Names) -> pa.DictionaryArray:
    """Return what the events in the mask say: the registered string, else the plain text."""
    identifiers = events.column["textId"]
    plain = rows & (identifiers == NULL)
    own = report.strings(EVENTS, "text", plain) if plain.any() else pa.array([], pa.string())
    return labels(identifiers[rows], own, names)


def domain_names(report: Source, events: Events, names: Names) -> dict[tuple[int, int], str]:
    """Return (process id, domain id) -> name; of a domain that was created twice, the first one's."""
    rows = events.of(DOMAIN_CREATE)
    c = events.take(rows, "globalTid", "domainId", "start")
    said = texts_of(report, events, rows, names).to_pylist()
    order = np.argsort(c["start"], kind="stable")[::-1].tolist()
    pid, domain = pid_of(c["globalTid"]).tolist(), c["domainId"].tolist()
    return {(pid[row], domain[row]): said[row] for row in order}


def _in_domains(c: Mapping[str, Ints], domains: list[tuple[int, int]]) -> Mask:
    pid = pid_of(c["globalTid"])
    inside = np.zeros(len(pid), bool)
    for process, domain in domains:
        inside |= (pid == process) & (c["domainId"] == domain)
    return inside


def _stage_names(report: Source, events: Events, names: Names, domains: list[tuple[int, int]]) -> dict[int, str]:
    """Return category -> stage. Where a capture began after the categories were named, their order is what they are."""
    stages = {code + 1: str(stage) for code, stage in enumerate(Stage)}
    rows = events.of(CATEGORY)
    rows[rows] = _in_domains(events.take(rows, "globalTid", "domainId"), domains)
    said = texts_of(report, events, rows, names).to_pylist()
    for category, name in zip(events.column["category"][rows].tolist(), said, strict=True):
        stages[category] = name if name in set(Stage) else str(Stage.UNKNOWN)
    return stages


def read_ranges(records: Records, events: Events, names: Names, domain: str) -> pa.Table:
    """Return NVTX: the push/pop ranges of one domain; a range that was never closed ends at `NULL` (`closed`)."""
    report = records.report
    domains = [key for key, name in domain_names(report, events, names).items() if name == domain]
    rows = events.of(PUSH_POP, NVTXT_PUSH_POP)
    rows[rows] = _in_domains(events.take(rows, "globalTid", "domainId"), domains)
    rows = _possible(records, "NVTX range", events, rows)
    c = events.take(rows, "globalTid", "start", "end", "category", "domainId")
    stages = _stage_names(report, events, names, domains)
    categories = {int(k): stages.get(int(k), str(Stage.UNKNOWN)) for k in distinct(c["category"])[0]}
    path, stage = texts_of(report, events, rows, names), words(c["category"], categories)
    binary = decode_blobs(report.blobs(EVENTS, "binaryData", rows), c["domainId"], _payload_schemas(report))
    told = {"payload": binary, "json": decode_json(report.strings(EVENTS, "jsonText", rows))}
    for name, payloads in told.items():
        told[name] = records.possible_payloads(payloads)
        _check_stages(report.path, told[name], stage, path)
    columns = {"pid": pid_of(c["globalTid"]), "tid": tid_of(c["globalTid"]), "start_ns": c["start"], "end_ns": c["end"]}
    return conform({**columns, "path": path, "stage": stage, **told}, NVTX, narrow=True)


def _possible(records: Records, what: str, events: Events, rows: Mask) -> Mask:
    """Return the possible ones among some events, ranges or marks; one may have no end."""
    c = events.take(rows, "globalTid", "domainId", "start", "end")
    kept = records.possible(what, EVENTS, c, may_be_open=True)
    if kept is not None:
        rows[rows] = kept
    return rows


def _check_stages(where: Path, payloads: pa.StructArray, stage: pa.DictionaryArray, path: pa.DictionaryArray) -> None:
    """Refuse ranges whose payload tells another stage than their category, where both tell one."""
    if payloads.null_count == len(payloads):
        return
    stages = [str(one) for one in Stage]
    said = np.array([stages.index(word) for word in stage.dictionary.to_pylist()], np.int64)[values_of(stage)]
    told = np.asarray(values_of(payloads.field("stage")), np.int64)
    both = values_of(payloads.is_valid()) & (said != _UNKNOWN) & (told != _UNKNOWN)
    if (apart := np.flatnonzero(both & (said != told))).size:
        row = int(apart[0])
        found = f"two stages for one range: {path[row].as_py()} is {stages[told[row]]} and {stages[said[row]]}"
        raise Refused(where, found, "the report was damaged or altered; export it again from the .nsys-rep")


_UNKNOWN = list(Stage).index(Stage.UNKNOWN)


def closed(ranges: pa.Table, last: int) -> pa.Table:
    """Return NVTX, the ranges that were never closed ended at ``last``."""
    start, end = (values_of(whole(ranges[name])) for name in ("start_ns", "end_ns"))
    never = end == NULL
    if never.any():
        end = np.where(never, np.maximum(start, last), end)
        ranges = ranges.set_column(ranges.column_names.index("end_ns"), NVTX.field("end_ns"), pa.array(end))
    return ranges


def read_every_range(records: Records, events: Events, names: Names) -> pa.Table:
    """Return EVERY_RANGE: push/pop and start/end ranges of all domains, in the report's order."""
    rows = events.of(PUSH_POP, START_END, NVTXT_PUSH_POP, NVTXT_START_END)
    rows = _possible(records, "NVTX range", events, rows)
    c = events.take(rows, "eventType", "globalTid", "endGlobalTid", "start", "end")
    elsewhere = c["endGlobalTid"]
    started = np.isin(c["eventType"], (START_END, NVTXT_START_END)).astype(np.int64)
    return conform(
        {
            "pid": pid_of(c["globalTid"]),
            "tid": tid_of(c["globalTid"]),
            "end_tid": pa.array(tid_of(elsewhere), mask=elsewhere == NULL),
            "start_ns": c["start"],
            "end_ns": pa.array(c["end"], mask=c["end"] == NULL),
            "name": _full_names(records.report, events, rows, names),
            "style": dictionary(started, ["PushPop", "StartEnd"]),
            "range_id": np.flatnonzero(rows) + 1,
        },
        EVERY_RANGE,
    )


def _full_names(report: Source, events: Events, rows: Mask, names: Names) -> pa.DictionaryArray:
    """Return domain:text of events; the default domain has no name."""
    c = events.take(rows, "globalTid", "domainId")
    said = domain_names(report, events, names)
    text = texts_of(report, events, rows, names)
    words_of = text.dictionary.to_pylist()
    pids, pid = distinct(pid_of(c["globalTid"]))
    domains, domain = distinct(np.where(c["domainId"] == NULL, 0, c["domainId"]))
    key = (pid * max(len(domains), 1) + domain) * max(len(words_of), 1)
    whole, codes = distinct(key + values_of(text).astype(np.int64))
    place, word = np.divmod(whole, max(len(words_of), 1))
    keys = zip(
        pids[place // max(len(domains), 1)].tolist(), domains[place % max(len(domains), 1)].tolist(), strict=True
    )
    full = [f"{said.get(key, '')}:{words_of[at]}" for key, at in zip(keys, word.tolist(), strict=True)]
    return dictionary(codes, full or [""])


def _payload_schemas(report: Source) -> dict[tuple[int, int], tuple[int, list[Entry]]]:
    c = report.integers("NVTX_PAYLOAD_SCHEMAS", ("domainId", "schemaId", "payloadSize"))
    schemas: dict[tuple[int, int], tuple[int, list[Entry]]] = {
        (d, s): (0 if size == NULL else size, [])
        for d, s, size in zip(*(values.tolist() for values in c.values()), strict=True)
    }
    table, columns = "NVTX_PAYLOAD_SCHEMA_ENTRIES", ("domainId", "schemaId", "idx", "type", "offset")
    if not report.has(table, *columns, "name"):
        return schemas
    numbers = (values.tolist() for values in report.integers(table, columns).values())
    # A schema's rows repeat once per process, so entries are kept by index.
    entries: dict[tuple[int, int], dict[int, Entry]] = {}
    for domain, schema, index, kind, offset, name in zip(
        *numbers, report.strings(table, "name").to_pylist(), strict=True
    ):
        entry = Entry(name or "", 0 if kind == NULL else kind, 0 if offset == NULL else offset)
        entries.setdefault((domain, schema), {})[index] = entry
    for key, found in entries.items():
        if key in schemas:
            schemas[key][1].extend(entry for _, entry in sorted(found.items()))
    return schemas


def read_announcements(records: Records, events: Events, names: Names) -> pa.Table:
    """Return ANNOUNCEMENTS: marks of any domain that begin as ours do, plain or registered."""
    report, marks = records.report, _possible(records, "NVTX mark", events, events.of(MARK))
    plain = marks & (events.column["textId"] == NULL)
    texts = report.strings(EVENTS, "text", plain)
    ours = values_of(pc.starts_with(texts, MARK_PREFIX).fill_null(False))
    plain[plain] = ours
    texts = texts if ours.all() else texts.filter(pa.array(ours))
    by_id = marks & np.isin(events.column["textId"], names.starting(MARK_PREFIX))
    registered = texts_of(report, events, by_id, names).cast(pa.string())
    time = events.column["start"]
    tids = np.concatenate([events.column["globalTid"][rows] for rows in (plain, by_id)])
    return conform(
        {
            "pid": pid_of(tids),
            "tid": tid_of(tids),
            "time_ns": np.concatenate([time[plain], time[by_id]]),
            "text": pa.concat_arrays([texts, registered]) if len(registered) else texts,
        },
        ANNOUNCEMENTS,
    )
