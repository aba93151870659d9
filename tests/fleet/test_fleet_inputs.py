"""Names of reports: one each, the same in any order, fit for a directory and a link."""

import re
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.inputs import inputs_of, is_pattern


def test_a_pattern_names_what_it_matches_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    for name in ("rank-10.sqlite", "rank-9.sqlite", "rank-1.sqlite", "other.txt"):
        (tmp_path / name).touch()
    found = inputs_of([tmp_path / "rank-*.sqlite"])
    assert [one.name for one in found] == ["rank-1", "rank-9", "rank-10"]


def test_names_that_would_clash_are_told_apart_in_any_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "r.sqlite", tmp_path / "b" / "r.sqlite", tmp_path / "b" / "s.nsys-rep"]
    found = {one.path: one.name for one in inputs_of(paths)}
    assert len(set(found.values())) == 3
    assert found[paths[2]] == "s"
    assert found == {one.path: one.name for one in inputs_of(paths[::-1])}


def test_a_report_named_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").touch()
    assert len(inputs_of([tmp_path / "a.sqlite", tmp_path / "*.sqlite"])) == 1


def test_one_file_under_several_names_counts_once_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "r0.sqlite").touch()
    (tmp_path / "z.sqlite").symlink_to(tmp_path / "r0.sqlite")
    given = [Path("r0.sqlite"), tmp_path / "r0.sqlite", Path("sub/../r0.sqlite"), tmp_path / "z.sqlite"]
    found = inputs_of(given)
    assert [one.name for one in found] == ["r0"]
    assert found == inputs_of(given[::-1])


@pytest.mark.parametrize("name", ["a b=c.sqlite", "100%.sqlite", "ä\n.sqlite.xz", "..sqlite"])
def test_names_are_fit_for_a_directory(tmp_path: Path, name: str) -> None:
    (found,) = inputs_of([tmp_path / name])
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", found.name)
    other = inputs_of([tmp_path / "elsewhere" / name])[0].name
    assert other != found.name, "what was replaced may have been another thing"


def test_a_pattern_without_a_match_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no report matches"):
        inputs_of([tmp_path / "*.sqlite"])


def test_a_file_that_is_called_like_the_pattern_is_one_of_many(tmp_path: Path) -> None:
    for name in ("*.sqlite", "a.sqlite", "b.sqlite"):
        (tmp_path / name).touch()
    assert is_pattern(tmp_path / "*.sqlite")
    assert len(inputs_of([tmp_path / "*.sqlite"])) == 3


def test_a_file_may_have_a_pattern_for_its_name(tmp_path: Path) -> None:
    (tmp_path / "a*.sqlite").touch()
    assert not is_pattern(tmp_path / "a*.sqlite")
    assert not is_pattern(tmp_path / "a[1].sqlite")
    assert is_pattern(tmp_path / "?*.sqlite")
