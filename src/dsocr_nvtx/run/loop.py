"""Greedy inference of a batch of pages, step by step as transformers' `generate` does it, with each step in its stage.

The same forwards in the same order, with the same arguments, cache, expert switch and token selection, so that what is
measured is what users run; written out because `generate` offers no place to open a range around one step.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from attrs import frozen
from torch import nn
from transformers import DynamicCache


class StepSession(Protocol):
    """Whatever wants to know which stage the model is in."""

    def step(self, stage: str) -> AbstractContextManager[object]:
        """Return a context in which one step of a stage runs."""
        ...


class Unobserved:
    """The session of a run that nobody watches: warm-up, or hooks switched off."""

    def step(self, stage: str) -> AbstractContextManager[object]:  # noqa: ARG002 - the protocol's signature
        """Return a context that does nothing."""
        return nullcontext()


class _Network(Protocol):
    """The part of the native model that a page runs through."""

    config: Any
    model: Any

    def __call__(self, **inputs: object) -> Any: ...

    def _optimize_model_for_decode(self) -> AbstractContextManager[None]: ...


@frozen(kw_only=True)
class Decoding:
    """How tokens are chosen and when to stop.

    ``max_new_tokens`` counts as `generate` counts: the prefill chooses the first, each decode step one more.
    Generation also ends when every page has met one of ``stop_ids``; without any, nothing is read back from the device.
    ``switch_experts``: between prefill and decode, change the experts' implementation as `generate` would.
    """

    max_new_tokens: int = 32
    stop_ids: tuple[int, ...] = ()
    switch_experts: bool = True


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
    network = cast("_Network", model)
    with torch.inference_mode():
        # Made before the first step: its own few small operations belong to no stage of the model.
        state = _State(network, prompt, decoding)
        with session.step("vision"):
            features = network.model.get_image_features(**images, return_dict=True)
        progress("vision", 0)
        with session.step("prefill"):
            state.advance(prompt, mm_encoder_outputs={"image": features})
        progress("prefill", 0)
        del features
        with _decode_experts(network, decoding):
            for step in range(decoding.max_new_tokens - 1):
                if state.done:
                    break
                with session.step("decode"):
                    state.advance(state.tokens[:, -1:])
                progress("decode", step)
    return state.tokens[:, prompt.shape[1] :]


def stop_ids_of(config: Any) -> tuple[int, ...]:
    """Return the tokens that end a text by the model's configuration."""
    ids = config.text_config.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, Sequence) else (int(ids),)


def _decode_experts(network: _Network, decoding: Decoding) -> AbstractContextManager[None]:
    """Return the context in which `generate` decodes: on a GPU it turns ``grouped_mm`` into ``batched_mm``."""
    return network._optimize_model_for_decode() if decoding.switch_experts else nullcontext()


class _State:
    """A generation under way: the cache, the tokens so far, and which pages have ended."""

    def __init__(self, network: _Network, prompt: torch.Tensor, decoding: Decoding) -> None:
        self.network, self.tokens = network, prompt
        self.cache = DynamicCache(config=network.config.text_config)
        self.positions = torch.arange(prompt.shape[1], device=prompt.device).expand(prompt.shape[0], -1)
        self.stop = torch.tensor(decoding.stop_ids, device=prompt.device) if decoding.stop_ids else None
        self.open = torch.ones(prompt.shape[0], dtype=torch.int64, device=prompt.device)
        self.done = False

    def advance(self, ids: torch.Tensor, **extra: object) -> None:
        """Run one forward over the newest tokens and append the likeliest next one of every page."""
        output = self.network(
            input_ids=ids,
            position_ids=self.positions[:, -ids.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
            **extra,
        )
        chosen = output.logits[:, -1].to(copy=True, dtype=torch.float32).argmax(dim=-1)
        self._append(chosen)
        self.positions = torch.cat([self.positions, self.positions[:, -1:] + 1], dim=-1)

    def _append(self, chosen: torch.Tensor) -> None:
        """Append the tokens; where pages can end, replace what follows an end, and wait to hear whether all have."""
        if self.stop is not None:
            chosen = chosen * self.open + self.stop[0] * (1 - self.open)
            self.open = self.open & ~torch.isin(chosen, self.stop)
        self.tokens = torch.cat([self.tokens, chosen[:, None]], dim=-1)
        if self.stop is not None:
            self.done = bool(self.open.max() == 0)
