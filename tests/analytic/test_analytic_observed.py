"""What hooks record of real runs of the tiny network is what the static table says, row by row."""

from collections.abc import Sequence

import pytest
from attrs import evolve

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dsocr_nvtx.analytic import build_analytic_layers_from_config  # noqa: E402 - needs what was just made sure of
from dsocr_nvtx.analytic.observed import differences, observed_rows, own_calls  # noqa: E402
from dsocr_nvtx.analytic.summary import run_summary  # noqa: E402
from dsocr_nvtx.analytic.table import PageRequest, page_table, page_total  # noqa: E402
from dsocr_nvtx.errors import DsocrError  # noqa: E402
from dsocr_nvtx.hooks import hook  # noqa: E402
from dsocr_nvtx.run.loop import Decoding, run_pages  # noqa: E402
from dsocr_nvtx.run.model import CACHE_ARGUMENT, base_side, random_model, tiny_config  # noqa: E402
from dsocr_nvtx.run.pages import drawn_page  # noqa: E402
from dsocr_nvtx.run.prompt import prompt_ids  # noqa: E402
from dsocr_nvtx.run.static import observed_page  # noqa: E402
from dsocr_nvtx.run.views import PageViews, page_views  # noqa: E402
from dsocr_nvtx.schema.records import COST_FIELDS, Level, RangeRecord, Stage  # noqa: E402

CONFIG = tiny_config()
LAYERS = build_analytic_layers_from_config(CONFIG)
STEPS = 3


def _run(
    mode: str, tiles: tuple[int, int] | None = None, *, batch: int = 2, attention: str = "sdpa",
    experts: str = "grouped_mm", level: str = "op",
) -> tuple[PageViews, list[RangeRecord]]:  # fmt: skip
    model = random_model(CONFIG, attention=attention, experts=experts)
    views = page_views([drawn_page(0).image], mode, tiles, base_side(CONFIG)).repeated(batch)
    prompt = prompt_ids(views.image_tokens(), CONFIG)
    with hook(model, level=level) as session:
        run_pages(model, views.model_inputs(), prompt, Decoding(max_new_tokens=STEPS + 1), session)
    assert not session.errors
    return views, session.stats.records


def _differences(views: PageViews, mode: str, records: Sequence[RangeRecord], level: Level = Level.OP) -> list[str]:
    calls = own_calls(records)
    request = observed_page(views, mode, calls, STEPS)
    return differences(observed_rows(calls), page_table(LAYERS, request), level)


@pytest.mark.parametrize(
    ("mode", "tiles"),
    [("tiny", None), ("small", None), ("base", None), ("large", None), ("gundam", (2, 3)), ("gundam", (3, 1))],
)
def test_hooks_and_static_table_agree_in_every_row(mode: str, tiles: tuple[int, int] | None) -> None:
    assert _differences(*_swap(_run(mode, tiles), mode)) == []


def _swap(run: tuple[PageViews, list[RangeRecord]], mode: str) -> tuple[PageViews, str, list[RangeRecord]]:
    return run[0], mode, run[1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("experts", ["eager", "batched_mm"])
def test_in_every_implementation(attention: str, experts: str) -> None:
    run = _run("tiny", attention=attention, experts=experts, batch=1)
    assert _differences(*_swap(run, "tiny")) == []


@pytest.mark.parametrize("level", [Level.LAYER, Level.STAGE])
def test_at_coarser_levels_stages_agree(level: Level) -> None:
    assert _differences(*_swap(_run("gundam", (2, 1), level=level), "gundam"), level) == []


def test_with_a_static_cache() -> None:
    model, slots, tokens = random_model(CONFIG), 64, 40
    kv = transformers.StaticCache(config=CONFIG.text_config, max_cache_len=slots)
    ids = torch.randint(2, 400, (2, tokens))
    with torch.no_grad(), hook(model) as session:
        for stage, given in [("prefill", ids), *(("decode", ids[:, :1]) for _ in range(STEPS))]:
            with session.step(stage):
                model(input_ids=given, **{CACHE_ARGUMENT: kv}, use_cache=True, logits_to_keep=1)
    assert not session.errors
    request = PageRequest(
        mode="tiny", whole_side=256, prompt_tokens=tokens, decode_tokens=STEPS, batch=2, dtype="float32", kv_slots=slots
    )
    static = [row for row in page_table(LAYERS, request) if row.stage is not Stage.VISION]
    assert differences(observed_rows(own_calls(session.stats.records)), static, Level.OP) == []
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in kv.layers)
    assert LAYERS.kv_cache_bytes(session.stats.records[1].shape) == held


def test_a_difference_is_named() -> None:
    views, records = _run("tiny", batch=1)
    lost = [r for r in records if r.path != "decoder.1.attention"]
    assert "prefill decoder.1 attention: not hooked" in _differences(views, "tiny", lost)
    wrong = [
        evolve(r, cost=evolve(r.cost, kv_read_bytes=7)) if (r.path, r.stage) == ("lm_head", Stage.PREFILL) else r
        for r in records
    ]
    line = "prefill lm_head lm_head: kv_read_bytes is 7 by the hooks, 0 by the static model"
    assert _differences(views, "tiny", wrong) == [line]
    with pytest.raises(DsocrError, match="0 hooked forwards"):
        observed_page(views, "tiny", [], 0)


def test_own_costs_add_up_to_the_run() -> None:
    views, records = _run("gundam", (2, 1))
    request = observed_page(views, "gundam", own_calls(records), STEPS)
    total = page_total(page_table(LAYERS, request))
    for name in COST_FIELDS:
        assert sum(getattr(call.own, name) for call in own_calls(records)) == getattr(total, name)


def test_the_summary_says_totals_averages_and_growth() -> None:
    _, records = _run("tiny", batch=2)
    summary = run_summary(own_calls(records), pages=2)
    stages, layers, steps = summary["stages"], summary["layers"], summary["kv_steps"]
    assert isinstance(stages, dict)
    assert isinstance(layers, list)
    assert isinstance(steps, list)
    for stage in ("vision", "prefill", "decode"):
        for name in (*COST_FIELDS, "flops", "calls"):
            assert stages[stage][name] == sum(row[name] for row in layers if row["stage"] == stage)  # type: ignore
    per_token = CONFIG.text_config.num_hidden_layers * 2 * 64 * 4
    assert summary["decoded_tokens"] == 2 * STEPS
    assert [step["growth_bytes"] for step in steps[1:]] == [2 * per_token] * STEPS  # type: ignore
    assert [step["kv_bytes"] for step in steps] == [2 * per_token * (31 + n) for n in range(STEPS + 1)]  # type: ignore
    assert summary["decode_per_token"]["flops"] == stages["decode"]["flops"] / (2 * STEPS)  # type: ignore
    assert summary["per_page"]["flops"] == sum(stage["flops"] for stage in stages.values()) / 2  # type: ignore


def test_a_run_without_decode_has_no_average_per_token() -> None:
    assert run_summary([], pages=1)["decode_per_token"] is None
