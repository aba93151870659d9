"""Payload bytes and JSON: whatever layout the schema states, the numbers are the same; damage is no payload."""

import json
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest import payloads
from dsocr_nvtx.ingest.payloads import Entry, schema_layouts
from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS, READ_FIELDS
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1

words = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(PAYLOAD_FIELDS), max_size=len(PAYLOAD_FIELDS))
INT64 = 17
WRAPPED = 4_294_967_296
OURS = 4_294_967_297
SIZE = 8 * len(PAYLOAD_FIELDS)
Schemas = dict[tuple[int, int], tuple[int, list[Entry]]]


def schemas(order: list[int], *, wrapped: bool = True, padding: int = 0) -> Schemas:
    """Return a schema whose fields stand in another order, maybe with room before each, maybe scalar schemas."""
    step = 8 + padding
    kind = WRAPPED if wrapped else INT64
    entries = [Entry(PAYLOAD_FIELDS[field], kind, place * step + padding) for place, field in enumerate(order)]
    return {(1, WRAPPED): (8, [Entry("int64", INT64, 0)]), (1, OURS): (step * len(order), entries)}


def blob(body: bytes, *, size: int | None = None, offset: int = 32, schema: int = OURS) -> bytes:
    """Return a blob as nsys writes it."""
    head = struct.pack("<QQQQ", 1, schema, len(body) if size is None else size, offset)
    return head + b"\x00" * (offset - 32) + body


def records(found: pa.StructArray) -> list[bytes | None]:
    """Return decoded payloads as records."""
    return [None if row is None else packed([row[name] for name in PAYLOAD_FIELDS]) for row in found.to_pylist()]


def decode_blobs(blobs: list[bytes | None], table: Schemas) -> list[bytes | None]:
    """Return what the column of these blobs, of events of domain 1, decodes to."""
    column = pa.array(blobs, pa.binary())
    return records(payloads.decode_blobs([column], np.ones(len(blobs), np.int64), table))


def decode_one_json(text: str) -> bytes | None:
    """Return what a text alone decodes to."""
    found = payloads.decode_one_json(text)
    return None if found is None else packed(found[1])


def decode_json(text: object) -> bytes | None:
    """Return what a text decodes to, alone and in a column."""
    column = pa.array([text if isinstance(text, str) else None], pa.string())
    (found,) = records(payloads.decode_json(column))
    assert not isinstance(text, str) or found == decode_one_json(text)
    return found


def packed(values: list[int]) -> bytes:
    """Return the record that decoders must return."""
    return struct.pack(f"<{len(values)}q", *values)


@given(words, st.permutations(range(len(PAYLOAD_FIELDS))), st.booleans(), st.sampled_from([0, 8, 24]))
def test_any_layout_gives_the_same_record(values: list[int], order: list[int], wrapped: bool, padding: int) -> None:
    body = b"".join(b"\xee" * padding + struct.pack("<q", values[field]) for field in order)
    assert decode_blobs([blob(body)], schemas(order, wrapped=wrapped, padding=padding)) == [packed(values)]


@given(words)
def test_narrow_fields_are_widened_and_strange_ones_passed_over(values: list[int]) -> None:
    small = [value % 100 for value in values]
    entries = [Entry(name, 13, 2 + 2 * place) for place, name in enumerate(PAYLOAD_FIELDS)]  # 13: int16
    table: Schemas = {(1, OURS): (2 + 2 * len(small), [Entry("more", 13, 0), *entries])}
    assert decode_blobs([blob(struct.pack(f"<{1 + len(small)}h", -5, *small))], table) == [packed(small)]


IN_ORDER = list(range(len(PAYLOAD_FIELDS)))
BODY = packed(IN_ORDER)


def test_the_payload_stands_where_the_header_says() -> None:
    assert decode_blobs([blob(BODY, offset=64)], schemas(IN_ORDER)) == [BODY]


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        b"",
        blob(BODY)[:31],
        blob(BODY)[:-1],
        blob(BODY, size=SIZE - 8),
        blob(BODY, size=2**63),
        blob(BODY, offset=32)[:32],
        struct.pack("<QQQQ", 1, OURS, SIZE, 2**64 - 1) + BODY,
        blob(BODY, schema=99),
    ],
)
def test_a_blob_that_is_not_ours_is_none(damaged: bytes | None) -> None:
    assert decode_blobs([damaged, blob(BODY)], schemas(IN_ORDER)) == [None, BODY]


def test_the_domain_is_the_events_and_not_in_the_blob() -> None:
    # The first word counts payloads; a domain of another number has the same one.
    domain_2 = {(2, schema): value for (_, schema), value in schemas(IN_ORDER).items()}
    pieces = [pa.array([blob(BODY)], pa.binary()), pa.array([blob(BODY), None], pa.binary())]
    assert records(payloads.decode_blobs(pieces, np.array([1, 2, 2]), domain_2)) == [None, BODY, None]


def test_numbers_beyond_a_word_or_not_whole_are_none() -> None:
    for kind, code, values in ((18, "Q", [2**63]), (44, "d", [0.5, float("nan"), float("inf"), 2.0**63])):
        entries = [Entry(name, kind, 8 * place) for place, name in enumerate(PAYLOAD_FIELDS)]
        good = struct.pack(f"<{len(entries)}{code}", *range(len(entries)))
        bad = [struct.pack(f"<{code}", value) + good[8:] for value in values]
        found = decode_blobs([blob(body) for body in (good, *bad)], {(1, OURS): (SIZE, entries)})
        assert found == [BODY, *[None] * len(bad)]


@given(st.lists(st.tuples(words, st.booleans()), max_size=8))
def test_json_of_a_column_is_that_of_its_texts(rows: list[tuple[list[int], bool]]) -> None:
    texts: list[str | None] = []
    for values, nested in rows:
        plain = dict(zip(PAYLOAD_FIELDS, values, strict=True))
        texts += [json.dumps({n: {"int64": v} for n, v in plain.items()} if nested else plain), None, "{"][
            : 1 + values[0] % 3
        ]
    found = records(payloads.decode_json(pa.array(texts, pa.string())))
    assert found == [None if text is None else decode_one_json(text) for text in texts]


def test_a_schema_without_our_fields_is_none() -> None:
    table = schemas(IN_ORDER[:-1])
    assert decode_blobs([blob(packed(IN_ORDER[:-1]))], table) == [None]


@pytest.mark.parametrize(
    "table",
    [
        {(1, OURS): (8, [Entry("a", OURS, 0)])},  # names itself
        {(1, OURS): (8, [Entry("a", 6_000_000_000, 0)])},  # names nothing
        {(1, OURS): (8, [])},
        {(1, OURS): (8, [Entry("a", 75, 0)])},  # a text: no fixed size
        {(1, OURS): (4, [Entry("a", INT64, 0)])},  # does not fit
        {(1, OURS): (16, [Entry("a", INT64, 0), Entry("a", INT64, 8)])},  # one name twice
        {(1, OURS): (16, [Entry("a", INT64, -8)])},
        {(1, OURS): (16, [Entry("a", INT64, 2**31 - 1)])},  # what numpy would follow out of all memory
        {(1, OURS): (0, [Entry("a", INT64, 2**31 - 1)])},
        {(1, OURS): (0, [Entry("a", INT64, 2**62)])},
        {(1, OURS): (2**31 - 1, [Entry("a", INT64, 0)])},
        {(1, OURS): (8 * 300, [Entry(f"a{at}", INT64, 8 * at) for at in range(300)])},
        {(1, OURS): (8, [Entry("a", 6_000_000_000, 0)]), (1, 6_000_000_000): (8, [Entry("a", OURS, 0)])},
        {},
    ],
)
def test_a_schema_of_no_fixed_layout_has_no_type(table: Schemas) -> None:
    assert schema_layouts(table)(1, OURS) is None


def test_schemas_that_name_each_other_over_and_over_are_looked_at_once() -> None:
    """Thirty levels of twenty entries each are 20^30 ways from the first to the last."""
    table = {(1, OURS + at): (20, [Entry(f"a{n}", OURS + at + 1, n) for n in range(20)]) for at in range(30)}
    assert schema_layouts({**table, (1, OURS + 30): (1, [Entry("a", 11, 0)])})(1, OURS) is None


def test_a_one_field_schema_inside_is_its_field() -> None:
    assert schema_layouts(schemas(IN_ORDER))(1, OURS) == np.dtype([(name, "<i8") for name in PAYLOAD_FIELDS])


@given(words)
def test_json_is_read_exactly_nested_or_not(values: list[int]) -> None:
    plain = dict(zip(PAYLOAD_FIELDS, values, strict=True))
    nested = {name: {"int64": value} for name, value in plain.items()}
    assert decode_json(json.dumps(plain)) == packed(values)
    assert decode_json(json.dumps({**nested, "more": "text"})) == packed(values)


PLAIN: dict[str, object] = dict.fromkeys(PAYLOAD_FIELDS, 1)


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"{}",
        "",
        "[]",
        "{",
        "{}",
        "{" * 100_000,
        '{"a":' * 100_000,
        json.dumps(dict.fromkeys(PAYLOAD_FIELDS[:-1], 1)),
        json.dumps({**PLAIN, "step": 1.0}),
        json.dumps({**PLAIN, "step": "1"}),
        json.dumps({**PLAIN, "step": None}),
        json.dumps({**PLAIN, "step": True}),
        json.dumps({**PLAIN, "step": 2**63}),
        json.dumps({**PLAIN, "step": {"a": 1, "b": 2}}),
        json.dumps({**PLAIN, "step": {"a": {"b": 1}}}),
    ],
)  # fmt: skip
def test_json_that_is_not_ours_is_none(text: object) -> None:
    assert decode_json(text) is None


def test_version_1_is_told_by_its_fields_and_read_as_its_sums() -> None:
    """Bytes and JSON of both versions in a column: three sequences of two rows and seven keys are sums."""
    told = {"batch": 3, "tokens": 2, "kv_len": 7, "own_activation_bytes": 5, "tensor_flops": 9}
    old = dict.fromkeys(PAYLOAD_FIELDS_V1, 0) | told
    layout = np.dtype([(name, "<i8") for name in PAYLOAD_FIELDS_V1])
    schema = (layout.itemsize, [Entry(name, 17, 8 * place) for place, name in enumerate(PAYLOAD_FIELDS_V1)])
    head = struct.pack("<QQQQ", 1, 7, layout.itemsize, 32)
    blob = head + packed(list(old.values()))
    (binary,) = payloads.decode_blobs(
        [pa.array([blob], pa.binary())], np.ones(1, np.int64), {(1, 7): schema}
    ).to_pylist()
    texts = pa.array([json.dumps(old), json.dumps(dict.fromkeys(PAYLOAD_FIELDS, 4))])
    first, second = payloads.decode_json(texts).to_pylist()
    sums = {"sequences": 3, "rows": 6, "keys": 21, "tensor_flops": 9, "own_activation_bytes": 5, "version": 1}
    assert binary == first == dict.fromkeys(READ_FIELDS, 0) | sums
    assert second == dict.fromkeys(PAYLOAD_FIELDS, 4) | {"own_activation_bytes": 0, "version": 2}
