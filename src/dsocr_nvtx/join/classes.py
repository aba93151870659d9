"""What kind of work a kernel does, by its name: useful work (products, attention) or the tax around it.

The first rule whose text occurs in the name decides; tables carry that text, so every verdict can be checked. Names no
rule knows are ``other``, and their share is shown. Parts are chosen so that template machinery (``nocast``,
``unrolled``) decides nothing. Rules know PyTorch, cuBLAS, cuDNN, CUTLASS and FlashAttention.
"""

from enum import StrEnum


class KernelClass(StrEnum):
    """Kinds of kernel. ``norm_activation`` holds all elementwise arithmetic and reductions."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    NORM_ACTIVATION = "norm_activation"
    DATA_MOVEMENT = "data_movement"
    OTHER = "other"


_RULES: tuple[tuple[KernelClass, tuple[str, ...]], ...] = (
    (KernelClass.ATTENTION, ("flash", "fmha", "attention")),
    (KernelClass.CONVOLUTION, ("fprop", "implicit_convolve", "convolve", "conv2d", "conv_depthwise", "winograd")),
    (KernelClass.DATA_MOVEMENT, ("nchwToNhwc", "nhwcToNchw", "memcpy", "memset", "transpose_kernel")),
    (KernelClass.MATMUL, ("gemm", "gemv", "nvjet", "cutlass", "splitKreduce", "cublas", "dot_kernel", "_mm_")),
    (
        KernelClass.DATA_MOVEMENT,
        (
            "copy", "CatArray", "index", "gather", "scatter", "FillFunctor", "fill", "arange", "repeat_interleave",
            "masked_s", "where", "cast_", "transpose", "permute", "constant_pad", "roll_cuda", "Memcpy", "Memset",
            "flip",
        ),
    ),
    (
        KernelClass.NORM_ACTIVATION,
        (
            "norm", "Norm", "softmax", "SoftMax", "gelu", "GELU", "Gelu", "silu", "sigmoid", "relu", "tanh", "reduc",
            "elementwise", "upsample", "interpolate",
        ),
    ),
    (KernelClass.OTHER, ("topk", "TopK", "sort", "Sort", "Scan", "scan", "histogram", "Radix", "Histogram", "nccl")),
)  # fmt: skip


def classify(name: str) -> tuple[KernelClass, str]:
    """Return (class, the text in the name that decided); the text is empty where no rule knows the name."""
    for kind, parts in _RULES:
        for part in parts:
            if part in name:
                return kind, part
    return KernelClass.OTHER, ""
