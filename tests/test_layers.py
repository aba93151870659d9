"""The two halves meet in `schema` alone: the arrows of the design, walked in the source and watched at import."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

import dsocr_nvtx

ROOT = Path(dsocr_nvtx.__file__).parent
CAPTURE = ("cli", "run", "serving", "hooks", "analytic", "measure", "schema", "errors")
ANALYSIS = ("cli", "notebook", "report", "compare", "fleet", "roofline", "join", "ingest", "schema", "errors")
DEMO = ("cli", "demo", "schema", "errors")
"""The capture that ships with the package: data for the command line, and the script that reduced it."""
HANDBOOK = ("cli", "handbook", "schema", "errors")
OFFERED = {"hooks", "notebook", "join", "roofline"}
"""Rooms behind what `import dsocr_nvtx` offers; the two last only so that functions may have their names."""
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
HEAVY = {"torch", "transformers", "nvtx", "pynvml", "cupti", "vllm"}
"""What only the capture half may need."""


def room_of(module: str) -> str:
    """Return the room of a dotted module name; the package itself has the room ''."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def allowed(source: str, target: str) -> bool:
    """Say whether an arrow goes rightwards within one half. The package itself holds only its version."""
    if target == "":
        return source != "errors"
    same = source == target
    return same or any(
        source in half and target in half and half.index(source) < half.index(target)
        for half in (CAPTURE, ANALYSIS, DEMO, HANDBOOK)
    )


def imports(module: str) -> set[str]:
    """Return the full name of everything that a module of ours imports."""
    package = ".".join(["dsocr_nvtx", *Path(module).parent.parts])
    return set(named((ROOT / module).read_text(encoding="utf-8"), package))


def named(code: str, package: str) -> Iterator[str]:
    """Yield the full name of everything that code inside a package imports, lazy imports included."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package)
            # `from dsocr_nvtx import join` names a room only in its alias.
            yield from (f"{base}.{alias.name}" if base == "dsocr_nvtx" else base for alias in node.names)


def rooms_in(names: set[str]) -> set[str]:
    """Return the rooms among full names; '' for the package itself."""
    names = {name for name in names if name.split(".")[0] == "dsocr_nvtx"}
    rooms = {p.stem for p in ROOT.iterdir()}
    return {room_of(name) if room_of(name) in rooms else "" for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_an_arrow_the_design_permits(module: str) -> None:
    source = room_of("dsocr_nvtx." + module.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    source = {"__init__": "", "__main__": "cli"}.get(source, source)  # the package is run as the command line is
    assert source in {"", *CAPTURE, *ANALYSIS, *DEMO, *HANDBOOK}, f"{module} is in a room that the design does not know"
    wrong = sorted(
        target for target in rooms_in(imports(module))
        if not (target in OFFERED if source == "" else allowed(source, target))
    )  # fmt: skip
    assert not wrong, f"{module} imports {wrong}"


def dotted(module: str) -> str:
    """Return the full name of a module's file."""
    return "dsocr_nvtx." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def at_import(code: str, package: str, modules: Collection[str]) -> set[str]:
    """Return which of some modules code imports at once or for type checkers: not inside functions."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            whole = {f"{base}.{alias.name}" for alias in node.names}
            names |= whole if whole <= set(modules) else whole | {base}  # a name of a module, or a module of a room
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(modules)


def circles(arrows: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the sets of several modules of which each imports every other, directly or through others."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in arrows}
    circling = [name for name in arrows if name in reach[name]]
    rings = {frozenset(other for other in reach[name] if name in reach[other]) for name in circling}
    return [set(ring) for ring in rings]


@pytest.mark.parametrize("room", sorted({m.split("/")[0] for m in MODULES if "/" in m}))
def test_no_modules_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    mine = {dotted(m): m for m in MODULES if m.startswith(f"{room}/")}
    arrows = {}
    for name, module in mine.items():
        package = name if module.endswith("__init__.py") else name.rpartition(".")[0]
        code = (ROOT / module).read_text(encoding="utf-8")
        arrows[name] = at_import(code, package, mine.keys()) - {name}
    assert circles(arrows) == []


def test_a_circle_is_seen_through_any_number_of_modules() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.x\ndef f():\n    import a.y\n"
    assert at_import(late + "from a import z, name", "a", ["a.x", "a.y", "a.z", "a"]) == {"a", "a.x", "a.z"}
    assert at_import("from . import z", "a", ["a.z", "a"]) == {"a.z"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.split("/")[0] in {*ANALYSIS[1:-1], "notebook.py", "errors.py"}]
)
def test_the_analysis_half_never_names_what_only_the_capture_half_has(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & HEAVY


@pytest.mark.parametrize(
    ("source", "target", "right"),
    [
        ("cli", "report", True), ("cli", "hooks", True), ("report", "roofline", True), ("report", "join", True),
        ("roofline", "ingest", True), ("run", "analytic", True), ("join", "join", True), ("run", "", True),
        ("join", "roofline", False), ("ingest", "join", False), ("schema", "ingest", False), ("errors", "", False),
        ("join", "hooks", False), ("run", "join", False), ("report", "analytic", False), ("hooks", "cli", False),
        ("run", "measure", True), ("measure", "schema", True), ("measure", "run", False), ("join", "measure", False),
        ("report", "compare", True), ("compare", "roofline", True), ("roofline", "compare", False),
        ("analytic", "hooks", False), ("schema", "analytic", False), ("errors", "schema", False),
    ],
)  # fmt: skip
def test_arrows_point_rightwards_within_a_half(source: str, target: str, right: bool) -> None:
    assert allowed(source, target) is right


@pytest.mark.parametrize(
    "code",
    [
        "import dsocr_nvtx.hooks.tap",
        "from dsocr_nvtx import hooks",
        "def late():\n    from dsocr_nvtx.hooks import tap",
        "from ..hooks import tap",
        "from .. import hooks",
    ],
)
def test_a_forbidden_arrow_is_seen_however_it_is_written(code: str) -> None:
    assert "hooks" in rooms_in(set(named(code, "dsocr_nvtx.join")))


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_analysis_half_imports_and_joins_where_torch_is_not_installed(tmp_path: Path) -> None:
    from tests.builders.nsys import NsysFile
    from tests.builders.tables import payload_v1 as payload

    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decoder.0.mlp", 100, 200, values=payload(stage=2, kind=4, level=2, layer=0, tensor_flops=10))
    file.launch("gemm", 110, 120, 150)
    report = file.write(tmp_path / "report.sqlite")
    modules = [
        "dsocr_nvtx." + m.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for m in MODULES
        if m.split("/")[0].removesuffix(".py") in ANALYSIS and not m.endswith("__main__.py")
    ]
    code = BLOCK.format(names=HEAVY) + (
        "import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from dsocr_nvtx.cli import main\n"
        "sys.argv = ['dsocr-nvtx', 'join', sys.argv[1]]\n"
        "main()\n"
    )
    assert "decode is" in python(code, str(report))
    assert json.loads((tmp_path / "report.dsocr" / "join.json").read_text())["operations"] == 1


def test_the_block_blocks() -> None:
    code = BLOCK.format(names=HEAVY) + "\ntry:\n import torch\nexcept ModuleNotFoundError:\n print('blocked')\n"
    assert python(code) == "blocked\n"


def subcommands() -> list[str]:
    """Return the names of all subcommands."""
    from typer.main import get_command

    from dsocr_nvtx.cli.commands import app

    return sorted(getattr(get_command(app), "commands", {}))


@pytest.mark.parametrize("command", ["", *subcommands()])
def test_help_imports_nothing_slow(command: str) -> None:
    code = (
        "import sys\n"
        "from dsocr_nvtx.cli import main\n"
        f"sys.argv = {['dsocr-nvtx', *command.split(), '--help']!r}\n"
        "try:\n main()\n"
        "except SystemExit as end:\n assert not end.code, end.code\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    shown, _, loaded = python(code).rpartition("LOADED ")
    assert "Usage: dsocr-nvtx" in shown
    slow = HEAVY | {"pyarrow", "numpy", "PIL", "pypdfium2", "jinja2", "pandas", "scipy", "sqlite3"}
    assert not slow & set(loaded.split())
