"""What a scheduler hands its runner for one step: how many rows of which sequences, and what these have in the cache.

Fields are looked for by name, on whatever class a version has; one that is missing makes the step `Unreadable`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import field, frozen

from dsocr_nvtx.hooks.caches import Unreadable
from dsocr_nvtx.schema.records import CallShape, Stage
from dsocr_nvtx.schema.served import ServedSequence

_PROMPTS = ("prefill_token_ids", "prompt_token_ids", "prompt_embeds")
"""Fields of a new request that are as long as what is prefilled: what was decoded before a pause is prefilled again."""


@frozen(eq=False)
class ScheduleReader:
    """Reads vLLM's ``SchedulerOutput``, step by step; ``prefilled``: the keys from which on each request decodes."""

    prefilled: dict[str, int] = field(factory=dict)
    _prompts: dict[str, int] = field(factory=dict)

    def __call__(self, output: Any) -> list[ServedSequence]:
        """Return the sequences of a step, in the order in which they are scheduled; none where nothing is run."""
        rows = told(output, "num_scheduled_tokens")
        for name in told(output, "finished_req_ids"):
            self.prefilled.pop(name, None)
            self._prompts.pop(name, None)
        before = dict(self._new(told(output, "scheduled_new_reqs")))
        before.update(self._cached(told(output, "scheduled_cached_reqs")))
        unknown = [name for name in rows if name not in before or name not in self.prefilled]
        if unknown:
            raise Unreadable(f"request {unknown[0]} is scheduled, and was never seen before")
        return [
            ServedSequence(name, count, before[name] + count, before[name] >= self.prefilled[name])
            for name, count in rows.items()
            if count
        ]

    def _new(self, requests: Any) -> Iterable[tuple[str, int]]:
        """Yield name and cached keys of requests that are scheduled for the first time."""
        for request in requests:
            name = told(request, "req_id")
            prompt = next((getattr(request, p) for p in _PROMPTS if getattr(request, p, None) is not None), None)
            if prompt is None:
                raise Unreadable(f"a new request without {' or '.join(_PROMPTS)}")
            self._prompts[name] = self.prefilled[name] = len(prompt)
            yield name, told(request, "num_computed_tokens")

    def _cached(self, requests: Any) -> Iterable[tuple[str, int]]:
        """Yield name and cached keys of the others. What one had decoded before a pause is prefilled again."""
        names, keys = told(requests, "req_ids"), told(requests, "num_computed_tokens")
        resumed = told(requests, "resumed_req_ids") if names else ()
        for number, name in enumerate(names):
            if name in resumed:
                self.prefilled[name] = self._prompts.get(name, 0) + told(requests, "num_output_tokens")[number]
            yield name, keys[number]


def told(source: Any, name: str) -> Any:
    """Return what an object tells under a name; a name that it has not makes the step unreadable."""
    try:
        return getattr(source, name)
    except AttributeError as error:
        raise Unreadable(f"{type(source).__name__} without {name}") from error


def stage_of(sequences: Sequence[ServedSequence]) -> Stage:
    """Return the stage of a step: mixed where some of its sequences decode and others do not."""
    decoding = sum(sequence.decodes for sequence in sequences)
    if 0 < decoding < len(sequences):
        return Stage.MIXED
    return Stage.DECODE if decoding else Stage.PREFILL


def shape_of(sequences: Sequence[ServedSequence]) -> CallShape:
    """Return the shape of a step's forward. The kernels load no key past the last, so no more are counted."""
    return CallShape.of_sequences((sequence.rows, sequence.keys) for sequence in sequences)
