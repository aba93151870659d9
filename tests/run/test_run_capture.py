"""A whole run on the CPU: what it leaves, in which order it works, and what it leaves behind when it fails: nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from dsocr_nvtx.errors import Refused, Unavailable, UsageError
from dsocr_nvtx.hooks.checks import Checks
from dsocr_nvtx.run.capture import RunOptions, capture
from dsocr_nvtx.run.workload import choose_device, choose_dtype
from dsocr_nvtx.schema.files import read_table

TINY = RunOptions(device="cpu", config="tiny", mode="tiny", max_new_tokens=3, hooks=False)
SOURCE = Path(__file__).parents[2] / "src"


def _manifest(directory: Path) -> Any:
    return json.loads((directory / "run.json").read_text())


def test_a_run_says_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = evolve(TINY, out=tmp_path / "run", batch=2, command=("/x/__main__.py", "--batch", "2"))
    assert capture(options) == tmp_path / "run"
    manifest = _manifest(tmp_path / "run")
    assert (manifest["batch"], manifest["mode"], manifest["dtype"], manifest["device"]) == (2, "tiny", "float32", "cpu")
    assert (manifest["prompt_tokens"], manifest["decode_tokens"], manifest["ranges"]) == (1 + 4 * 5 + 1 + 9, 2, 0)
    assert len(manifest["pages"]) == 2
    output = json.loads((tmp_path / "run" / "output.json").read_text())
    assert [len(row) for row in output["tokens"]] == [3, 3]
    assert output["tokens"][0] == output["tokens"][1]
    text = capsys.readouterr()
    assert text.out == ""
    assert str(tmp_path / "run") in text.err.replace("\n", "")
    assert "nsys profile" in text.err


def test_runs_repeat_under_their_seed(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for out, seed in ((first, 0), (again, 0), (other, 1)):
        capture(evolve(TINY, out=out, seed=seed))
    outputs = [(out / "output.json").read_text() for out in (first, again, other)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_nothing_but_the_run_directory_is_left(tmp_path: Path) -> None:
    capture(evolve(TINY, out=tmp_path / "runs" / "one"))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_directory_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="not empty"):
        capture(evolve(TINY, out=tmp_path, pages=("missing.png",)))


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    capture(evolve(TINY, out=out))
    (out / "old").write_text("old")
    capture(evolve(TINY, out=out, force=True))
    assert not (out / "old").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match=r"without run\.json"):
        capture(evolve(TINY, out=tmp_path / "other", force=True))
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


class _Session:
    """Stands for the hooks and notes what is asked of them."""

    def __init__(self, log: list[str], fail: str = "") -> None:
        self.log, self.fail, self.errors = log, fail, ["first fault"]
        self.records: list[object] = []
        self.ranges, self.checks = 0, Checks()
        self.experts: list[object] = []

    @property
    def stats(self) -> "_Session":
        return self

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        self.log.append(stage)
        if stage == self.fail:
            raise RuntimeError("inside the model")
        yield

    @contextmanager
    def muted(self) -> Iterator[None]:
        self.log.append("muted")
        yield
        self.log.append("heard")

    def announce_all(self) -> None:
        self.log.append("announce")

    def write(self, directory: Path) -> None:
        self.log.append("write")
        (directory / "ranges.arrow").write_bytes(b"")


def _fake_hooks(monkeypatch: pytest.MonkeyPatch, fail: str = "") -> list[str]:
    log: list[str] = []

    @contextmanager
    def hook(model: torch.nn.Module, **options: object) -> Iterator[_Session]:
        log.append(f"attach {options['level']}")
        try:
            yield _Session(log, fail)
        finally:
            log.append("detach")

    # The hook alone: whatever else a run takes from the hooks is the real thing.
    monkeypatch.setattr("dsocr_nvtx.hooks.hook", hook)
    return log


def test_warm_up_is_muted_and_the_rest_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _fake_hooks(monkeypatch)
    capture(evolve(TINY, out=tmp_path / "run", hooks=True, level="layer", warmup=2))
    stages = ["vision", "prefill", "decode", "decode"]
    assert log == ["attach layer", "muted", "heard", "announce", *stages, "detach", "write"]
    assert (tmp_path / "run" / "ranges.arrow").exists()
    assert _manifest(tmp_path / "run")["hook_errors"] == ["first fault"]
    assert "1 errors inside hooks" in capsys.readouterr().err


def test_a_failing_run_detaches_and_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _fake_hooks(monkeypatch, fail="decode")
    with pytest.raises(RuntimeError, match="inside the model"):
        capture(evolve(TINY, out=tmp_path / "run", hooks=True))
    assert log[-1] == "detach"
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="--device cpu --config tiny"):
        choose_device(RunOptions())


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:x"])
def test_other_devices_are_wrong_usage(device: str) -> None:
    with pytest.raises(UsageError, match="cpu or cuda:N"):
        choose_device(RunOptions(device=device))


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Unavailable, match="cuda:7: 1 CUDA devices"):
        choose_device(RunOptions(device="cuda:7"))


def test_the_element_type_follows_the_device() -> None:
    assert choose_dtype(RunOptions(), torch.device("cpu")) is torch.float32
    assert choose_dtype(RunOptions(), torch.device("cuda")) is torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        evolve(TINY, capture_range=True),
        evolve(TINY, checkpoint=Path("x")),
        evolve(TINY, pages=("a.png", "b.png"), calibrate=True),
        evolve(TINY, tiles=(2, 3)),
        evolve(TINY, prompt="Free OCR."),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(options: RunOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        capture(evolve(options, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def _main(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dsocr_nvtx.run", *arguments]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_module_runs_the_main_job(tmp_path: Path) -> None:
    pytest.importorskip("dsocr_nvtx.hooks.attach")
    done = _main("--device", "cpu", "--config", "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    manifest = _manifest(directory)
    assert (manifest["prompt_tokens"], manifest["decode_tokens"], manifest["hook_errors"]) == (248, 31, [])
    assert manifest["ranges"] > 16
    assert (directory / "ranges.arrow").exists()
    assert (directory / "analytic_hooks" / "decoder_steps.json").exists()


def test_hooks_change_no_token(tmp_path: Path) -> None:
    pytest.importorskip("dsocr_nvtx.hooks.attach")
    capture(evolve(TINY, out=tmp_path / "bare"))
    capture(evolve(TINY, out=tmp_path / "hooked", hooks=True))
    assert (tmp_path / "bare/output.json").read_text() == (tmp_path / "hooked/output.json").read_text()


def test_refusals_are_one_line_and_their_exit_code(tmp_path: Path) -> None:
    done = _main("missing.png", "--device", "cpu", "--config", "tiny", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.strip().splitlines() == [
        "dsocr-nvtx: missing.png: No such file or directory; give a PNG, JPEG or PDF file"
    ]


def test_every_run_is_held_to_the_static_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dsocr_nvtx.hooks.attach")
    capture(evolve(TINY, out=tmp_path / "run", hooks=True, mode="gundam", tiles=(2, 1), batch=2))
    assert _manifest(tmp_path / "run")["static_check"] == {"holds": True, "level": "op", "differences": []}
    assert "differ" not in capsys.readouterr().err
    model = tmp_path / "run" / "static_analysis" / "analytic_model"
    assert {path.name for path in model.iterdir()} == {"report.json", "report.yaml", "layers"}
    assert json.loads((model / "report.json").read_text())["page"]["batch"] == 2
    summary = json.loads((tmp_path / "run" / "analytic_hooks" / "summary.json").read_text())
    assert (summary["pages"], summary["decoded_tokens"], len(summary["kv_steps"])) == (2, 4, 3)


def test_what_differs_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dsocr_nvtx.run.static.page_table", lambda _layers, _request: [])
    capture(evolve(TINY, out=tmp_path / "run", hooks=True))
    check = _manifest(tmp_path / "run")["static_check"]
    assert not check["holds"]
    assert check["differences"][0].endswith("not in the static model")
    assert "hooks and static model differ" in capsys.readouterr().err


def test_experts_are_observed_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dsocr_nvtx.hooks.attach")
    capture(evolve(TINY, out=tmp_path / "run", hooks=True, batch=16, observe_experts=True))
    manifest = _manifest(tmp_path / "run")
    assert (manifest["experts_observed"], manifest["static_check"]["holds"]) == (2 * 3, True)
    experts = read_table(tmp_path / "run" / "experts.arrow").to_pylist()
    assert [row["distinct_experts"] for row in experts if row["stage"] == "decode"] == [2] * 4
    summary = json.loads((tmp_path / "run" / "analytic_hooks" / "summary.json").read_text())["experts"]
    assert [(row["stage"], row["layer"], row["calls"]) for row in summary] == [
        ("prefill", 1, 1), ("prefill", 2, 1), ("decode", 1, 2), ("decode", 2, 2),
    ]  # fmt: skip
    assert [(row["distinct_experts"], sum(row["rows_per_expert"])) for row in summary[2:]] == [(2.0, 64)] * 2
    assert "experts hit per layer and decode step: 2.0 on average, 7.9 if" in capsys.readouterr().err
    capture(evolve(TINY, out=tmp_path / "cpu", hooks=True))
    assert not (tmp_path / "cpu" / "experts.arrow").exists()
