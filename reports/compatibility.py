"""Which releases of transformers were tried, in every way of calling `generate`: right, unknown, refused or wrong.

Each release is put before the others' on the path of a process of its own, which runs every mode of
`tests.builders.generate_modes` on the tiny network and compares what hooks recorded with the cache's own tensors and
with torch's count of FLOPs. Writes `compatibility.json` beside this file, and the table in README.

    python reports/compatibility.py
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RELEASES = ("5.20.0", "5.21.1", "5.22.2", "5.23.0", "5.24.0")
"""The last of each series that pyproject.toml allows."""
MARKS = ("<!-- compatibility -->\n", "<!-- end of compatibility -->\n")

Results = list[dict[str, Any]]


def results_here() -> dict[str, Any]:
    """Return the verdict of every mode with the transformers of this process, and the reasons where it is not right."""
    from tests.builders.generate_modes import MODES, check

    from dsocr_nvtx.errors import DsocrError

    modes = {}
    for mode in MODES:
        try:
            found = check(mode)
            modes[mode] = {"verdict": str(found.verdict), "reasons": list(found.reasons)}
        except DsocrError as error:
            modes[mode] = {"verdict": "refused", "reasons": [str(error)]}
    names = ("transformers", "torch", "dsocr-nvtx")
    return {**{name: version(name) for name in names}, "python": sys.version.split()[0], "modes": modes}


def results_of(release: str) -> dict[str, Any]:
    """Return the same with another release of transformers, in a process that finds it first."""
    with tempfile.TemporaryDirectory() as folder:
        install = ["pip", "install", "--quiet", "--no-deps", "--target", folder, f"transformers=={release}"]
        subprocess.run([sys.executable, "-m", *install], check=True)  # noqa: S603 - our own words
        path = os.pathsep.join([folder, str(ROOT / "src"), str(ROOT)])
        words = [sys.executable, __file__, "--here"]
        environ = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(words, env=environ, check=True, text=True, stdout=subprocess.PIPE)  # noqa: S603 - the same
    found: dict[str, Any] = json.loads(done.stdout)
    if found["transformers"] != release:
        raise RuntimeError(f"transformers {found['transformers']} ran in place of {release}")
    return found


def table(results: Results) -> Iterator[str]:
    """Yield the lines of README's table: a row a mode, a column a release."""
    yield f"| `generate` with | {' | '.join(result['transformers'] for result in results)} |"
    yield f"|---|{'---|' * len(results)}"
    for mode in results[0]["modes"]:
        yield f"| {mode} | {' | '.join(result['modes'][mode]['verdict'] for result in results)} |"


def with_table(text: str, results: Results) -> str:
    """Return README's text with the table of these results between its marks."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    lines = "".join(f"{line}\n" for line in table(results))
    return f"{before}{MARKS[0]}{lines}{MARKS[1]}{after}"


def main() -> None:
    """Run every release, or, in a process of its own, the one that is here."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="print the results of the transformers that is installed")
    if parser.parse_args().here:
        sys.stdout.write(json.dumps(results_here()))
        return
    results = [results_of(release) for release in RELEASES]
    (ROOT / "reports/compatibility.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
