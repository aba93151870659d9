"""Memory bandwidth from DRAM and from the L2, and the rate of the vector units.

DRAM sizes are many times the L2, so that little of a pass finds what the last one left there. Where Triton is not
installed only torch's own kernels are timed: the L2 and the vector units then stay unmeasured, and the file says so.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Final

import torch
from attrs import frozen

from dsocr_nvtx.measure.subjects import Call, Subject

_BLOCK: Final = 4096
_BLOCKS: Final = (1, 4)
"""Blocks that one program moves, one variant each."""
_WIDTH: Final = 4
"""Bytes of float32."""


@frozen(kw_only=True)
class Chip:
    """What subjects depend on."""

    sm_count: int
    l2_bytes: int
    free_bytes: int


def triton_kernels() -> ModuleType | None:
    """Return our Triton kernels, or None where Triton cannot be imported."""
    try:
        from dsocr_nvtx.measure import triton_kernels as kernels
    except ImportError:
        return None
    return kernels


def memory_subjects(chip: Chip, kernels: Any, *, quick: bool) -> list[Subject]:
    """Return reads, writes and copies of buffers 32, 64 and 128 times the L2, as far as memory has room."""
    found = []
    for times in (32,) if quick else (32, 64, 128):
        # A multiple of every variant's step, so that no mask ever holds a lane back.
        step = _BLOCK * max(_BLOCKS) * _WIDTH
        size = times * chip.l2_bytes // step * step
        if 2 * size > chip.free_bytes * 0.8:
            continue
        found += _torch_memory(size)
        found += _triton_memory(size, kernels) if kernels is not None else []
    return found


def _traffic(
    quantity: str, size: int, kernel: str, moved: int, make: Callable[[], AbstractContextManager[Call]]
) -> Subject:
    return Subject(quantity=quantity, bytes=size, kernel=kernel, work=float(moved), unit="B/s", make=make)


def _torch_memory(size: int) -> list[Subject]:
    return [
        _traffic("read", size, "torch.sum", size, partial(_open, size, 1, lambda a: lambda: torch.sum(a[0]))),
        _traffic("read", size, "torch.amax", size, partial(_open, size, 1, lambda a: lambda: torch.amax(a[0]))),
        _traffic("write", size, "Tensor.fill_", size, partial(_open, size, 1, lambda a: lambda: a[0].fill_(1.5))),
        _traffic("write", size, "Tensor.zero_", size, partial(_open, size, 1, lambda a: a[0].zero_)),
        _traffic(
            "copy", 2 * size, "Tensor.copy_", 2 * size, partial(_open, size, 2, lambda a: lambda: a[1].copy_(a[0]))
        ),
    ]


def _triton_memory(size: int, kernels: Any) -> list[Subject]:
    found = []
    for blocks in _BLOCKS:
        name = f"Triton, {blocks} x {_BLOCK} float32 per program"
        grid = (size // (_WIDTH * _BLOCK * blocks),)
        options = {"BLOCK": _BLOCK, "BLOCKS": blocks, "num_warps": 8}
        read = partial(_open_read, size, kernels, grid, options)
        found += [
            _traffic("read", size, name, size, read),
            _traffic("write", size, name, size, partial(_open, size, 1, partial(_write, kernels, grid, options))),
            _traffic("copy", 2 * size, name, 2 * size, partial(_open, size, 2, partial(_copy, kernels, grid, options))),
        ]
    return found


@contextmanager
def _open(size: int, buffers: int, call: Callable[[list[torch.Tensor]], Call]) -> Iterator[Call]:
    """Yield a call over buffers of random numbers, ``size`` bytes each."""
    yield call([torch.rand(size // _WIDTH, device="cuda") for _ in range(buffers)])


def _write(kernels: Any, grid: tuple[int], options: dict[str, int], buffers: list[torch.Tensor]) -> Call:
    launch = kernels.write_kernel[grid]
    return lambda: launch(buffers[0], 1.5, buffers[0].numel(), **options)


def _copy(kernels: Any, grid: tuple[int], options: dict[str, int], buffers: list[torch.Tensor]) -> Call:
    launch = kernels.copy_kernel[grid]
    return lambda: launch(buffers[0], buffers[1], buffers[0].numel(), **options)


@contextmanager
def _open_read(size: int, kernels: Any, grid: tuple[int], options: dict[str, int]) -> Iterator[Call]:
    source = torch.rand(size // _WIDTH, device="cuda")
    partial_sums = torch.empty(grid[0], device="cuda")
    launch = kernels.read_kernel[grid]
    yield lambda: launch(source, partial_sums, source.numel(), **options)


def l2_subjects(chip: Chip, kernels: Any, *, quick: bool) -> list[Subject]:
    """Return reads of an eighth, a quarter and half of the L2, over and over in one launch, past the L1."""
    if kernels is None:
        return []
    found = []
    for part in (4,) if quick else (8, 4, 2):
        blocks = max(1, chip.l2_bytes // part // (_BLOCK * _WIDTH))
        programs, repeats = chip.sm_count * 8, 256
        work = programs * repeats * _BLOCK * _WIDTH
        make = partial(_open_l2, kernels, blocks, programs, repeats)
        name = f"Triton, {repeats} blocks of {_BLOCK} float32 per program, past the L1"
        found.append(_traffic("l2_read", blocks * _BLOCK * _WIDTH, name, work, make))
    return found


@contextmanager
def _open_l2(kernels: Any, blocks: int, programs: int, repeats: int) -> Iterator[Call]:
    source = torch.rand(blocks * _BLOCK, device="cuda")
    partial_sums = torch.empty(programs, device="cuda")
    launch = kernels.l2_kernel[(programs,)]
    yield lambda: launch(source, partial_sums, blocks, repeats, BLOCK=_BLOCK, num_warps=8)


def vector_subjects(chip: Chip, kernels: Any, *, quick: bool) -> list[Subject]:
    """Return float32 fused multiply-adds in registers, eight or sixteen independent chains per thread."""
    if kernels is None:
        return []
    found = []
    for block in (1024,) if quick else (1024, 2048):
        programs, repeats, unroll = chip.sm_count * 64, 64, 32
        name = f"Triton, fused multiply-add, {block // 128} chains per thread"
        found.append(
            Subject(
                quantity="vector",
                dtype="float32",
                kernel=name,
                work=2.0 * programs * block * repeats * unroll,
                unit="FLOP/s",
                make=partial(_open_vector, kernels, programs, block, repeats, unroll),
            )
        )
    return found


@contextmanager
def _open_vector(kernels: Any, programs: int, block: int, repeats: int, unroll: int) -> Iterator[Call]:
    target = torch.empty(programs * block, device="cuda")
    launch = kernels.fma_kernel[(programs,)]
    yield lambda: launch(target, 0.999, 0.25, repeats, BLOCK=block, UNROLL=unroll, num_warps=4)
