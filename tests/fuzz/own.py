"""Our own files damaged: a join's directory, a run's, and the configurations that commands read.

What a join's files say is held to hashes, so whatever bit is damaged a command says the same as before, or refuses. Of
tables that somebody made on purpose, with hashes that fit, only this is asked: no defect, one line, nothing left.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from attrs import define, field

from dsocr_nvtx.analytic.released import RELEASED
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.formats import WRITERS
from tests.builders.runs import reseal
from tests.cli.commands import hooked
from tests.fuzz.harness import Case, Outcome
from tests.fuzz.mutations import EDGES, TEXTS, damage, damage_file

GATE = ("gate", "JOINED", "--rule", "decode.busy_ns<=1s", "--rule", "decode.idle_host_ns<=1s", "--json")
COMMANDS: Sequence[Sequence[str]] = (
    ("show", "JOINED", "--json"), ("show", "JOINED"), ("ladder", "JOINED"), ("ladder", "JOINED", "-o", "l.csv"), GATE,
    ("diff", "JOINED", "WHOLE", "--json"), ("diff", "WHOLE", "JOINED", "-o", "d.html"),
    ("report", "JOINED", "-o", "r.html"), ("trace", "JOINED", "-o", "t.json"), ("trace", "JOINED", "-o", "t.nvtxt"),
)  # fmt: skip
_RUN = Path(__file__).parents[1] / "data" / "h200-cupti-graph"


def command(words: Sequence[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own: what is forked later must have no threads."""
    every = [sys.executable, "-m", "dsocr_nvtx", *words]
    return subprocess.run(every, cwd=cwd, capture_output=True, text=True, check=False)


def rewrite(table: pa.Table, path: Path) -> None:
    """Write a table as it is; nothing checks it."""
    WRITERS[".arrow"](table, path)


@define
class Joined:
    """A join's directory, any byte of any file of it damaged."""

    name: str = "join-bits"
    whole: Path = field(default=Path())
    said: dict[Sequence[str], str] = field(factory=dict)

    def prepare(self, folder: Path) -> None:
        """Join a small report, and note what every command says of it."""
        hooked().write(folder / "report.sqlite")
        done = command(["join", "report.sqlite", "-o", "joined"], folder)
        assert done.returncode == 0, done.stderr
        self.whole = folder / "joined"

    def make(self, random: Random, folder: Path) -> Case:
        """Damage one file."""
        shutil.copytree(self.whole, folder / "joined")
        what = self.damage(random, folder / "joined")
        words = random.choice(COMMANDS)
        given = {"JOINED": "joined", "WHOLE": str(self.whole)}
        outputs = [folder / words[words.index("-o") + 1]] if "-o" in words else []
        return Case(
            what=f"{what}; {' '.join(words)}",
            arguments=[given.get(word, word) for word in words],
            inputs=[folder / "joined"],
            outputs=outputs,
            allowed=frozenset({0, 1, 3, 4} if words is GATE else {0, 3}),
            faults=partial(self.faults, words),
        )

    def damage(self, random: Random, folder: Path) -> str:
        """Damage a file's bytes."""
        return damage_file(random, random.choice(sorted(path for path in folder.iterdir() if path.is_file())))

    def faults(self, words: Sequence[str], outcome: Outcome) -> Iterator[str]:
        """Say where an answer is not that of the whole directory."""
        if "-o" in words:
            return
        if words not in self.said:
            given = {"JOINED": "joined", "WHOLE": str(self.whole)}
            self.said[words] = command([given.get(word, word) for word in words], self.whole.parent).stdout
        if outcome.stdout != self.said[words]:
            yield "it says something else than of the whole directory"


@define
class JoinedOnPurpose(Joined):
    """A join's directory in which a table was changed by somebody who also changed the hashes."""

    name: str = "join-values"

    def damage(self, random: Random, folder: Path) -> str:
        """Change a column, or a value in it."""
        path = folder / f"{random.choice(('kernels', 'ranges', 'roofline', 'stages', 'kernels_summary'))}.arrow"
        table, what = changed(random, read_table(path))
        rewrite(table, path)
        reseal(folder)
        return f"{path.name}: {what}"

    def faults(self, words: Sequence[str], outcome: Outcome) -> Iterator[str]:
        """Whoever can write the hashes can say what he likes."""
        return iter(())


def changed(random: Random, table: pa.Table) -> tuple[pa.Table, str]:
    """Return a table with one column dropped, doubled, of another type, without values, or with one other value."""
    at = random.randrange(table.num_columns)
    item, about = table.schema.field(at), table.schema.metadata
    kind = random.choice(("drop", "double", "retype", "null", "value", "value", "value", "value", "empty"))
    if kind == "drop":
        table = table.remove_column(at)
    elif kind == "double":
        table = table.append_column(item, table.column(at))
    elif kind == "retype":
        table = table.set_column(at, item.name, pa.array([random.choice(TEXTS)] * len(table), pa.large_string()))
    elif kind == "null":
        table = table.set_column(at, pa.field(item.name, item.type), pa.nulls(len(table), item.type))
    elif kind == "empty":
        table = table.slice(0, 0)
    else:
        table = _with_value(random, table, at)
    return table.replace_schema_metadata(about), f"{kind} {item.name}"


def _with_value(random: Random, table: pa.Table, at: int) -> pa.Table:
    item, values = table.schema.field(at), table.column(at).to_pylist()
    if not values:
        return table
    row = random.randrange(len(values))
    values[row] = _other(random, item.type)
    plain = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
    return table.set_column(at, item, pa.chunked_array([pa.array(values, plain)]).cast(item.type))


def _other(random: Random, kind: pa.DataType) -> Any:
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return random.choice(TEXTS)
    if pa.types.is_floating(kind):
        return random.choice((float("nan"), float("inf"), -1.0, 0.0, 1e308))
    if pa.types.is_boolean(kind):
        return random.choice((True, False))
    if pa.types.is_integer(kind):
        bits = kind.bit_width - 1
        return random.choice([edge for edge in EDGES if -(1 << bits) <= edge < 1 << bits])
    return None


@define
class Run:
    """A run's directory that CUPTI recorded, with damaged bytes, or with a table that was changed."""

    name: str
    on_purpose: bool = False

    def prepare(self, folder: Path) -> None:
        """Nothing: the run lies in the tests."""

    def make(self, random: Random, folder: Path) -> Case:
        """Damage one file."""
        shutil.copytree(_RUN, folder / "run")
        path = random.choice(sorted((folder / "run").rglob("*.arrow")))
        if self.on_purpose:
            table, change = changed(random, read_table(path))
            rewrite(table, path)
            what = f"{path.name}: {change}"
        else:
            what = damage_file(random, path)
        return Case(
            what=what,
            arguments=["join", "run", "-o", "out"],
            inputs=[folder / "run"],
            outputs=[folder / "out"],
        )


@define
class Configuration:
    """A configuration for `analytic --config`, or roofs for ``--ceilings``, with damaged bytes or odd values."""

    name: str = "configuration"

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def make(self, random: Random, folder: Path) -> Case:
        """Damage the text, or put an odd value somewhere in it."""
        told = json.loads(json.dumps(RELEASED))
        if random.random() < 0.5:
            place, what = told, ""
            while isinstance(place, dict) and place:
                above, key = place, random.choice(sorted(place))
                place, what = place[key], f"{what}.{key}"
            above[key] = random.choice([*EDGES, *TEXTS, None, [], {}, True, 1.5, float("nan")])
            data = bytearray(json.dumps(told).encode())
        else:
            data = bytearray(json.dumps(told).encode())
            what = damage(random, data)
        (folder / "config.json").write_bytes(data)
        words = ["analytic", "--config", "config.json", "--mode", "tiny", "--decode-tokens", "2"]
        return Case(what=what, arguments=words, inputs=[folder / "config.json"])
