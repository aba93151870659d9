"""Layers through torch.compile on one GPU: their cost, whether tokens stay equal, and where kernels lie. Needs nsys.

    python3 reports/compile_check.py -o DIR [--only generate model forward]

Three ways to compile a decode step: as `generate` does with a static cache, `torch.compile(model)`, and the decoder's
``forward`` alone. Each runs twice: timed without a tool, unhooked, hooked and unhooked again in one process; then under
nsys through nsys_scripts/profile.sh, joined. Writes ``compile_check.json``, ``compile_check.md`` and ``WAY.sqlite``.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAYS = ("generate", "model", "forward")
TOKENS, ROUNDS, SKIPPED = 64, 9, 2
IMAGE_TOKENS, TEXT_TOKENS = 273, 10
"""A page of mode base, 16 x 16 image tokens with their line ends, and a few words."""


def main() -> None:
    """Run every way in processes of its own; write what came out after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--child", choices=("timed", "profiled"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        json.dump((timed if asked.child == "timed" else profiled)(asked.only[0]), asked.out.open("w"))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for way in asked.only:
        found[way] = _both(asked.out, way)
        (asked.out / "compile_check.json").write_text(json.dumps(found, indent=1))
        (asked.out / "compile_check.md").write_text(page(found))
        print(way, found[way], flush=True)


def _both(out: Path, way: str) -> dict[str, Any]:
    report, profile = out / way, Path(__file__).parents[1] / "nsys_scripts" / "profile.sh"
    child = [sys.executable, __file__, "--only", way, "-o", str(out / "child.json"), "--child"]
    found: dict[str, Any] = {}
    for name, words in (("timed", child), ("profiled", ["bash", str(profile), "-o", str(report), *child])):
        done = subprocess.run([*words, name], check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            return found | {f"{name} failed": done.stderr[:3000] + done.stderr[-3000:]}
        found |= json.loads((out / "child.json").read_text())
    sqlite = f"{report}.sqlite"
    for words in (
        ["nsys", "export", "-t", "sqlite", "--force-overwrite", "true", "-o", sqlite, f"{report}.nsys-rep"],
        [sys.executable, "-m", "dsocr_nvtx", "join", sqlite, "-o", f"{report}.dsocr", "--force"],
    ):
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603
    return found | joined(Path(f"{report}.dsocr"))


def timed(way: str) -> dict[str, Any]:
    """Return step times without hooks, with them, and without again, and how long the tokens stay the same.

    Tokens are held against those of the first time; those of the same steps uncompiled say what compiling changes.
    """
    from dsocr_nvtx.hooks import hook

    clock: list[int] = []
    with prepared(way, clock) as (model, make):
        plain = make(False)(TOKENS)
        bare, tokens = times(make(True), clock)
        with hook(model) as session:
            hooked, seen = times(make(True), clock)
        again, repeated = times(make(True), clock)
        others = {"hooked": seen, "again": repeated, "uncompiled": plain}
        return {
            "bare_ms": bare, "hooked_ms": hooked, "again_ms": again, "errors": session.errors,
            "first_other_token": {name: first_other(tokens, other) for name, other in others.items()},
        }  # fmt: skip


def times(run: Callable[[int], Any], clock: list[int]) -> tuple[list[float], Any]:
    """Return the median decode step of each round, in ms, and the tokens of the last."""
    warm(run)
    rounds, tokens = [], None
    for _ in range(ROUNDS):
        clock.clear()
        tokens = run(TOKENS)
        each = sorted(after - before for before, after in itertools.pairwise(clock))
        rounds.append(statistics.median(each[SKIPPED:-SKIPPED]) / 1e6)
    return rounds, tokens


def first_other(one: Any, other: Any) -> int | None:
    """Return the place of the first token in which two texts differ, None where they do not."""
    places = (one != other)[0].nonzero()
    return int(places[0, 0]) if len(places) else None


def profiled(way: str) -> dict[str, Any]:
    """Run as a user would: hooks around, two calls to warm up, then the one that counts."""
    from dsocr_nvtx.hooks import hook

    with prepared(way, []) as (model, make), hook(model) as session:
        warm(make(True))(TOKENS)
        return {"checks": session.checks.summary}


@contextmanager
def prepared(way: str, clock: list[int]) -> Iterator[tuple[Any, Callable[[bool], Callable[[int], Any]]]]:
    """Yield the model, and what makes the function, compiled or not, that generates so many tokens.

    Each step adds its time to ``clock``.
    """
    import torch

    from dsocr_nvtx.run.model import random_model, true_config

    config = true_config()
    torch.manual_seed(0)
    model: Any = random_model(config, device=torch.device("cuda"), dtype=torch.bfloat16)
    ids = torch.randint(5, 1000, (1, IMAGE_TOKENS + TEXT_TOKENS), device="cuda")
    ids[:, 1 : 1 + IMAGE_TOKENS] = config.image_token_id
    page = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 1024, 1024, device="cuda", dtype=torch.bfloat16)}

    def make(compiled: bool) -> Callable[[int], Any]:
        if way == "model":
            call = torch.compile(model, mode="reduce-overhead") if compiled else model
            return lambda count: by_hand(model, call, page, count, clock)
        model.model.language_model.__dict__.pop("forward", None) if way == "forward" and not compiled else None
        return by_generate(model, page, clock, compiled=compiled, alone=way == "forward")

    with torch.inference_mode():
        yield model, make


def by_generate(
    model: Any, page: dict[str, Any], clock: list[int], *, compiled: bool, alone: bool
) -> Callable[[int], Any]:
    """Return what generates with a static cache; ``alone``: the decoder's forward is compiled, by the user."""
    import torch

    def told(_ids: object, scores: Any) -> Any:
        clock.append(time.perf_counter_ns())
        return scores

    decoder, prompt = model.model.language_model, page["input_ids"].shape[1]
    if alone and compiled:
        decoder.__dict__.pop("forward", None)
        decoder.forward = torch.compile(decoder.forward)  # its CUDA graphs would need a mark before each step
    extra = {"cache_implementation": "static", "do_sample": False, "logits_processor": [told]}
    extra["disable_compile"] = alone or not compiled
    return lambda count: model.generate(**page, **extra, max_new_tokens=count, min_new_tokens=count)[:, prompt:]


def by_hand(model: Any, call: Callable[..., Any], page: dict[str, Any], count: int, clock: list[int]) -> Any:
    """Generate with a static cache in a loop of one's own; the prompt is not compiled. Waits for each token."""
    import torch
    from transformers import StaticCache

    from dsocr_nvtx.run.model import CACHE_ARGUMENT

    cache = StaticCache(config=model.config.text_config, max_cache_len=IMAGE_TOKENS + TEXT_TOKENS + TOKENS)
    rest = {CACHE_ARGUMENT: cache, "use_cache": True, "logits_to_keep": 1}
    logits, tokens = model(**page, **rest).logits, []
    for _ in range(count):
        tokens.append(logits[:, -1:].argmax(-1))
        torch.cuda.synchronize()
        clock.append(time.perf_counter_ns())
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        logits = call(input_ids=tokens[-1], **rest).logits
    return torch.cat(tokens, 1)


def warm(run: Callable[[int], Any]) -> Callable[[int], Any]:
    """Call twice: the first compiles, the second captures."""
    run(6), run(6)
    return run


def joined(folder: Path) -> dict[str, Any]:
    """Return where decode's kernel time lies, and what the steps of the last call hold."""
    from collections import Counter

    import pyarrow.compute as pc

    from dsocr_nvtx.report.opened import open_joined

    ranges = open_joined(folder).ranges
    decode = ranges.filter(pc.equal(ranges["stage"], "decode")).to_pylist()
    leaf = sum(r["kernel_ns"] for r in decode if r["level"] == "op" or r["kind"] in ("lm_head", "embed"))
    last = max(r["step"] for r in decode) - TOKENS + 2
    ran = [r for r in decode if r["step"] >= last and r["origin"] != "captured"]
    layers = Counter(r["step"] for r in ran if r["level"] == "layer" and r["layer"] is not None)
    heads = Counter(r["step"] for r in ran if r["kind"] == "lm_head")
    lengths = {r["step"]: r["kv_len"] for r in ran if r["path"] == "model"}
    first = min(lengths.values())
    return {
        "decode_kernel_ms": sum(r["kernel_ns"] for r in decode) / 1e6,
        "in_leaf_ranges": leaf / sum(r["kernel_ns"] for r in decode),
        "steps": len(layers),
        "layers_a_step": sorted(set(layers.values())),
        "lm_heads_a_step": sorted(set(heads.values())),
        "kv_right": [lengths[s] for s in sorted(lengths)] == list(range(first, first + len(lengths))),
        "first_kv": first,
        "unknown_costs": sum(r["cost_state"] == "unknown" for r in decode),
    }


def page(found: dict[str, Any]) -> str:
    """Return the table of all ways as Markdown."""
    heads = [
        "compiled",
        "unhooked, ms",
        "hooked, ms",
        "again, ms",
        "hooked, more",
        "first other token: hooked",
        "again",
    ]
    heads += ["uncompiled", "in leaf ranges", "layers", "lm_heads", "KV right"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for way, told in found.items():
        middle = [statistics.median(told.get(f"{name}_ms") or [0]) for name in ("bare", "hooked", "again")]
        more = f"{middle[1] / statistics.mean([middle[0], middle[2]]) - 1:+.1%}" if all(middle) else ""
        others = told.get("first_other_token", {})
        tokens = [str(others.get(name)) for name in ("hooked", "again", "uncompiled")]
        share = f"{told['in_leaf_ranges']:.1%}" if "in_leaf_ranges" in told else "failed"
        rest = [str(told.get(name)) for name in ("layers_a_step", "lm_heads_a_step", "kv_right")]
        lines.append(f"| {' | '.join([way, *(f'{ms:.3f}' for ms in middle), more, *tokens, share, *rest])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
