"""Which roofs a report is held against: named, read or looked up; never guessed."""

import json
from pathlib import Path

import pytest
from attrs import asdict, evolve, fields

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.roofline.ceilings import read_ceilings, roofs_of
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings

GOOD = asdict(DATASHEET["NVIDIA H200"])


def written(path: Path, **changes: object) -> Path:
    """Write a ceilings file with some fields changed; `...` leaves a field out."""
    content = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    path.write_text(json.dumps(content))
    return path


def test_a_file_of_the_datasheets_fields_is_that_device(tmp_path: Path) -> None:
    assert read_ceilings(written(tmp_path / "c.json")) == DATASHEET["NVIDIA H200"]
    without = evolve(DATASHEET["NVIDIA H200"], l2_bandwidth=None)
    assert read_ceilings(written(tmp_path / "c.json", l2_bandwidth=...)) == without
    assert read_ceilings(written(tmp_path / "c.json", l2_bandwidth=7)).l2_bandwidth == 7


@pytest.mark.parametrize("name", [field.name for field in fields(Ceilings) if field.name != "l2_bandwidth"])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match=f"field '{name}' is missing"):
        read_ceilings(written(tmp_path / "c.json", **{name: ...}))


@pytest.mark.parametrize("name", [field.name for field in fields(Ceilings)])
@pytest.mark.parametrize("value", [-1, 0, True, 1.5, "1e9", [], {}, float("nan"), 10**400, 2**63])
def test_a_wrong_field_is_named(tmp_path: Path, name: str, value: object) -> None:
    if name in ("device", "source") and isinstance(value, str):
        return
    with pytest.raises(Refused, match=f"field '{name}' is "):
        read_ceilings(written(tmp_path / "c.json", **{name: value}))


@pytest.mark.parametrize("rate", [0, -1, 1.5, "1", None, True, 2**63])
def test_a_wrong_rate_of_an_element_type_is_named(tmp_path: Path, rate: object) -> None:
    with pytest.raises(Refused, match="field 'tensor' is "):
        read_ceilings(written(tmp_path / "c.json", tensor={"bfloat16": rate}))


def test_a_field_nobody_knows_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unknown field 'bandwith'"):
        read_ceilings(written(tmp_path / "c.json", bandwith=1))


@pytest.mark.parametrize("text", ["", "text", "[]", "1", "null", "[" * 100_000, '{"a": ' * 100_000, "{'a': 1}"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(Refused, match=r"c\.json: not a .*write one JSON object such as"):
        read_ceilings(tmp_path / "c.json")


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        read_ceilings(tmp_path / "c.json")
    with pytest.raises(Refused, match="a directory; give the file that dsocr-nvtx ceilings"):
        read_ceilings(tmp_path)
    (tmp_path / "c.txt").write_text("one")
    with pytest.raises(Refused, match=r"neither a table that ceilings wrote .* nor JSON"):
        read_ceilings(tmp_path / "c.txt")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not a readable JSON file"):
        read_ceilings(tmp_path / "c.json")


H200 = Device(ordinal=0, name="NVIDIA H200", l2_bytes=62_914_560)
L40S = Device(ordinal=1, name="NVIDIA L40S")
UNKNOWN = Device(ordinal=0, name="NVIDIA Imaginary")


def test_the_reports_own_device_is_looked_up() -> None:
    assert roofs_of([H200, H200], None, None) == DATASHEET["NVIDIA H200"]
    assert roofs_of([L40S], None, None) == DATASHEET["NVIDIA L40S"], "an L2 size of zero is one the report does not say"


def test_the_l2_is_as_large_as_the_report_says() -> None:
    device = Device(ordinal=0, name="NVIDIA H200", l2_bytes=30 * 2**20)
    assert roofs_of([device], None, None).l2_bytes == 30 * 2**20
    assert roofs_of([device], "NVIDIA L40S", None).l2_bytes == DATASHEET["NVIDIA L40S"].l2_bytes, "another device's"


def test_a_named_device_and_a_file_come_before_the_reports(tmp_path: Path) -> None:
    assert roofs_of([UNKNOWN], "NVIDIA H200", None).device == "NVIDIA H200"
    path = written(tmp_path / "c.json", device="mine", l2_bytes=77)
    for present in ([UNKNOWN], [H200, L40S], []):
        assert roofs_of(present, None, path).device == "mine"
    assert roofs_of([H200], "NVIDIA L40S", path).l2_bytes == 77


@pytest.mark.parametrize(
    ("present", "found"),
    [
        ([UNKNOWN], "none: none are known for NVIDIA Imaginary; pass --hardware NAME or --ceilings FILE"),
        ([Device(ordinal=0, name="")], "none: none are known for a GPU without a name; pass --hardware NAME"),
        ([], "none: none are known for a GPU without a name"),
        ([H200, L40S], "none: several kinds of GPU in one report; pass --hardware NAME or --ceilings FILE"),
    ],
)
def test_nothing_is_guessed(present: list[Device], found: str) -> None:
    roofs = roofs_of(present, None, None)
    assert not roofs.is_known
    assert roofs.source.startswith(found)


def test_a_named_device_that_is_not_known_is_refused() -> None:
    with pytest.raises(Refused, match="H200: no roofs are known"):
        roofs_of([H200], "H200", None)


def test_the_roofs_that_a_refusal_shows_are_themselves_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(Refused) as refusal:
        read_ceilings(tmp_path / "c.json")
    said = str(refusal.value)
    (tmp_path / "c.json").write_text(said[said.index('{"device"') : said.index("}: FLOP/s") + 1])
    assert read_ceilings(tmp_path / "c.json").device == "NVIDIA H200"
