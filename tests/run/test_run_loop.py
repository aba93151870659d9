"""The loop: the tokens that `generate` gives, each step in its stage, and an end when every page has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.loop import Decoding, Unobserved, run_pages, stop_ids_of
from dsocr_nvtx.run.model import base_side, random_model, tiny_config
from dsocr_nvtx.run.prompt import TextTokenizer, load_tokenizer, prompt_ids, text_ids
from dsocr_nvtx.run.views import PageViews, page_views

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_model(CONFIG)


def _views(mode: str = "gundam", seeds: tuple[int, ...] = (0,)) -> PageViews:
    images: list[Image.Image] = [draw_page(700, 500, seed) for seed in seeds]
    return page_views(images, mode, base_side=base_side(CONFIG))


def _generate(model: nn.Module, views: PageViews, count: int, eos: int | None = None) -> torch.Tensor:
    ids = prompt_ids(views.image_tokens(), CONFIG)
    options = {"do_sample": False, "max_new_tokens": count, "eos_token_id": eos, "pad_token_id": eos}
    masks = {"attention_mask": torch.ones_like(ids)}
    tokens: torch.Tensor = model.generate(input_ids=ids, **views.model_inputs(), **masks, **options)  # type: ignore[operator]
    return tokens[:, ids.shape[1] :]


def _run(model: nn.Module, views: PageViews, decoding: Decoding) -> torch.Tensor:
    ids = prompt_ids(views.image_tokens(), CONFIG)
    return run_pages(model, views.model_inputs(), ids, decoding, Unobserved())


@pytest.mark.parametrize("mode", ["tiny", "gundam"])
def test_tokens_are_those_of_generate(model: nn.Module, mode: str) -> None:
    views = _views(mode, (0, 1))
    ours = _run(model, views, Decoding(max_new_tokens=6))
    assert ours.shape == (2, 6)
    assert torch.equal(ours, _generate(model, views, 6))


def test_generation_ends_where_generate_ends(model: nn.Module) -> None:
    views = _views("tiny", (0, 1))
    free = _run(model, views, Decoding(max_new_tokens=8))
    stop = int(free[0, 3])
    ours = _run(model, views, Decoding(max_new_tokens=8, stop_ids=(stop,)))
    assert torch.equal(ours, _generate(model, views, 8, stop))


def test_a_page_that_ends_alone_stops_the_loop(model: nn.Module) -> None:
    views = _views("tiny")
    free = _run(model, views, Decoding(max_new_tokens=8))
    stop = int(free[0, 2])
    ours = _run(model, views, Decoding(max_new_tokens=8, stop_ids=(stop,)))
    assert ours.shape[1] == free[0].tolist().index(stop) + 1


class _Log(Unobserved):
    def __init__(self) -> None:
        self.stages: list[str] = []

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        self.stages.append(stage)
        yield


def test_each_step_runs_in_its_stage(model: nn.Module) -> None:
    views, log = _views("tiny"), _Log()
    seen: list[tuple[str, int]] = []
    ids = prompt_ids(views.image_tokens(), CONFIG)
    decoding = Decoding(max_new_tokens=4)
    run_pages(model, views.model_inputs(), ids, decoding, log, lambda stage, step: seen.append((stage, step)))
    assert log.stages == ["vision", "prefill", "decode", "decode", "decode"]
    assert seen == [("vision", 0), ("prefill", 0), ("decode", 0), ("decode", 1), ("decode", 2)]


def test_one_new_token_needs_no_decode_step(model: nn.Module) -> None:
    assert _run(model, _views("tiny"), Decoding(max_new_tokens=1)).shape == (1, 1)


@pytest.mark.parametrize("experts", ["eager", "batched_mm"])
def test_other_experts_give_the_same_tokens(model: nn.Module, experts: str) -> None:
    views = _views("tiny")
    other = random_model(CONFIG, experts=experts)
    ours = _run(other, views, Decoding(max_new_tokens=4, switch_experts=False))
    assert torch.equal(ours, _run(model, views, Decoding(max_new_tokens=4)))


def test_prompt_is_bos_image_tokens_and_text() -> None:
    ids = prompt_ids([903, 903], CONFIG)
    assert ids.shape == (2, 913)
    assert ids[0, 0] == 0
    assert (ids[0] == CONFIG.image_token_id).sum() == 903
    assert int(ids.max()) < CONFIG.text_config.vocab_size


def test_pages_with_unequal_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match="903, 483"):
        prompt_ids([903, 483], CONFIG)


def test_a_prompt_text_needs_a_tokenizer() -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        prompt_ids([10], CONFIG, None, "Free OCR.")


def _tokenizer(folder: Path) -> TextTokenizer:
    words = {word: index + 5 for index, word in enumerate(("free", "ocr", "unknown"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder)
    assert loaded is not None
    return loaded


def test_a_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path)
    assert text_ids(CONFIG, tokenizer, "free ocr free") == [5, 6, 5]
    assert len(text_ids(CONFIG, tokenizer)) > 0
    assert tokenizer.decode([5, 6], skip_special_tokens=False) == "free ocr"


def test_a_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(Refused, match="not a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_on_the_cpu(dtype: torch.dtype) -> None:
    views = _views("tiny").to("cpu", dtype)
    assert _run(random_model(CONFIG, dtype=dtype), views, Decoding(max_new_tokens=2)).shape == (1, 2)


def test_stop_ids_come_from_the_configuration() -> None:
    assert stop_ids_of(CONFIG) == (1,)
