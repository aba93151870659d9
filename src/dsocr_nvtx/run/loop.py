"""Greedy inference of a batch of pages, step by step as transformers' `generate` does it, with each step in its stage.

The same forwards in the same order, with the same arguments, cache, expert switch and token selection, so that what is
measured is what users run; written out because `generate` offers no place to open a range around one step.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from dsocr_nvtx.run.decoding import Decoding, Generation, Network, StepSession, generation

__all__ = ["Decoding", "StepSession", "Unobserved", "decode_experts", "run_pages", "start_pages", "stop_ids_of"]


class Unobserved:
    """The session of a run that nobody watches: warm-up, or hooks switched off."""

    def step(self, stage: str) -> AbstractContextManager[object]:  # noqa: ARG002 - the protocol's signature
        """Return a context that does nothing."""
        return nullcontext()

    captured = step

    def replayed(self, kv_len: int) -> None:
        """Do nothing."""

    def launched(self) -> None:
        """Do nothing."""

    def muted(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()


def run_pages(
    model: nn.Module,
    images: Mapping[str, object],
    prompt: torch.Tensor,
    decoding: Decoding,
    session: StepSession,
    progress: Callable[[str, int], None] = lambda _stage, _step: None,
) -> torch.Tensor:
    """Return the new tokens, [pages, tokens], on the model's device; ``prompt`` [pages, tokens] must lie there already.

    ``progress`` is called between steps, never inside one, with the stage and the number of the step just made.
    """
    with torch.inference_mode():
        state = start_pages(model, images, prompt, decoding, session, progress)
        with decode_experts(model, decoding):
            if decoding.max_new_tokens > 1 and not state.done:
                state.prepare(session)
            for step in range(decoding.max_new_tokens - 1):
                if state.done:
                    break
                state.decode(session)
                progress("decode", step)
        return state.written()


def start_pages(
    model: nn.Module,
    images: Mapping[str, object],
    prompt: torch.Tensor,
    decoding: Decoding,
    session: StepSession,
    progress: Callable[[str, int], None] = lambda _stage, _step: None,
) -> Generation:
    """Run vision and prompt, and return the generation ready to decode. Call it in inference mode."""
    network = cast("Network", model)
    # Made before the first step: its own few small operations belong to no stage of the model.
    state = generation(network, prompt, decoding)
    with session.step("vision"):
        features = network.model.get_image_features(**images, return_dict=True)
    progress("vision", 0)
    with session.step("prefill"):
        state.read_prompt(features)
    progress("prefill", 0)
    return state


def decode_experts(model: nn.Module, decoding: Decoding) -> AbstractContextManager[None]:
    """Return the context in which `generate` decodes: on a GPU it turns ``grouped_mm`` into ``batched_mm``."""
    network = cast("Network", model)
    return network._optimize_model_for_decode() if decoding.switch_experts else nullcontext()


def stop_ids_of(config: Any) -> tuple[int, ...]:
    """Return the tokens that end a text by the model's configuration."""
    ids = config.text_config.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, Sequence) else (int(ids),)
