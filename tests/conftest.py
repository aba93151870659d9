"""What the tests of pages share: a real join on disk, the same with hostile names, a browser where there is one."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import settings

from dsocr_nvtx.cli.join import demo, join_report
from dsocr_nvtx.schema.files import read_table, write_table
from tests.bench.generate import RANGES_PER_STEP, Size, generate
from tests.builders.runs import reseal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A slow machine is no failure: what takes how long is measured in tests/bench.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

HOSTILE = (
    "<script>window.broken = 1</script>",
    "</script><img src=x onerror='window.broken = 1'>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.evil\u2066",
    "a" * 100_000,
    "quote\" ' & < > \\ \x01 \x7f \u2028",
)


@pytest.fixture(autouse=True)
def _own_imports() -> None:
    """Undo what a command does to the processes that it starts: those of tests import this folder's packages."""
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def demo_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory that `demo -o` wrote: the tables of a real capture, and their page."""
    out = tmp_path_factory.mktemp("demo") / "demo.dsocr"
    demo(out, force=False)
    return out


@pytest.fixture(scope="session")
def long_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the join of a generated report of 512 decode steps."""
    folder = tmp_path_factory.mktemp("long")
    generate(folder / "long.sqlite", Size(kernels=51_200, calls=51_200, ranges=512 * RANGES_PER_STEP))
    join_report(folder / "long.sqlite", run=None, out=None, hardware=None, ceilings=None, force=False)
    return folder / "long.dsocr"


@pytest.fixture(scope="session")
def hostile_out(demo_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same with names that a page must show as text: kernels, modules, kinds, the report, stalls."""
    out = tmp_path_factory.mktemp("hostile") / "hostile.dsocr"
    shutil.copytree(demo_out, out)
    (out / "review.html").unlink()
    renamed = {
        "kernels": ("name",), "kernels_summary": ("name", "short_name"), "ranges": ("module", "kind", "path"),
        "roofline": ("module", "kind"), "api_calls": ("call",),
    }  # fmt: skip
    for name, columns in renamed.items():
        table = read_table(out / f"{name}.arrow")
        for column in columns:
            table = _renamed(table, column)
        write_table(table, out / f"{name}.arrow")
    told = json.loads((out / "join.json").read_text(encoding="utf-8"))
    told["source"] |= {"report": HOSTILE[0], "tool": HOSTILE[3], "device": HOSTILE[1]}
    for stall, text in zip(told["stalls"], HOSTILE, strict=False):
        stall |= {"path": text, "next_operation": text, "stack": [text], "calls": [{"name": text, "calls": 1, "ns": 9}]}
    (out / "join.json").write_text(json.dumps(told), encoding="utf-8")
    reseal(out)
    return out


def _renamed(table: pa.Table, column: str) -> pa.Table:
    """Return the table with the commonest words of a column made hostile, in every table alike."""
    words = table[column].cast(pa.string()).to_pylist()
    order = sorted(set(words)) if column != "name" else [word for word, _ in Counter(words).most_common()]
    fresh = dict(zip(order, HOSTILE, strict=False))
    values = [fresh.get(word, word) for word in words]
    at = table.schema.get_field_index(column)
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(values, pa.string()).dictionary_encode().cast(field.type))


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Return headless Chromium, or skip where Playwright or the browser is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on the PATH")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Return what writes a page to a file."""

    def write(text: str) -> Path:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        return path

    return write
