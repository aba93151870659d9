"""The harness sees what must not be: other exit codes, more than a line, what is left behind, changed inputs, hangs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from tests.fuzz import harness
from tests.fuzz.harness import Case, Outcome, try_case

class Subject:
    name = "made up"
    def make(self, random, folder):
        report = folder / "r.sqlite"
        report.write_bytes(b"no report")
        return Case(what="nothing", arguments=("join", str(report)), inputs=(report,), **MORE)

def act(arguments, folder):
    print("word", file=sys.stderr)
    ACT

MORE = {}
def stand_in(*arguments):
    import sys
    sys.modules["dsocr_nvtx.cli"].main = lambda: act(arguments, Path.cwd())
    limit()
limit, harness._limit = harness._limit, stand_in
harness.SECONDS = 5
folder = Path(sys.argv[1])
import dsocr_nvtx.cli
print(try_case(Subject(), 1, folder))
"""


def tried(tmp_path: Path, act: str, more: str = "{}") -> str:
    """Return what is found of a command that prints a line on stderr and then acts so."""
    script = SCRIPT.replace("ACT", act).replace("MORE = {}", f"MORE = {more}")
    words = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_what_must_not_be_is_found(tmp_path: Path) -> None:
    expected = {
        "sys.exit(3)": "None",
        "sys.exit(1)": "exit code 1: word",
        "1 / 0": "exit code 1: ZeroDivisionError: division by zero",
        "print(2, file=sys.stderr); sys.exit(3)": "not one line on stderr",
        "print(2); sys.exit(3)": "not one line on stderr",
        "pass": "odd words on stderr",
        "(folder / 'left').touch(); sys.exit(3)": "left behind: left",
        "(folder / 'r.sqlite-wal').touch(); sys.exit(3)": "left behind: r.sqlite-wal",
        "(folder / 'r.sqlite').touch(); (folder / 'r.sqlite').write_text('other'); sys.exit(3)": "an input was changed",
        "import os; os.abort()": "ended by SIGABRT",
        "while True: pass": "ended by SIG",
    }
    for number, (act, found) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert found in tried(folder, act), act
    folder = tmp_path / "answer"
    folder.mkdir()
    more = "{'allowed': frozenset({0}), 'faults': lambda outcome: iter(['sums differ'])}"
    assert "sums differ" in tried(folder, "print('dsocr-nvtx: fine'); sys.stderr.truncate(0)", more)
