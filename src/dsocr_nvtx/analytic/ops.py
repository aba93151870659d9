"""The conventions: what counts as a FLOP and as a byte. Functions of integers, no state; every other module asks here.

- Tensor FLOPs: matrix products and convolutions, two per multiply-add, as `torch.utils.flop_counter` counts them.
  A bias is not part of the product there, so its addition is vector work here.
- Causal attention: the algorithm needs only the pairs of a query with the keys up to its own position. The
  "unmasked" count takes the full rectangle, which is what the counter (and a kernel without skipping) does.
- Vector FLOPs: per element by `VECTOR_FLOPS`; a transcendental function counts one, so the numbers are the same on
  any hardware. Casts, copies and gathers count nothing: they are bytes.
- Bytes, lower bound: each weight the call needs once, its inputs once, its outputs once, the new keys and values
  written once. What lies between two operators of one call could stay on chip.
- Keys and values read: all that the call attends to, its own included, since they are attended to in the cache; so
  the bytes read at every step are the bytes a dynamic cache then holds. A static cache's empty slots are no part of
  the lower bound, but of ``op_bytes`` and of the cache's size.
- Serving engines fuse more: a residual addition with its norm, gate and up in one product and SwiGLU in one kernel,
  and routed experts in one kernel that reads a hit expert's weights once per block of its rows.
- ``op_bytes``: operand and result bytes of the operators that PyTorch dispatches on a GPU, one by one, views and
  allocations free. Fused attention is one operator. Indexed reads and writes count the elements they touch
  (``weight[ids]`` reads what it returns, an expanded operand what it stands on), since no kernel moves the rest.
"""

import math
from functools import cache
from typing import Final

from dsocr_nvtx.schema.records import causal_pairs

VECTOR_FLOPS: Final[dict[str, int]] = {
    "add": 1,  # a bias, a residual, a position embedding, a sum of experts
    "multiply": 1,  # a gate with its value, a routing weight
    "layer_norm": 7,  # two sums for mean and variance, subtract, square, multiply by 1/std, scale, shift
    "rms_norm": 4,  # square, sum, multiply by 1/rms, scale
    "scale": 1,  # attention scores by 1 / sqrt(head_dim)
    "softmax": 5,  # maximum, subtract, exp, sum, divide
    "gelu": 5,  # divide by sqrt 2, erf, add 1, multiply by x, halve
    "quick_gelu": 5,  # multiply by 1.702, exp, add 1, divide, multiply by x
    "silu": 4,  # exp, add 1, divide, multiply by x
    "rotary": 3,  # x cos + rotated x sin; turning the sign is part of the sum
    "top_k": 1,  # one comparison per candidate: the least any selection needs
    "linear_interpolation": 3,  # two products and a sum
    "bicubic_interpolation": 32,  # sixteen taps, a product and a sum each
    "trigonometry": 5,  # angle, cosine, sine and their scaling
}

ACTIVATION_PASSES: Final[dict[str, int]] = {"gelu": 2, "quick_gelu": 7, "silu": 2}
"""Elements read and written per element by an activation: quick_gelu is x * sigmoid(1.702 x), three operators."""

INDEX_BYTES: Final = 8
"""PyTorch's indices are int64."""

FLOAT_BYTES: Final = 4
"""Softmax, norms and routing compute in float32 whatever the model's dtype."""


def matmul_flops(rows: int, inner: int, columns: int) -> int:
    """Return the FLOPs of ``[rows, inner] @ [inner, columns]``."""
    return 2 * rows * inner * columns


def conv2d_flops(outputs: int, channels_in: int, channels_out: int, kernel: int) -> int:
    """Return the FLOPs of a square convolution with ``outputs`` positions, padding counted as the counter does."""
    return 2 * outputs * channels_out * channels_in * kernel * kernel


def attention_flops(pairs: int, width: int) -> int:
    """Return the FLOPs of scores and weighted sum over (query, key) pairs; ``width`` is heads times head_dim."""
    return 2 * matmul_flops(pairs, width, 1)


def prefix_pairs(prefix: int, tokens: int) -> int:
    """Return the pairs where the first ``prefix`` tokens see each other and the rest are causal."""
    return prefix * prefix + causal_pairs(tokens - prefix, tokens)


def linear_elements(rows: int, inner: int, columns: int, bias: bool) -> int:
    """Return the elements a linear layer moves: input, weight, bias, output."""
    return rows * inner + inner * columns + rows * columns + (columns if bias else 0)


def linear_parameters(inner: int, columns: int, bias: bool) -> int:
    """Return the weights of a linear layer."""
    return inner * columns + (columns if bias else 0)


def conv2d_elements(inputs: int, outputs: int, channels_in: int, channels_out: int, kernel: int) -> int:
    """Return the elements a convolution without bias moves between ``inputs`` and ``outputs`` positions."""
    return inputs * channels_in + kernel * kernel * channels_in * channels_out + outputs * channels_out


def cast_bytes(elements: int, itemsize: int) -> int:
    """Return the bytes of a copy to or from float32; there is none where the model is float32 already."""
    return 0 if itemsize == FLOAT_BYTES else elements * (itemsize + FLOAT_BYTES)


def softmax_bytes(elements: int, itemsize: int) -> int:
    """Return the bytes of a softmax asked for in float32 and cast back: three operators, one in a float32 model.

    CUDA fuses the first cast for float16 but not for bfloat16; the unfused form is counted for both.
    """
    return 2 * cast_bytes(elements, itemsize) + 2 * FLOAT_BYTES * elements


def layer_norm_bytes(rows: int, width: int, itemsize: int) -> int:
    """Return the bytes of a fused layer norm, which also returns each row's mean and 1/std in float32."""
    return (2 * rows * width + 2 * width) * itemsize + 2 * FLOAT_BYTES * rows


def rms_norm_bytes(rows: int, width: int, itemsize: int) -> int:
    """Return the bytes of an RMS norm in eight operators: cast, square, mean, + eps, rsqrt, product, cast, scale."""
    elements, scalars = rows * width, 6 * rows
    in_float = 2 * elements + elements + 2 * elements + scalars
    return 2 * cast_bytes(elements, itemsize) + in_float * FLOAT_BYTES + (2 * elements + width) * itemsize


def served_norm_bytes(rows: int, width: int, itemsize: int) -> int:
    """Return the bytes of a norm fused with the residual addition before it: two rows in, two rows out, the scale."""
    return (4 * rows * width + width) * itemsize


def rotary_elements(elements: int, angles: int) -> int:
    """Return the elements moved to rotate ``elements``: two products, negated half, concatenation, sum."""
    return 2 * (2 * elements + angles) + elements + 2 * elements + 3 * elements


def eager_attention_bytes(pairs: int, queries: int, keys: int, itemsize: int) -> int:
    """Return the bytes of attention written as products: scores, softmax, weighted sum.

    ``pairs`` counts (head, query, key); ``queries`` and ``keys`` are the elements of those tensors.
    """
    products = (queries + keys + pairs) + (pairs + keys + queries)
    return products * itemsize + softmax_bytes(pairs, itemsize)


def fused_attention_elements(queries: int, keys: int) -> int:
    """Return the elements of fused attention: queries, keys, values and the result."""
    return 2 * queries + 2 * keys


def bicubic_bytes(source: int, target: int, itemsize: int) -> int:
    """Return the bytes of resizing a position table: to float32, interpolate, back."""
    moved = (source + target) * FLOAT_BYTES
    return cast_bytes(source, itemsize) + moved + cast_bytes(target, itemsize)


def expected_experts(experts: int, top_k: int, rows: int) -> float:
    """Return the distinct experts that ``rows`` tokens hit on average if routing is uniform; ``top_k`` for one token.

    A token misses a given expert with probability (E - k) / E. The caller rounds, after multiplying by bytes.
    """
    return float(experts * (1 - ((experts - top_k) / experts) ** rows))


@cache
def further_blocks(experts: int, top_k: int, rows: int, block: int) -> float:
    """Return how many blocks of ``block`` rows the experts' rows fill on average beyond one for each expert hit.

    An expert's rows are binomial under uniform routing; its blocks are one for every ``block`` rows begun.
    """
    chance = top_k / experts
    if chance >= 1:
        return float(experts * max(-(-rows // block) - 1, 0))
    odds, further = math.log(chance / (1 - chance)), 0.0
    likelihood = rows * math.log1p(-chance)  # of no row at all, as a logarithm: of many rows it is next to nothing
    for count in range(1, rows + 1):
        likelihood += math.log((rows - count + 1) / count) + odds
        further += math.exp(likelihood) * ((count - 1) // block)
    return experts * further


def least_experts(top_k: int, rows: int) -> int:
    """Return the lower bound of distinct experts: every token may choose the same ones."""
    return top_k if rows else 0
