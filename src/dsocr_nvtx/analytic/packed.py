"""Weights packed into words, in groups that share a scale: AWQ, GPTQ and MLX, as their configurations say."""

import re
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Final

from attrs import frozen

from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.matrices import Matrix
from dsocr_nvtx.analytic.schemes import Scheme, listed_modules

HALF_BYTES: Final = 2
"""AWQ's and GPTQ's scales are float16."""
WORD_BITS: Final = 32
WORD_BYTES: Final = 4


def awq(section: Section) -> Scheme:
    """Return AWQ's four bits."""
    section.word("version", "gemm", ("gemm", "GEMM"))
    section.word("format", "gemm", ("gemm",))
    bits = section.count("bits", section.count("w_bit", 4))
    if bits != 4:
        raise section.refuse("bits", f"is {bits}; AWQ packs four")
    group, kept = _group(section, "group_size", "q_group_size"), listed_modules(section, "modules_to_not_convert") or ()

    def size(matrix: Matrix) -> int:
        groups = _groups(matrix.inner, group)
        packed = ceil(matrix.columns * bits / WORD_BITS) * WORD_BYTES
        return matrix.inner * packed + groups * (packed + HALF_BYTES * matrix.columns)

    return Scheme(said=f"awq, 4 bits, {_said(group)}", stores=_decoder_but(section, kept), size=size, listed=kept)


def gptq(section: Section) -> Scheme:
    """Return GPTQ's packed words, with zeros, scales and the order of inputs."""
    for name in ("checkpoint_format", "format"):
        section.word(name, "gptq", ("gptq", "gptq_v2"))
    if section.has("dynamic"):
        raise section.refuse("dynamic", "is set: bits that differ from module to module are not known")
    bits, group = section.count("bits"), _group(section, "group_size")
    if bits not in (2, 3, 4, 8):
        raise section.refuse("bits", f"is {bits}; GPTQ packs 2, 3, 4 or 8")
    kept, only = listed_modules(section, "modules_to_not_convert") or (), _inside_blocks(section)
    head, decoder = section.flag("lm_head", False), _decoder_but(section, kept)

    def size(matrix: Matrix) -> int:
        words = ceil(matrix.inner * bits / WORD_BITS) * matrix.columns
        zeros = ceil(matrix.columns * bits / WORD_BITS) * _groups(matrix.inner, group)
        order = matrix.inner  # which group each input belongs to
        return WORD_BYTES * (words + zeros + order) + HALF_BYTES * _groups(matrix.inner, group) * matrix.columns

    def stores(matrix: Matrix) -> bool:
        if matrix.tower == "lm_head":
            return head
        return decoder(matrix) and (only is None or matrix.is_named(only))

    listed = (*kept, *(only or ()))
    return Scheme(said=f"gptq, {bits} bits, {_said(group)}", stores=stores, size=size, listed=listed)


def _inside_blocks(section: Section) -> tuple[str, ...] | None:
    """Return the names of those linear layers of a block that GPTQ was told to pack: lists of lists of them."""
    if not section.has("modules_in_block_to_quantize"):
        return None
    values = section.given("modules_in_block_to_quantize")["modules_in_block_to_quantize"]
    flat = [name for value in values for name in ([value] if isinstance(value, str) else value)]
    return listed_modules(Section({"modules_in_block_to_quantize": flat}, section.path), "modules_in_block_to_quantize")


def _decoder_but(section: Section, kept: Sequence[str]) -> Callable[[Matrix], bool]:
    def stores(matrix: Matrix) -> bool:
        if matrix.tower != "decoder" or matrix.is_named(kept):
            return False
        if matrix.kind == "experts":
            raise section.refuse("quant_method", "packs linear layers, but this layout keeps experts in one module")
        return True

    return stores


def _group(section: Section, *names: str) -> int:
    """Return the inputs that share a scale; 0 for all of them."""
    for name in names:
        if section.has(name):
            return 0 if section.given(name)[name] == -1 else section.count(name)
    return 128


def _groups(inner: int, group: int) -> int:
    """Return the groups of a matrix's inputs; a last one that is not full has its own scale."""
    return ceil(inner / group) if group else 1


def _said(group: int) -> str:
    return f"groups of {group}" if group else "one group"


def mlx(section: Section, plain_bytes: int) -> Scheme:
    """Return MLX's packed words, with a scale and a bias of ``plain_bytes`` per group; modules may differ."""
    whole = _MlxWay.of(section)
    found = section.source if isinstance(section.source, dict) else vars(section.source)
    settings = {"group_size", "bits", "mode", "quant_method"}
    ways: dict[str, _MlxWay | None] = {}
    for name, value in found.items():
        if name not in settings:
            ways[_bare(name)] = _override(section, name, value, whole)

    def way(matrix: Matrix) -> _MlxWay | None:
        if _bare(matrix.name) in ways:
            return ways[_bare(matrix.name)]
        joint = re.sub(r"experts\.\d+", "switch_mlp", _bare(matrix.name))
        if joint in ways:
            return ways[joint]
        return None if matrix.tower in ("sam", "clip") else whole

    def stores(matrix: Matrix) -> bool:
        found = way(matrix)
        return found is not None and matrix.inner % found.group == 0

    def size(matrix: Matrix) -> int:
        found = way(matrix) or whole
        groups = matrix.weights // found.group
        return matrix.weights * found.bits // 8 + 2 * plain_bytes * groups  # a scale and a bias each

    listed = tuple(re.escape(name).replace("switch_mlp", r"experts(?:\.\d+)?") for name in ways)
    more = f", {len(ways)} modules otherwise" if ways else ""
    return Scheme(
        said=f"MLX, {whole.bits} bits, groups of {whole.group}{more}",
        stores=stores,
        size=size,
        listed=listed,
        anywhere=True,
    )


@frozen(kw_only=True)
class _MlxWay:
    """Bits of a weight, and the inputs that share a scale and a bias."""

    bits: int
    group: int

    @classmethod
    def of(cls, section: Section, default: "_MlxWay | None" = None) -> "_MlxWay":
        """Return what a section says, completed by what holds for the others."""
        section.word("mode", "affine", ("affine",))
        bits = section.count("bits", default.bits if default else None)
        group = section.count("group_size", default.group if default else None)
        if bits not in (2, 3, 4, 5, 6, 8):
            raise section.refuse("bits", f"is {bits}; MLX packs 2, 3, 4, 5, 6 or 8")
        return cls(bits=bits, group=group)


def _override(section: Section, name: str, value: Any, whole: _MlxWay) -> _MlxWay | None:
    """Return how MLX stores one module: its own bits and groups, as all others, or not at all."""
    if isinstance(value, bool):
        return whole if value else None
    if not isinstance(value, dict):
        raise section.refuse(name, f"is {value!r}: neither a module's bits nor a setting that is known")
    return _MlxWay.of(Section(value, f"{section.path}.{name}"), whole)


def _bare(name: str) -> str:
    """Return a module's name without what libraries put before it."""
    return re.sub(r"^(?:language_model\.|model\.)+", "", name)
