"""How a page's tokens are decoded: with a cache that grows, or a static one, compiled or as a CUDA graph or neither.

Contract: a `Generation` holds the cache and the tokens of one batch of pages; ``read_prompt`` makes the first token of
each, ``prepare`` whatever has to be made before decoding, ``decode`` one more token of each inside the step's range.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from attrs import frozen
from transformers import DynamicCache, StaticCache

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.run.graph import CudaGraph, StepGraph
from dsocr_nvtx.run.model import CACHE_ARGUMENT


class StepSession(Protocol):
    """Whatever wants to know which stage the model is in."""

    def step(self, stage: str) -> AbstractContextManager[object]:
        """Return a context in which one step of a stage runs."""
        ...

    def captured(self, stage: str) -> AbstractContextManager[object]:
        """Return a context in which a step is captured into a CUDA graph: its calls run nothing."""
        ...

    def replayed(self, kv_len: int) -> None:
        """Hear, inside a step, that the graph captured last is about to be launched with so many keys."""
        ...

    def launched(self) -> None:
        """Hear, after the step, that the graph was launched."""
        ...

    def muted(self) -> AbstractContextManager[object]:
        """Return a context whose calls are no part of the run."""
        ...


class Network(Protocol):
    """The part of the native model that a page runs through."""

    config: Any
    model: Any

    def __call__(self, **inputs: object) -> Any:
        """Run one forward."""
        ...

    def _optimize_model_for_decode(self) -> AbstractContextManager[None]: ...

    def get_compiled_call(self, compile_config: None) -> Callable[..., Any]:
        """Return what torch.compile makes of a forward, as `generate` has it."""
        ...


@frozen(kw_only=True)
class Decoding:
    """How tokens are chosen and when to stop.

    ``max_new_tokens`` counts as `generate` counts: the prefill chooses the first, each decode step one more.
    Generation also ends when every page has met one of ``stop_ids``; without any, nothing is read back from the device.
    ``switch_experts``: between prefill and decode, change the experts' implementation as `generate` would. ``mode``:
    eager, static, compiled or graph. ``room``: new tokens that a static cache has room for, 0 for as many as may be
    made; a warm-up needs the size of what it warms up. ``rehearse``: run a step, and undo it, before a graph is
    captured; a process that has decoded such a page before need not.
    """

    max_new_tokens: int = 32
    stop_ids: tuple[int, ...] = ()
    switch_experts: bool = True
    mode: str = "eager"
    room: int = 0
    rehearse: bool = True


class Generation(Protocol):
    """A batch of pages under way. ``logits`` are those of the newest forward, ``done`` whether all pages have ended."""

    tokens: torch.Tensor
    logits: torch.Tensor
    done: bool

    def read_prompt(self, features: object) -> None:
        """Run the prompt, its image features computed before, and choose the first token of every page."""
        ...

    def prepare(self, session: StepSession) -> None:
        """Make what decoding needs, between the prompt and the first decode step."""
        ...

    def decode(self, session: StepSession) -> None:
        """Make one decode step."""
        ...

    def written(self) -> torch.Tensor:
        """Return the new tokens, [pages, tokens]."""
        ...


def generation(network: Network, prompt: torch.Tensor, decoding: Decoding) -> Generation:
    """Return the generation that ``decoding.mode`` names, for prompts [pages, tokens]."""
    modes: dict[str, Callable[[Network, torch.Tensor, Decoding], Generation]]
    modes = {"eager": Growing, "static": Static, "compiled": Compiled, "graph": Graphed}
    return modes[decoding.mode](network, prompt, decoding)


class Growing:
    """Decoding with a cache that grows by concatenation, as users have it."""

    def __init__(self, network: Network, prompt: torch.Tensor, decoding: Decoding) -> None:
        self.network, self.tokens, self.prompt = network, prompt, prompt.shape[1]
        self.cache = DynamicCache(config=network.config.text_config)
        self.positions = torch.arange(prompt.shape[1], device=prompt.device).expand(prompt.shape[0], -1)
        self.stop = torch.tensor(decoding.stop_ids, device=prompt.device) if decoding.stop_ids else None
        self.open = torch.ones(prompt.shape[0], dtype=torch.int64, device=prompt.device)
        self.logits = torch.empty(0)
        self.done = False

    def read_prompt(self, features: object) -> None:
        """Run the prompt."""
        self._advance(self.tokens, mm_encoder_outputs={"image": features})

    def prepare(self, session: StepSession) -> None:
        """Make nothing."""

    def decode(self, session: StepSession) -> None:
        """Run one forward over the newest tokens."""
        with session.step("decode"):
            self._advance(self.tokens[:, -1:])

    def written(self) -> torch.Tensor:
        """Return the new tokens."""
        return self.tokens[:, self.prompt :]

    def _advance(self, ids: torch.Tensor, **extra: object) -> None:
        self.logits = _logits(self.network, ids, self.positions[:, -ids.shape[1] :], self.cache, **extra)
        self._append(_likeliest(self.logits))
        self.positions = torch.cat([self.positions, self.positions[:, -1:] + 1], dim=-1)

    def _append(self, chosen: torch.Tensor) -> None:
        """Append the tokens; where pages can end, replace what follows an end, and wait to hear whether all have."""
        if self.stop is not None:
            chosen = chosen * self.open + self.stop[0] * (1 - self.open)
            self.open = self.open & ~torch.isin(chosen, self.stop)
        self.tokens = torch.cat([self.tokens, chosen[:, None]], dim=-1)
        if self.stop is not None:
            self.done = bool(self.open.max() == 0)


class Static:
    """Decoding with a cache of fixed size and inputs at fixed addresses: a step reads and writes the same memory.

    ``held`` counts the keys in the cache, on the host: the cache's own count lies on the device.
    """

    def __init__(self, network: Network, prompt: torch.Tensor, decoding: Decoding) -> None:
        pages, count = prompt.shape
        device, slots = prompt.device, count + max(decoding.room, decoding.max_new_tokens)
        self.network, self.held, self.prompt = network, 0, count
        self.call: Callable[..., Any] = network
        self.cache = StaticCache(config=network.config.text_config, max_cache_len=slots)
        _allocate(self.cache, network, pages, device)
        self.tokens = torch.zeros((pages, slots), dtype=prompt.dtype, device=device)
        self.tokens[:, :count] = prompt
        self.ids = torch.zeros((pages, 1), dtype=prompt.dtype, device=device)
        self.positions = torch.full((pages, 1), count - 1, device=device)
        self.at = torch.full((1,), count, device=device)
        self.stop = torch.tensor(decoding.stop_ids, device=device) if decoding.stop_ids else None
        self.open = torch.ones(pages, dtype=torch.int64, device=device)
        self.logits = torch.empty(0)
        self.done = False

    def read_prompt(self, features: object) -> None:
        """Run the prompt into the cache."""
        prompt = self.tokens[:, : self.prompt]
        positions = torch.arange(self.prompt, device=prompt.device).expand(prompt.shape[0], -1)
        extra = {"mm_encoder_outputs": {"image": features}}
        self.logits = _logits(self.network, prompt, positions, self.cache, **extra)
        self._take()
        self.held = self.prompt
        self._look()

    def prepare(self, session: StepSession) -> None:
        """Make nothing."""

    def decode(self, session: StepSession) -> None:
        """Run one forward over the newest tokens."""
        with session.step("decode"):
            self.advance()
            self.held += 1
            self._look()

    def written(self) -> torch.Tensor:
        """Return the new tokens."""
        return self.tokens[:, self.prompt : self.held + 1]

    def advance(self) -> None:
        """Run a step on the device: nothing is read back, nothing but the step's own results changes its address."""
        self.logits = _logits(self.call, self.ids, self.positions, self.cache)
        self._take()

    def _take(self) -> None:
        """Write the likeliest tokens where the next step reads them, and behind those already written."""
        chosen = _likeliest(self.logits)
        if self.stop is not None:
            chosen = chosen * self.open + self.stop[0] * (1 - self.open)
            self.open.mul_((chosen[:, None] != self.stop).all(dim=-1))
        self.ids.copy_(chosen[:, None])
        self.tokens.index_copy_(1, self.at, self.ids)
        self.at.add_(1)
        self.positions.add_(1)

    def _look(self) -> None:
        """Where pages can end, wait to hear whether all have."""
        if self.stop is not None:
            self.done = bool(self.open.max() == 0)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Put back, when the block ends, what a step changes: the next one then writes the same places again."""
        counts = [layer.cumulative_length for layer in self.cache.layers]
        changed = [self.ids, self.positions, self.at, self.open, self.tokens, *counts]
        before = [tensor.clone() for tensor in changed]
        try:
            yield
        finally:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)


class Compiled(Static):
    """A static step that torch.compile makes code of, as `generate` does with a static cache; on a GPU a CUDA graph."""

    def prepare(self, session: StepSession) -> None:
        """Compile the step: run it once unrecorded, and undo it. The next run is captured, and all others replayed."""
        self.call = self.network.get_compiled_call(None)
        with session.muted(), self.undone():
            self.advance()


class Graphed(Static):
    """A static step captured once, choice of tokens included, and launched whole for every token."""

    def __init__(
        self, network: Network, prompt: torch.Tensor, decoding: Decoding, make: Callable[[], StepGraph] | None = None
    ) -> None:
        if make is None and prompt.device.type != "cuda":
            raise Unavailable("CUDA graphs need a CUDA device; decode eager or static on the CPU")
        super().__init__(network, prompt, decoding)
        self.graph = (make or CudaGraph)()
        self._rehearse = decoding.rehearse

    def prepare(self, session: StepSession) -> None:
        """Capture the step. Nothing of it runs, so the state is that before the first decode step."""
        if self._rehearse:
            with session.muted(), self.undone():
                self.graph.rehearse(self.advance)
        self.graph.capture(self.advance, session.captured("decode"))

    def decode(self, session: StepSession) -> None:
        """Launch the graph."""
        with session.step("decode"):
            session.replayed(self.held + 1)
            self.graph.replay()
            self.held += 1
            self._look()
        session.launched()


def _allocate(cache: StaticCache, network: Network, pages: int, device: torch.device) -> None:
    """Make the cache's memory now: its first use would make it inside the first layers' time."""
    text = network.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype = next(network.model.language_model.parameters()).dtype
    cache.early_initialization(pages, heads, width, dtype, device)


def _logits(
    call: Callable[..., Any], ids: torch.Tensor, positions: torch.Tensor, cache: object, **extra: object
) -> Any:
    return call(
        input_ids=ids,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        return_dict=True,
        **{CACHE_ARGUMENT: cache},
        **extra,
    ).logits


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1].to(copy=True, dtype=torch.float32).argmax(dim=-1)
