"""What kind of work a kernel does, by its name, and whether a fused kernel would do that work in passing.

The first rule whose text occurs in the function's own name decides; else the first that occurs anywhere in the name,
since what PyTorch's elementwise kernels do is told by their template's functor. Tables carry class and rule, so every
verdict can be checked. Names no rule knows are ``other``, and their share is shown. Rules know PyTorch, cuBLAS, cuDNN,
CUTLASS, FlashAttention, NCCL and vLLM; kernels that torch.compile made are told by what they fuse
(`dsocr_nvtx.join.inductor`).
"""

from enum import StrEnum

from dsocr_nvtx.join.inductor import POINTWISE_RULES, Fused, fused_work


class KernelClass(StrEnum):
    """Kinds of kernel. ``norm_activation`` holds all elementwise arithmetic and reductions."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    NORM_ACTIVATION = "norm_activation"
    DATA_MOVEMENT = "data_movement"
    OTHER = "other"


_RULES: tuple[tuple[KernelClass, bool, tuple[str, ...]], ...] = (
    (KernelClass.OTHER, False, ("nccl", "nvshmem", "cross_device_reduce", "sampling", "_prepare_")),
    (KernelClass.DATA_MOVEMENT, False, ("host to device", "device to host", "peer to peer")),
    (KernelClass.DATA_MOVEMENT, True, ("distribution_elementwise", "reshape_and_cache", "concat_and_cache")),
    (
        KernelClass.ATTENTION,
        False,
        ("flash", "fmha", "attention", "sdpa", "Prefill", "prefill", "BatchDecode", "_attn"),
    ),
    (
        KernelClass.CONVOLUTION,
        False,
        (
            "fprop", "dgrad", "wgrad", "implicit_convolve", "convolve", "conv2d", "conv_depthwise", "winograd",
        ),
    ),
    (KernelClass.DATA_MOVEMENT, True, ("nchwToNhwc", "nhwcToNchw", "memcpy", "memset", "transpose_kernel")),
    (
        KernelClass.MATMUL,
        False,
        (
            "gemm", "gemv", "nvjet", "cutlass", "splitKreduce", "cublas", "dot_kernel", "reduce_1Block", "_mm_",
            "fused_moe", "marlin", "Marlin", "machete",
        ),
    ),
    (
        KernelClass.DATA_MOVEMENT,
        True,
        (
            "copy", "CatArray", "index", "gather", "scatter", "FillFunctor", "fill", "arange", "repeat_interleave",
            "masked_s", "where", "cast_", "transpose", "permute", "constant_pad", "roll_cuda", "Memcpy", "Memset",
            "flip",
        ),
    ),
    (
        KernelClass.NORM_ACTIVATION,
        False,
        ("norm", "Norm", "softmax", "SoftMax", "reduc", "moe_sum", "upsample", "interpolate"),
    ),
    (
        KernelClass.NORM_ACTIVATION,
        True,
        (
            "gelu", "GELU", "Gelu", "silu", "sigmoid", "relu", "tanh", "rotary", "act_and_mul", "elementwise",
            "quant", "Quant",
        ),
    ),
    (
        KernelClass.OTHER,
        False,
        (
            "topk", "TopK", "sort", "Sort", "Scan", "scan", "histogram", "Radix", "Histogram", "moe_align",
            "slot_mapping", "sampl", "penalt", "temperature", "_min_p", "bitmask", "_ranks", "bincount",
            "_post_update", "idx_mapping",
        ),
    ),
)  # fmt: skip
"""(class, whether it is fusible, the texts that tell it), in order: the one list of what kernels are."""

_GENERIC = frozenset({"cutlass", "elementwise"})
"""Texts that name a frame for any functor: in a function's own name they decide nothing."""

_CLASS_OF: dict[Fused, KernelClass] = {
    Fused.PRODUCT: KernelClass.MATMUL,
    Fused.ATTENTION: KernelClass.ATTENTION,
    Fused.CONVOLUTION: KernelClass.CONVOLUTION,
    Fused.REDUCTION: KernelClass.NORM_ACTIVATION,
    Fused.POINTWISE: KernelClass.NORM_ACTIVATION,
    Fused.MOVEMENT: KernelClass.DATA_MOVEMENT,
}
_FUSIBLE = {(str(kind), part) for kind, fusible, parts in _RULES if fusible for part in parts} | {
    (str(kind), rule) for kind in (KernelClass.NORM_ACTIVATION, KernelClass.DATA_MOVEMENT) for rule in POINTWISE_RULES
}


def classify(name: str) -> tuple[KernelClass, str]:
    """Return (class, the text in the name that decided); the text is empty where no rule knows the name."""
    if found := fused_work(name):
        return _CLASS_OF[found[0]], found[1]
    return _first(_own_name(name), _GENERIC) or _first(name, frozenset()) or (KernelClass.OTHER, "")


def is_fusible(kind: str, rule: str) -> bool:
    """Say whether a kernel of this class, by this rule, does what a fused kernel would do in passing."""
    return (kind, rule) in _FUSIBLE


def _first(text: str, passed_over: frozenset[str]) -> tuple[KernelClass, str] | None:
    for kind, _, parts in _RULES:
        for part in parts:
            if part in text and part not in passed_over:
                return kind, part
    return None


def _own_name(name: str) -> str:
    """Return the name of the function itself, without return type, template arguments and parameters."""
    plain = name.removeprefix("void ").replace("(anonymous namespace)", "").replace("<unnamed>", "")
    return plain.split("<")[0].split("(")[0]
