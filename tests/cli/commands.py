"""Running a command as a user does, inside this process: its exit code and what it printed."""

import sys
from pathlib import Path

import pytest
from attrs import frozen

from dsocr_nvtx.cli import main
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload


@frozen
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@frozen
class Commands:
    """Runs `dsocr-nvtx` commands."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Done:
        """Run one command."""
        self.monkeypatch.setattr(sys, "argv", ["dsocr-nvtx", *map(str, words)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        shown = self.capsys.readouterr()
        return Done(code if isinstance(code, int) else 0 if code is None else 1, shown.out, shown.err)


def hooked() -> NsysFile:
    """Return an export of one decode step on an H200: a model call, and in it one MLP and lm_head, each one kernel."""
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    common = {"stage": 2, "batch": 1, "tokens": 1, "kv_len": 914}
    file.push_pop(
        "model", 1_000, 90_000, values=payload(event_id=0, kind=13, tensor_flops=50, weight_bytes=9, **common)
    )
    mlp = payload(event_id=1, kind=4, level=2, layer=0, tensor_flops=20, weight_bytes=9, **common)
    file.push_pop("decoder.0.mlp", 10_000, 40_000, values=mlp)
    file.push_pop("lm_head", 50_000, 80_000, values=payload(event_id=2, kind=12, level=1, tensor_flops=30, **common))
    file.launch("nvjet_mlp", 20_000, 30_000, 60_000)
    file.launch("nvjet_head", 60_000, 70_000, 100_000)
    return file


def tree(folder: Path) -> list[str]:
    """Return everything in a folder, hidden things too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
