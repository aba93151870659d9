"""A small network, a page for it, and a run of it, for every test of the hooks."""

from typing import Any

import torch
from torch import nn
from transformers import Cache

from dsocr_nvtx.hooks import HookSession
from dsocr_nvtx.run.loop import Decoding, run_pages
from dsocr_nvtx.run.model import CACHE_ARGUMENT, random_model, tiny_config
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.run.views import PageViews
from dsocr_nvtx.schema.records import RangeRecord

TILES = (2, 1)


def network(attention: str = "sdpa", experts: str = "grouped_mm") -> Any:
    """Return the tiny network with seeded weights."""
    return random_model(tiny_config(), dtype=torch.float32, seed=1, attention=attention, experts=experts)


def page(sides: tuple[int, int] = (128, 64)) -> PageViews:
    """Return one page of a global view and two tiles, of noise."""
    noise = torch.Generator().manual_seed(0)
    whole, tile = (
        torch.randn(count, 3, side, side, generator=noise) for count, side in zip((1, 2), sides, strict=True)
    )
    return PageViews(pixel_values=whole, pixel_values_local=tile, grids=(TILES,))


def run(model: nn.Module, session: HookSession, tokens: int = 4, views: PageViews | None = None) -> torch.Tensor:
    """Run vision, prefill and ``tokens`` - 1 decode steps."""
    views = views or page()
    ids = prompt_ids(views.image_tokens(), model.config)
    return run_pages(model, views.model_inputs(), ids, Decoding(max_new_tokens=tokens), session)


def forward(model: nn.Module, cache: Cache, tokens: int = 1, batch: int = 1) -> None:
    """Run one forward over so many tokens more."""
    ids = torch.ones(batch, tokens, dtype=torch.int64)
    model(input_ids=ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1)


def attached(model: nn.Module) -> list[str]:
    """Return the names of modules that have a method of their own instead of their class's."""
    methods = ("forward", "get_image_features", "moe_infer")
    return [name for name, module in model.named_modules() if any(method in vars(module) for method in methods)]


def told(records: list[RangeRecord]) -> list[tuple[object, ...]]:
    """Return what is told of every range: its place, step, sizes and cost, and the path of what is around it."""
    paths = {record.event_id: record.path for record in records}
    return [
        (r.path, str(r.stage), r.step, r.layer, r.sequences, r.rows, r.keys, r.pairs, r.cost, str(r.state),
         paths.get(-1 if r.parent_id is None else r.parent_id))
        for r in records
    ]  # fmt: skip


def decode(
    model: Any, cache: Any, batch: int = 1, tokens: int = 1, logits: int = 1, numbers: torch.Tensor | None = None
) -> None:
    """Run one forward with a cache, under no stage that was said."""
    ids = torch.ones(batch, tokens, dtype=torch.int64) if numbers is None else numbers
    with torch.no_grad():
        model(input_ids=ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=logits)
