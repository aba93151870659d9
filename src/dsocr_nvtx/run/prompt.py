"""The prompt: one BOS token, the page's image tokens, and the text that asks for markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from dsocr_nvtx.errors import Refused, UsageError

DEFAULT_TEXT: Final = "\n<|grounding|>Convert the document to markdown."
STAND_IN_IDS: Final = (201, 128820, 21842, 270, 4940, 304, 2508, 3346, 16)
"""Takes the place of the default text where there is no tokenizer: as many tokens as it has. Cost depends on their
number only, and random weights read nothing into them."""

BOS_ID: Final = 0


class TextTokenizer(Protocol):
    """What the prompt needs of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids."""
        ...


def load_tokenizer(folder: Path) -> TextTokenizer | None:
    """Return the tokenizer of a checkpoint folder, or None where it has no ``tokenizer.json``. Runs no code from it."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer: TextTokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise Refused(path, f"not a tokenizer ({str(error)[:80]})", "download the checkpoint again") from error
    return tokenizer


def text_ids(config: Any, tokenizer: TextTokenizer | None, text: str | None = None) -> list[int]:
    """Return the ids of the prompt's text; without a tokenizer only the default text has (stand-in) ids."""
    if tokenizer is not None:
        return list(tokenizer.encode(text or DEFAULT_TEXT, add_special_tokens=False))
    if text is not None:
        raise UsageError("--prompt needs a --checkpoint folder with a tokenizer.json")
    # A smaller vocabulary gets them folded in, clear of BOS, EOS and the image token, which is near its end.
    last = int(config.image_token_id)
    return [token if token < config.text_config.vocab_size else 2 + token % (last - 2) for token in STAND_IN_IDS]


def prompt_ids(
    image_tokens: Sequence[int],
    config: Any,
    tokenizer: TextTokenizer | None = None,
    text: str | None = None,
) -> torch.Tensor:
    """Return [pages, tokens] int64. Pages of one batch need equally many image tokens: nothing is padded."""
    if len(set(image_tokens)) != 1:
        counts = ", ".join(map(str, image_tokens))
        raise UsageError(f"the pages of a batch differ in image tokens ({counts}): run them apart, or force --tiles")
    tail = text_ids(config, tokenizer, text)
    row = [BOS_ID, *[int(config.image_token_id)] * image_tokens[0], *tail]
    return torch.tensor([row] * len(image_tokens), dtype=torch.int64)
