"""Runs through vLLM: what is asked of it and what is written, with a stand-in of its offline engine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.run import options
from dsocr_nvtx.run.served import ServedOptions, capture_served
from dsocr_nvtx.run.served_folder import write_model_folder

ASKED: list[dict[str, Any]] = []


class LLM:
    """Vllm's offline engine: keeps what it was built with, and writes page numbers."""

    def __init__(self, **arguments: Any) -> None:
        folder = Path(arguments["model"])
        ASKED.append({**arguments, "config": json.loads((folder / "config.json").read_text())})

    def generate(self, prompts: list[dict[str, Any]], sampling: Any, use_tqdm: bool) -> list[Any]:
        """Return as many tokens as are asked for."""
        assert not use_tqdm
        assert all(prompt["prompt"].startswith("<image>") for prompt in prompts)
        made = [SimpleNamespace(token_ids=(n,) * sampling.max_tokens, text=f"page {n}") for n in range(len(prompts))]
        return [SimpleNamespace(prompt_token_ids=[0] * 9, outputs=[one]) for one in made]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for vLLM, and give the environment back."""
    made: Any = ModuleType("vllm")
    made.LLM, made.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", made)
    before = dict(os.environ)
    ASKED.clear()
    yield
    os.environ.clear()
    os.environ.update(before)


def test_pages_go_through_the_engine_and_a_run_directory_comes_out(tmp_path: Path) -> None:
    """Tokens and text of every page, and what the run was."""
    out = capture_served(
        ServedOptions(copies=2, max_new_tokens=3, config="tiny", hooks=False, out=tmp_path / "run", warmup=0)
    )
    assert json.loads((out / "output.json").read_text()) == {"tokens": [[0] * 3, [1] * 3], "text": ["page 0", "page 1"]}
    told = json.loads((out / "run.json").read_text())
    assert (told["decode"], told["batch"], told["prompt_tokens"], told["decode_tokens"]) == ("vllm", 2, 9, 2)
    assert (ASKED[0]["load_format"], ASKED[0]["max_num_seqs"]) == ("dummy", 2)
    assert ASKED[0]["config"]["hidden_size"] == 256
    assert os.environ["DSOCR_NVTX"] == "0"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_what_is_said_to_the_engine_wins(tmp_path: Path) -> None:
    """Any argument of vLLM's LLM."""
    told = options.parse_engine_options('{"enforce_eager": true, "max_num_seqs": 3}')
    capture_served(
        ServedOptions(config="tiny", hooks=False, own_process=True, engine_options=told, out=tmp_path / "run", warmup=0)
    )
    assert (ASKED[0]["enforce_eager"], ASKED[0]["max_num_seqs"]) == (True, 3)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"


def test_a_hooked_run_keeps_its_compiled_code_apart_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """vLLM's cache does not know of hooks."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/somewhere")
    capture_served(ServedOptions(config="tiny", level="layer", out=tmp_path / "run", warmup=0))
    apart = os.environ["VLLM_CACHE_ROOT"]
    assert apart.startswith("/somewhere-dsocr-nvtx-")
    assert apart.endswith("-layer")
    assert f"kept apart from vLLM's own: {apart}" in capsys.readouterr().err
    assert os.environ["DSOCR_NVTX"] == "1"


@pytest.mark.parametrize("config", ["true", "tiny"])
def test_a_model_folder_describes_a_network(tmp_path: Path, config: str) -> None:
    """Its configuration is one that costs are known of, and its tokenizer has every id, the image's among them."""
    from tokenizers import Tokenizer

    write_model_folder(tmp_path, config)
    told = json.loads((tmp_path / "config.json").read_text())
    network = build_analytic_layers_from_config(told)
    assert len(network.layers) == told["num_hidden_layers"]
    assert network.vision.projector.columns == told["hidden_size"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == told["vocab_size"]
    ids = tokenizer.encode("<image>\nab").ids
    assert ids[0] == 0
    assert tokenizer.decode(ids[2:]) == "\nab"
    assert tokenizer.token_to_id("<image>") == ids[1]


def test_without_vllm_it_is_refused_in_one_line() -> None:
    """Nothing is built and nothing written."""
    code = (
        "import sys; sys.modules['vllm'] = None; sys.argv = ['run', '--engine', 'vllm']\n"
        "import importlib.util; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'vllm' else find(name, *more)\n"
        "from dsocr_nvtx.run.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == Unavailable.exit_code
    assert done.stderr.count("\n") == 1
    assert "--engine vllm needs vLLM" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--engine", "vllm", "--decode", "graph", "--power"), "--decode, --power: not with --engine vllm"),
        (("--engine-process",), "go with --engine vllm"),
        (("--engine", "vllm", "--engine-options", "eager"), "--engine-options is JSON"),
        (("--engine", "vllm", "--engine-options", "[1]"), "--engine-options names arguments"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], said: str) -> None:
    """Before anything is loaded."""
    from typer import Typer
    from typer.testing import CliRunner

    app = Typer()
    app.command()(options.run_command)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
