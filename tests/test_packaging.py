"""What is installed: ranges that were tried, locks that hold them, and commands that use the locks."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from dsocr_nvtx.measure.doctor import TRANSFORMERS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> list[Requirement]:
    """Return what the package needs with these extras, theirs of their own looked up too."""
    found = []
    for text in (
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ):
        one = Requirement(text)
        found += requirements(*one.extras) if one.name == PROJECT["name"] else [one]
    return found


def locked(name: str) -> dict[str, Version]:
    """Return the releases that a lock pins, by package."""
    text = (ROOT / "tests" / name).read_text(encoding="utf-8")
    lines = [line.split(";")[0].strip() for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs)
    return {package: Version(release) for package, release in pairs}


def floor(one: Requirement) -> Version:
    """Return the oldest release that a requirement allows."""
    [found] = [spec.version for spec in one.specifier if spec.operator in (">=", "==")]
    return Version(found)


def test_the_lock_holds_everything_that_the_tests_need() -> None:
    lock = locked("lock.txt")
    for one in requirements("test"):
        assert lock[one.name] in one.specifier


def test_the_oldest_releases_are_those_that_the_project_states() -> None:
    """.ci/run tests with these, so a floor that is lowered is tried or the lock is out of date."""
    oldest = locked("oldest.txt")
    for one in requirements("run", "scale"):
        assert oldest[one.name] == floor(one)


def test_what_the_analysis_half_and_the_network_need_ends_below_the_untried() -> None:
    """The newest release that is allowed is of the series that the lock has: any later one may break what was tried."""
    lock = locked("lock.txt")
    bounded = [one for one in requirements("run") if one.name == "transformers"] + requirements()
    for one in bounded:
        [ceiling] = [Version(spec.version) for spec in one.specifier if spec.operator == "<"]
        assert lock[one.name] < ceiling
        assert ceiling.release[0] - lock[one.name].major <= 1


@pytest.mark.parametrize("name", ["lock.txt", "oldest.txt"])
def test_a_lock_says_how_it_was_made_and_names_no_place(name: str) -> None:
    """Its packages come from wherever one's own pip gets them."""
    text = (ROOT / "tests" / name).read_text(encoding="utf-8")
    assert re.search(rf"^# +uv pip compile .*pyproject.toml -o tests/{name}$", text, re.MULTILINE)
    assert not re.search(r"://|--(extra-)?index|--find-links", text)


def test_both_commands_of_readme_install_from_the_lock() -> None:
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "-m venv" in line]
    assert len(lines) == 2
    assert all("pip install -q -c tests/lock.txt " in line for line in lines)


def test_hooks_can_be_installed_beside_any_transformers() -> None:
    assert "transformers" not in {one.name for one in requirements("hooks")}


def test_the_doctor_knows_the_range_that_was_tried() -> None:
    [one] = [one for one in requirements("run") if one.name == "transformers"]
    first, untried = (Version(".".join(map(str, release))) for release in TRANSFORMERS)
    assert {str(spec) for spec in one.specifier} == {f">={first}", f"<{untried}"}


def test_what_builds_the_package_is_exact() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert {spec.operator for line in build for spec in Requirement(line).specifier} == {"=="}


def test_readme_shows_what_the_committed_runs_gave_on_releases_that_may_be_installed() -> None:
    results = json.loads((ROOT / "reports/compatibility.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "reports/compatibility.py"))["with_table"](readme, results) == readme
    [transformers] = [one for one in requirements("run") if one.name == "transformers"]
    tried = [Version(result["transformers"]) for result in results]
    assert all(release in transformers.specifier for release in tried)
    assert (tried[0], tried[-1]) == (floor(transformers), locked("lock.txt")["transformers"])
