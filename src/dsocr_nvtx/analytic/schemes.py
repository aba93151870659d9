"""How quantised weights lie, by the scheme that a configuration names: the bytes of a matrix, and which are stored so.

Each scheme's convention, by its own library:

- bitsandbytes: every linear layer but the head, or but what ``llm_int8_skip_modules`` lists. The library's own experts
  are no linear layers and stay; the vendor's are.
- fp8 in blocks: every linear layer and the experts, but the head or what ``modules_to_not_convert`` lists;
  vLLM's ``ignored_layers`` leave the head as it is besides.
- AWQ and GPTQ: the linear layers of the decoder's layers. Vision, projector, embeddings and head stay, the head but for
  GPTQ's ``lm_head``.
- MLX: every linear layer, the embeddings, the experts and the head, where groups divide the inputs; the vision towers
  stay.

Routers, norms, convolutions and tables of positions are never quantised.
"""

import re
from collections.abc import Callable
from math import ceil
from typing import Final

from attrs import frozen

from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.matrices import Matrix
from dsocr_nvtx.analytic.ops import FLOAT_BYTES

BNB_BLOCK: Final = 64
"""Weights that share a scale in bitsandbytes' four bits on CUDA."""
BNB_NESTED: Final = 256
"""Scales that share a scale where they are quantised in turn."""


@frozen(kw_only=True)
class Scheme:
    """A scheme in words, which matrices it stores, in how many bytes each, and the lists of modules it goes by.

    ``anywhere``: names in its lists need not begin where the library's would.
    """

    said: str
    stores: Callable[[Matrix], bool]
    size: Callable[[Matrix], int]
    listed: tuple[str, ...] = ()
    anywhere: bool = False


def listed_modules(section: Section, *names: str) -> tuple[str, ...] | None:
    """Return the first list of modules that is there, of those names."""
    for name in names:
        if section.has(name):
            values = section.given(name)[name]
            if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
                raise section.refuse(name, f"is {values!r}, not a list of modules")
            for value in values:
                check_pattern(section, name, value)
            return tuple(values)
    return None


def check_pattern(section: Section, name: str, pattern: str) -> str:
    """Return a module's name or a pattern for it, if it is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise section.refuse(name, f"holds {pattern!r}, which is no name and no pattern ({error})") from error
    return pattern


def bitsandbytes(section: Section) -> Scheme:
    """Return bitsandbytes' four or eight bits."""
    four = section.flag("load_in_4bit", False) or section.flag("_load_in_4bit", False)
    eight = section.flag("load_in_8bit", False) or section.flag("_load_in_8bit", False)
    if four == eight:
        raise section.refuse("load_in_4bit", "and load_in_8bit are both set or both not")
    skipped = listed_modules(section, "llm_int8_skip_modules")
    kept = ("lm_head",) if skipped is None else skipped
    if eight and section.flag("llm_int8_has_fp16_weight", False):
        raise section.refuse("llm_int8_has_fp16_weight", "is true: such weights are not stored in eight bits")
    nested, block = section.flag("bnb_4bit_use_double_quant", False), section.count("bnb_4bit_blocksize", BNB_BLOCK)
    kind = section.word("bnb_4bit_quant_type", "fp4", ("fp4", "nf4"))

    def four_bits(matrix: Matrix) -> int:
        blocks = ceil(matrix.weights / block)
        scales, table = FLOAT_BYTES * blocks, FLOAT_BYTES * 16
        if nested:
            scales = blocks + FLOAT_BYTES * (ceil(blocks / BNB_NESTED) + 256 + 1)  # their scales, table and mean
        return ceil(matrix.weights / 2) + scales + table

    def eight_bits(matrix: Matrix) -> int:
        return matrix.weights + FLOAT_BYTES * matrix.columns

    return Scheme(
        said=f"bitsandbytes, {f'{kind} in blocks of {block}' if four else 'int8'}{', scales quantised' * nested}",
        stores=lambda matrix: matrix.kind == "linear" and not matrix.is_named(kept),
        size=four_bits if four else eight_bits,
        listed=kept,
    )


def fp8(section: Section) -> Scheme:
    """Return fp8 with a scale per block or per matrix."""
    section.word("expert_dtype", "fp8", ("fp8",))
    if section.has("modules_to_convert"):
        raise section.refuse("modules_to_convert", "is set: fp8 embeddings are not known")
    listed, ignored = listed_modules(section, "modules_to_not_convert"), listed_modules(section, "ignored_layers")
    kept = ("lm_head", *(ignored or ())) if listed is None else (*listed, *(ignored or ()))
    block = section.counts("weight_block_size") if section.has("weight_block_size") else ()
    if block and len(block) != 2:
        raise section.refuse("weight_block_size", f"is {list(block)!r}, not two numbers")
    scale = 1 if section.word("scale_fmt", "float", ("float", "ue8m0")) == "ue8m0" else FLOAT_BYTES
    static = FLOAT_BYTES if section.word("activation_scheme", "dynamic", ("dynamic", "static")) == "static" else 0
    unpacked = section.flag("dequantize", False)

    def size(matrix: Matrix) -> int:
        scales = ceil(matrix.columns / block[0]) * ceil(matrix.inner / block[1]) if block else 1
        return matrix.weights + matrix.count * (max(scales, matrix.joined) * scale + static)

    return Scheme(
        said=f"fp8, {f'a scale per {block[0]}x{block[1]} block' if block else 'a scale per matrix'}",
        stores=lambda matrix: not unpacked and matrix.kind != "embedding" and not matrix.is_named(kept),
        size=size,
        listed=kept,
    )
