"""`run --power` with gauges that tests turn: what is sampled, repeated, written and refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from attrs import evolve

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.measure.gauge import Reading
from dsocr_nvtx.measure.sampling import Sampler
from dsocr_nvtx.run.capture import RunOptions, capture
from dsocr_nvtx.run.decoding import Decoding
from dsocr_nvtx.run.power import PowerWatch, energy_lines, power_watch, recorded_stages
from dsocr_nvtx.run.progress import run_progress
from dsocr_nvtx.run.workload import prepare
from dsocr_nvtx.schema.files import read_table

TINY = RunOptions(device="cpu", config="tiny", mode="tiny", max_new_tokens=3, hooks=False)


class Gauge:
    """A GPU that draws 400 W; every look at its clock is a tenth of a second later, and is sampled."""

    def __init__(self) -> None:
        self.time = 0
        self.sampler: Sampler | None = None

    def now(self) -> int:
        self.time += 10**8
        if self.sampler is not None:
            self.sampler.readings.append(self.read(self.time))
        return self.time

    def read(self, time_ns: int) -> Reading:
        return Reading(time_ns=time_ns, power_mw=400_000, energy_mj=time_ns * 400 // 10**6, reasons=0)


@pytest.mark.parametrize("decode", ["eager", "static"])
def test_only_steps_are_repeated_with_the_experts_of_decoding(decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They copy the weights for every token: with them, a prompt of 16 pages would need 374 GiB."""
    gauge = Gauge()
    switched: list[bool] = [False]
    seen: set[tuple[bool, bool]] = set()

    @contextmanager
    def switch(_model: torch.nn.Module, _decoding: Decoding) -> Iterator[None]:
        switched.append(True)
        yield
        switched.pop()

    monkeypatch.setattr("dsocr_nvtx.run.power.decode_experts", switch)
    with run_progress() as progress:
        work = prepare(evolve(TINY, decode=decode), progress)
        layer = work.model.model.language_model.layers[1].mlp  # type: ignore[union-attr,index]
        layer.register_forward_pre_hook(lambda _module, inputs: seen.add((inputs[0].shape[1] == 1, switched[-1])))
        with Sampler(gauge, 30.0, gauge.now) as sampler:
            gauge.sampler = sampler
            PowerWatch(sampler, lambda: None).repeat(work, progress, seconds=0.1)
    assert seen == {(False, False), (True, True)}  # a step has one token, and only it the experts of a step


@pytest.mark.parametrize("decode", ["eager", "static"])
def test_every_stage_is_repeated_until_its_energy_is_known(tmp_path: Path, decode: str) -> None:
    gauge = Gauge()
    with run_progress() as progress:
        work = prepare(evolve(TINY, decode=decode, batch=2), progress)
        with Sampler(gauge, 30.0, gauge.now) as sampler:
            gauge.sampler = sampler
            watch = PowerWatch(sampler, lambda: None)
            watch.repeat(work, progress)
            rows = watch.write(tmp_path)
    assert [(row["stage"], row["source"]) for row in rows] == [
        (stage, "repeated") for stage in ("vision", "prefill", "decode")
    ]
    # A cache that grows is made anew between spans of a tenth of a second each: too short for steps of 40 J.
    doubtful = decode == "eager"
    assert [str(row["verdict"]).split(":")[0] for row in rows] == [
        "resolved", "resolved", "unresolved" if doubtful else "resolved",
    ]  # fmt: skip
    for row in rows:
        # 400 W, whatever a stage did in that time.
        if row["joules"] is not None:
            assert row["joules"] == pytest.approx(400 * float(str(row["seconds"])))
        assert float(str(row["seconds"])) >= 2.0
    pages, prompt = work.prompt.shape
    assert int(str(rows[1]["tokens"])) % (pages * prompt) == 0
    assert int(str(rows[2]["tokens"])) % (pages * 2) == 0
    table = read_table(tmp_path / "energy.arrow")
    assert len(table) == 3
    assert len(read_table(tmp_path / "power.arrow")) >= 6
    lines = list(energy_lines(rows))
    assert ["unresolved" in line for line in lines] == [False, False, doubtful]
    assert "tokens per joule" in lines[0]


def test_the_recorded_stages_are_found_in_the_ranges(tmp_path: Path) -> None:
    pytest.importorskip("nvtx")
    directory = capture(evolve(TINY, hooks=True, out=tmp_path / "run"))
    found = recorded_stages(directory / "ranges.arrow")
    assert [stage.stage for stage in found] == ["vision", "prefill", "decode"]
    assert found[2].tokens == 2
    assert found[0].spans[0].end_ns <= found[1].spans[0].start_ns
    assert not (directory / "power.arrow").exists()


def test_power_of_a_cpu_is_wrong_usage_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--power"):
        capture(evolve(TINY, power=True, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_nothing_is_watched_unless_asked() -> None:
    with power_watch(torch.device("cpu"), wanted=False) as watch:
        assert watch is None
    with power_watch(torch.device("cpu"), wanted=True, gauge=Gauge()) as watch:
        assert watch is not None
    assert len(watch.sampler.readings) >= 2
