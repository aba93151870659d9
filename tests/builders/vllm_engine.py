"""vLLM's model runners of both generations and what its scheduler hands them, small: names, fields and call habits."""

from types import SimpleNamespace
from typing import Any

import torch
from attrs import define, field

from tests.builders.vllm_model import CONTEXT, vllm_config, vllm_model

Asked = tuple[str, int]
"""A request and how many of its rows a step runs."""


@define
class Scheduler:
    """Hands out steps: what is new, what was seen before, and how far each request is."""

    prompts: dict[str, int] = field(factory=dict)
    computed: dict[str, int] = field(factory=dict)
    finished: set[str] = field(factory=set)
    resumed: set[str] = field(factory=set)

    def step(self, *asked: Asked, **prompts: int) -> Any:
        """Return what is scheduled: rows by request; ``prompts`` are those of new requests."""
        new, old = list[str](), list[str]()
        for name, _ in asked:
            (new if name in prompts else old).append(name)
        self.prompts |= prompts
        cached = SimpleNamespace(
            req_ids=old, num_computed_tokens=[self.computed[name] for name in old],
            num_output_tokens=[max(self.computed[name] - self.prompts[name] + 1, 0) for name in old],
            resumed_req_ids=self.resumed & set(old),
        )  # fmt: skip
        made = SimpleNamespace(
            scheduled_new_reqs=[
                SimpleNamespace(req_id=name, num_computed_tokens=0, prompt_token_ids=[1] * prompts[name])
                for name in new
            ],
            scheduled_cached_reqs=cached, num_scheduled_tokens=dict(asked),
            total_num_scheduled_tokens=sum(rows for _, rows in asked), finished_req_ids=self.finished,
        )  # fmt: skip
        for name, rows in asked:
            self.computed[name] = self.computed.get(name, 0) + rows
        self.finished, self.resumed = set(), set()
        return made

    def finish(self, name: str) -> None:
        """Say with the next step that a request is over."""
        self.finished.add(name)


class Sampler:
    """Takes the likeliest token."""

    def apply_logits_processors(self, logits: torch.Tensor) -> torch.Tensor:
        """Change nothing."""
        return logits

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return a token a row."""
        return self.apply_logits_processors(logits).argmax(-1)


class GPUModelRunner:
    """The first generation: a method of the runner's runs the forward; sampling is a call of its own.

    ``padding``: the sizes to which decode steps are padded. ``images``: those of the next step.
    """

    def __init__(self, padding: tuple[int, ...] = ()) -> None:
        self.vllm_config, self.sampler, self.padding = vllm_config(), Sampler(), padding
        self.images: dict[str, torch.Tensor] | None = None
        self.encoded: list[torch.Tensor] = []
        self.state: Any = None
        self.model: Any = None

    def load_model(self) -> None:
        """Build the model."""
        CONTEXT.cached.clear()
        self.model = vllm_model()

    def get_model(self) -> Any:
        """Return the model."""
        return self.model

    def execute_model(self, scheduler_output: Any, intermediate_tensors: None = None) -> Any:
        """Run a step but for its sampling."""
        assert intermediate_tensors is None
        if not scheduler_output.total_num_scheduled_tokens:
            return "nothing"
        embedded, positions = self.inputs(scheduler_output)
        hidden = self._model_forward(input_ids=None, positions=positions, inputs_embeds=embedded)
        self.state = self.model.compute_logits(hidden[last_rows(scheduler_output)])
        return None

    def inputs(self, scheduler_output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings and positions, padded."""
        scheduled = scheduler_output.num_scheduled_tokens
        CONTEXT.sequences = list(scheduled.items())
        self._execute_mm_encoder(scheduler_output)
        rows = sum(scheduled.values())
        embedded = self.model.embed_input_ids(torch.arange(rows) % 300, multimodal_embeddings=self.encoded)
        padded = next((size for size in self.padding if size >= rows), rows)
        self.encoded = []
        return torch.nn.functional.pad(embedded, (0, 0, 0, padded - rows)), torch.arange(padded)

    def _execute_mm_encoder(self, scheduler_output: Any) -> list[torch.Tensor]:
        assert scheduler_output is not None
        if self.images is not None:
            self.encoded = self.model.embed_multimodal(**self.images)
            self.images = None
        return self.encoded

    def _model_forward(self, input_ids: None, positions: torch.Tensor, inputs_embeds: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, positions=positions, inputs_embeds=inputs_embeds)

    def sample_tokens(self, grammar_output: None) -> Any:
        """Return the tokens of the step."""
        assert grammar_output is None
        return self.sampler(self.state)

    def profile_run(self) -> None:
        """Run the model as an engine does to measure memory: past the steps."""
        CONTEXT.sequences = [("profile", 8)]
        self.model(input_ids=None, positions=torch.arange(8), inputs_embeds=torch.zeros(8, 64))


class CudaGraphManager:
    """Launches whole graphs; what was captured is run here."""

    def __init__(self, runner: "GPUModelRunner2") -> None:
        self.runner = runner

    def run_fullgraph(self, desc: Any) -> Any:
        """Launch."""
        assert desc.num_tokens >= 1
        return type(self.runner.model).forward(self.runner.model, **self.runner.prepared)


class GPUModelRunner2(GPUModelRunner):
    """The second generation: calls the model itself, or launches a graph past it, and computes logits with sampling."""

    _model_forward = property()  # it has none

    def __init__(self, *, graphs: bool = False, padding: tuple[int, ...] = ()) -> None:
        super().__init__(padding)
        self.cudagraph_manager = CudaGraphManager(self)
        self.graphs, self.prepared = graphs, dict[str, Any]()

    def execute_model(self, scheduler_output: Any, intermediate_tensors: None = None, dummy_run: bool = False) -> Any:
        """Run a step but for its logits and sampling."""
        assert intermediate_tensors is None
        embedded, positions = self.inputs(scheduler_output)
        self.prepared = {"input_ids": None, "positions": positions, "inputs_embeds": embedded}
        if self.graphs and not dummy_run:
            hidden = self.cudagraph_manager.run_fullgraph(SimpleNamespace(num_tokens=len(positions)))
        else:
            hidden = self.model(**self.prepared)
        self.state = hidden[last_rows(scheduler_output)]
        return None

    def sample_tokens(self, grammar_output: None) -> Any:
        """Return the tokens of the step."""
        assert grammar_output is None
        return self.sampler(self.model.compute_logits(self.state))


def last_rows(scheduler_output: Any) -> torch.Tensor:
    """Return the last row of every sequence."""
    return torch.tensor(list(scheduler_output.num_scheduled_tokens.values())).cumsum(0) - 1


def one_page() -> dict[str, torch.Tensor]:
    """Return the images of one page: a global view and two tiles."""
    noise = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(1, 3, 128, 128, generator=noise),
        "images_crop": torch.randn(2, 3, 64, 64, generator=noise),
        "images_spatial_crop": torch.tensor([[2, 1]]),
    }
