"""Dense matrix products on random data: zeros run faster than real data, and would lift the roof too high."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

import torch
from attrs import frozen

from dsocr_nvtx.measure.subjects import Call, Subject

Shape = tuple[int, int, int]

_TILE: Final = (128, 256)
"""Rows and columns of the tile that the fastest kernels of recent GPUs compute per multiprocessor."""


@frozen
class _Kind:
    """An element type: torch's name, the precision setting of float32 products, the largest side worth its time."""

    dtype: str
    element: torch.dtype
    precision: str
    largest: int


_KINDS: Final = (
    _Kind("bfloat16", torch.bfloat16, "highest", 16384),
    _Kind("float16", torch.float16, "highest", 16384),
    _Kind("tfloat32", torch.float32, "high", 16384),
    _Kind("float32", torch.float32, "highest", 8192),
)


def product_subjects(sm_count: int, capability: tuple[int, int], *, quick: bool) -> list[Subject]:
    """Return products of every element type that the device has matrix units or full rate for, over a size sweep.

    Besides cubes there is one shape whose tiles fill all multiprocessors a whole number of times. Layouts: ``A @ B``,
    and ``A @ B.T`` as linear layers have it.
    """
    shapes = product_shapes(sm_count, quick=quick)
    found = []
    for kind in _KINDS:
        for shape in shapes:
            if max(shape) <= max(kind.largest, 2 * 8192 if kind.largest > 8192 else 9500):
                found += [_plain(kind, shape, transposed) for transposed in ((True,) if quick else (True, False))]
    if capability >= (8, 9) and hasattr(torch, "float8_e4m3fn"):
        found += [_scaled(shape) for shape in shapes]
    return found


def product_shapes(sm_count: int, *, quick: bool) -> list[Shape]:
    """Return (m, n, k) of the sweep."""
    fitted = fitted_shape(sm_count)
    sides = (8192,) if quick else (2048, 4096, 8192, 16384)
    return [*((side, side, side) for side in sides), fitted]


def fitted_shape(sm_count: int) -> Shape:
    """Return a product near 8192 on a side whose tiles fill every multiprocessor equally often."""
    p = max(d for d in range(1, int(sm_count**0.5) + 1) if sm_count % d == 0)
    q = sm_count // p
    m = _TILE[0] * p * max(1, round(8192 / (_TILE[0] * p)))
    n = _TILE[1] * q * max(1, round(8192 / (_TILE[1] * q)))
    return m, n, 8192


def _subject(
    dtype: str, shape: Shape, kernel: str, size: int, make: Callable[[], AbstractContextManager[Call]]
) -> Subject:
    m, n, k = shape
    return Subject(
        quantity="matmul",
        dtype=dtype,
        shape=f"{m}x{n}x{k}",
        bytes=size * (m * k + k * n + m * n),
        kernel=kernel,
        work=2.0 * m * n * k,
        unit="FLOP/s",
        make=make,
    )


def _plain(kind: _Kind, shape: Shape, transposed: bool) -> Subject:
    kernel = "torch.mm(A, B.T)" if transposed else "torch.mm(A, B)"
    make = partial(_open_plain, kind.element, kind.precision, shape, transposed)
    return _subject(kind.dtype, shape, kernel, kind.element.itemsize, make)


@contextmanager
def _open_plain(element: torch.dtype, precision: str, shape: Shape, transposed: bool) -> Iterator[Call]:
    m, n, k = shape
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        a = torch.randn(m, k, device="cuda", dtype=element)
        b = torch.randn(n, k, device="cuda", dtype=element).t() if transposed else _random(k, n, element)
        out = torch.empty(m, n, device="cuda", dtype=element)
        yield lambda: torch.mm(a, b, out=out)
    finally:
        torch.set_float32_matmul_precision(before)


def _random(rows: int, columns: int, element: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns, device="cuda", dtype=element)


def _scaled(shape: Shape) -> Subject:
    kernel = "torch._scaled_mm, fast accumulation, bfloat16 out"
    return _subject("float8_e4m3fn", shape, kernel, 1, partial(_open_scaled, shape))


@contextmanager
def _open_scaled(shape: Shape) -> Iterator[Call]:
    m, n, k = shape
    a = _random(m, k, torch.bfloat16).to(torch.float8_e4m3fn)
    b = _random(n, k, torch.bfloat16).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda", dtype=torch.float32)
    yield lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)
