"""Our own tables: what is damaged or of other columns or types is refused by name; no bit changes in silence."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.checking import check_finite, read_json
from dsocr_nvtx.schema.files import read_table, write_json, write_table
from dsocr_nvtx.schema.seal import digests, read_sealed, sealed
from dsocr_nvtx.schema.tables import KERNELS, STAGES
from tests.builders.tables import filled

TABLE = filled(KERNELS, [{"start_ns": 5, "name": "gemm"}, {"start_ns": 7, "stage": None}])


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.arrow"
    write_table(TABLE, path)
    whole, noted = path.read_bytes(), digests(tmp_path, [path])["k.arrow"]
    assert read_table(path, KERNELS, sha256=noted).equals(TABLE)
    random = np.random.default_rng(1)
    for place in random.integers(0, 8 * len(whole), 300).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(Refused, match=r"k\.arrow: "):
            read_table(path, KERNELS, sha256=noted)


def test_an_index_beyond_its_dictionary_is_refused_before_it_ends_the_process(tmp_path: Path) -> None:
    """Arrow reads such a table, and is killed by SIGSEGV when the value is asked for."""
    codes = pa.array([0, 7], pa.int32())
    bad = pa.DictionaryArray.from_arrays(codes, pa.array(["kernel"]), safe=False)
    table = TABLE.set_column(TABLE.schema.get_field_index("operation"), TABLE.schema.field("operation"), bad)
    write_table(table, tmp_path / "k.arrow")
    with pytest.raises(Refused, match=r"k\.arrow: a damaged table \(.*out of bounds"):
        read_table(tmp_path / "k.arrow")


@pytest.mark.parametrize("name", STAGES.names)
def test_a_column_that_is_missing_mistyped_twice_there_or_without_values_is_named(tmp_path: Path, name: str) -> None:
    table = filled(STAGES, [{"stage": "decode"}])
    at, path = table.schema.get_field_index(name), tmp_path / "stages.arrow"
    other = pa.array([[1.5]], pa.list_(pa.float32()))
    variants = {
        f"no column {name}": table.drop_columns([name]),
        f"column {name} holds list": table.set_column(at, name, other),
        f"two columns {name}": table.append_column(name, table[name]),
    }
    if not STAGES.field(name).nullable:
        variants[f"column {name} has rows without a value"] = table.set_column(
            at, name, pa.nulls(1, STAGES.field(name).type)
        )
    if pa.types.is_floating(STAGES.field(name).type):
        for number in (float("nan"), float("inf")):
            odd = table.set_column(at, STAGES.field(name), pa.array([number], STAGES.field(name).type))
            with pytest.raises(Refused, match=f"column {name} holds what is no number"):
                check_finite(odd, path)
        check_finite(table, path)
    for found, variant in variants.items():
        write_table(variant.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(Refused, match=found):
            read_table(path, STAGES)
    write_table(table.append_column("mine", other), path)
    assert "mine" in read_table(path, STAGES).column_names, "a further column is nobody's harm"


@pytest.mark.parametrize("metadata", [{b"level": b"\xff"}, {b"\xfe": b"op"}])
def test_metadata_that_is_no_text_is_refused(tmp_path: Path, metadata: dict[bytes, bytes]) -> None:
    table = TABLE.replace_schema_metadata({**TABLE.schema.metadata, **metadata})
    write_table(table, tmp_path / "k.arrow")
    with pytest.raises(Refused, match="a damaged table"):
        read_table(tmp_path / "k.arrow")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "k.arrow")
    with pytest.raises(Refused, match="a pipe or a device"):
        read_table(tmp_path / "k.arrow")
    with pytest.raises(Refused, match="a pipe or a device"):
        read_json(tmp_path / "k.arrow", "no JSON", "give JSON")
    with pytest.raises(Refused, match="a pipe or a device"):
        read_json(Path("/dev/zero"), "no JSON", "give JSON")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_json_that_is_none_of_ours_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(Refused, match=r"run\.json: not what it is; look"):
        read_json(tmp_path / "run.json", "not what it is", "look")


def test_json_of_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused, match="which is more than"):
        read_json(tmp_path / "run.json", "not what it is", "look")


def test_a_sealed_file_is_what_was_written_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    told = {"level": "op", "devices": [{"wall_ns": 12345}], "sha256": "of the report", "share": 0.1}
    write_json(sealed(told), path)
    assert read_sealed(path, "no accounting", "look") == told
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 5):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_sealed(path, "no accounting", "look")
        except Refused:
            continue
        known = {key: found[key] for key in told if key in found}
        assert known == told, "a bit that changes nothing that was told"
    path.write_text(json.dumps(told))
    assert read_sealed(path, "no accounting", "look") == told, "what older versions wrote has no seal"
