"""Weights packed into words, in groups that share a scale: AWQ, GPTQ and MLX, as their configurations say."""

import re
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Final

from attrs import frozen

from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.matrices import Matrix
from dsocr_nvtx.analytic.schemes import Scheme, check_pattern, listed_modules

GPTQ_BITS: Final = (2, 3, 4, 8)
MLX_BITS: Final = (2, 3, 4, 5, 6, 8)

HALF_BYTES: Final = 2
"""AWQ's and GPTQ's scales are float16."""
WORD_BITS: Final = 32
WORD_BYTES: Final = 4


@frozen(kw_only=True)
class _Way:
    """Bits of a weight, and the inputs that share a scale: 0 for all of them."""

    bits: int
    group: int

    @classmethod
    def of(cls, section: Section, known: Sequence[int], default: "_Way | None" = None) -> "_Way":
        """Return what a section says, completed by what holds for the others."""
        bits = section.count("bits", (default.bits or None) if default else None)
        if bits not in known:
            raise section.refuse("bits", f"is {bits}, not one of {', '.join(map(str, known))}")
        if default is not None and not section.has("group_size"):
            return cls(bits=bits, group=default.group)
        return cls(bits=bits, group=_group(section, "group_size"))


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
    whole = _Way.of(section, GPTQ_BITS, _Way(bits=0, group=128))
    kept, only = listed_modules(section, "modules_to_not_convert") or (), _inside_blocks(section)
    head, decoder = section.flag("lm_head", False), _decoder_but(section, kept)
    rules = _dynamic(section, whole)

    def way(matrix: Matrix) -> _Way | None:
        return next((found for pattern, found in rules if pattern.match(matrix.name)), whole)

    def size(matrix: Matrix) -> int:
        found = way(matrix) or whole
        groups = _groups(matrix.inner, found.group)
        words = ceil(matrix.inner * found.bits / WORD_BITS) * matrix.columns
        zeros = ceil(matrix.columns * found.bits / WORD_BITS) * groups
        order = matrix.inner  # which group each input belongs to
        return WORD_BYTES * (words + zeros + order) + HALF_BYTES * groups * matrix.columns

    def stores(matrix: Matrix) -> bool:
        chosen = head if matrix.tower == "lm_head" else decoder(matrix) and (only is None or matrix.is_named(only))
        return chosen and way(matrix) is not None

    said = f"gptq, {whole.bits} bits, {_said(whole.group)}" + (f", {len(rules)} rules otherwise" if rules else "")
    return Scheme(said=said, stores=stores, size=size, listed=(*kept, *(only or ())))


def _dynamic(section: Section, whole: "_Way") -> list[tuple[re.Pattern[str], "_Way | None"]]:
    """Return GPTQ's rules for modules by the beginning of their names, the first to fit holds; None: not packed."""
    if not section.has("dynamic"):
        return []
    rules: list[tuple[re.Pattern[str], _Way | None]] = []
    for name in section.section("dynamic").source:
        pattern = re.compile(check_pattern(section, "dynamic", name.removeprefix("+:").removeprefix("-:")))
        inside = None if name.startswith("-:") else section.section("dynamic").section(name)
        rules.append((pattern, _Way.of(inside, GPTQ_BITS, whole) if inside is not None else None))
    return rules


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
    whole = _mlx_way(section, None)
    found = section.source if isinstance(section.source, dict) else vars(section.source)
    settings = {"group_size", "bits", "mode", "quant_method"}
    ways: dict[str, _Way | None] = {}
    for name, value in found.items():
        if name not in settings:
            ways[_bare(name)] = _override(section, name, value, whole)

    def way(matrix: Matrix) -> _Way | None:
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


def _override(section: Section, name: str, value: Any, whole: _Way) -> _Way | None:
    """Return how MLX stores one module: its own bits and groups, as all others, or not at all."""
    if isinstance(value, bool):
        return whole if value else None
    if not isinstance(value, dict):
        raise section.refuse(name, f"is {value!r}: neither a module's bits nor a setting that is known")
    inside = Section(value, f"{section.path}.{name}")
    return _mlx_way(inside, whole)


def _mlx_way(section: Section, default: _Way | None) -> _Way:
    section.word("mode", "affine", ("affine",))
    section.count("group_size", default.group if default else None)  # there is always one
    return _Way.of(section, MLX_BITS, default)


def _bare(name: str) -> str:
    """Return a module's name without what libraries put before it."""
    return re.sub(r"^(?:language_model\.|model\.)+", "", name)
