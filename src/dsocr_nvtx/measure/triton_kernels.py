"""Triton kernels that do one thing as fast as the chip can: read, write, copy, read the L2, multiply and add.

Imported only where Triton is installed. Loads are 16 bytes wide and independent; nothing is computed that is not asked
for, and what is read is summed, so that no compiler can leave the reading out.
"""

# Triton reads these functions as source; annotations would mean something else to it.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def read_kernel(source, partial, count, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):  # noqa: D103, N803
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(BLOCKS):
        at = first + i * BLOCK + lanes
        total += tl.load(source + at, mask=at < count, other=0.0, eviction_policy="evict_first")
    tl.store(partial + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def write_kernel(target, value, count, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):  # noqa: D103, N803
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    lanes = tl.arange(0, BLOCK)
    for i in tl.static_range(BLOCKS):
        at = first + i * BLOCK + lanes
        tl.store(target + at, tl.zeros([BLOCK], tl.float32) + value, mask=at < count)


@triton.jit
def copy_kernel(source, target, count, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):  # noqa: D103, N803
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    lanes = tl.arange(0, BLOCK)
    for i in tl.static_range(BLOCKS):
        at = first + i * BLOCK + lanes
        tl.store(target + at, tl.load(source + at, mask=at < count), mask=at < count)


@triton.jit
def l2_kernel(source, partial, blocks, repeats, BLOCK: tl.constexpr):  # noqa: D103, N803
    # Every program reads another block in each round, and past the L1 (.cg), so that only the L2 can serve it.
    pid = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(repeats):
        block = (pid + i * 37) % blocks
        total += tl.load(source + block * BLOCK + lanes, cache_modifier=".cg")
    tl.store(partial + pid, tl.sum(total, axis=0))


@triton.jit
def fma_kernel(target, factor, term, repeats, BLOCK: tl.constexpr, UNROLL: tl.constexpr):  # noqa: D103, N803
    # BLOCK / threads independent chains per thread; each step is one fused multiply-add per element.
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32)
    for _ in range(repeats):
        for _ in tl.static_range(UNROLL):
            x = x * factor + term
    tl.store(target + at, x)


@triton.jit
def empty_kernel(target):  # noqa: D103
    pass
