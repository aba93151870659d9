"""Kernel classes on every name of real reports, held against what PyTorch's and vLLM's functions are known to do."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.report import read_projectable
from dsocr_nvtx.join.classes import classify, is_fusible
from dsocr_nvtx.join.columns import numbers
from dsocr_nvtx.schema.files import read_table

HERE = Path(__file__).parents[2]
EXPORTS = HERE / ".." / "shared" / "data"
PYTORCH = ("0833976f", "2d2c1840", "6a707bc0", "7ae95da6", "ae393c7d", "c8f71ebb", "cea71b17", "cfa580dc")
MINE = ("h200-graph-node", "h200-typed-payload", "vllm-marked", "vllm-own-process")

KNOWN = [
    (r"(nvjet|ampere_sgemm|sm\d\d_xmma_gemm)_.*", "matmul", False),
    (r"cutlass::Kernel2<cutlass_\d\d_\w*gemm.*", "matmul", False),
    (r"cutlass::device_kernel<at::cuda::detail::enable_3x_kernel.*", "matmul", False),
    (r"(at::cuda::detail::prepare_grouped_gemm_data|magma_sgemmEx_kernel|cublasLt::splitK\w+)<.*", "matmul", False),
    (r"(dot_kernel<.*cublasDot|reduce_1Block_kernel<.*cublas|(internal::)?gem[mv]\w*<).*", "matmul", False),
    (r"fused_moe_kernel|_ZN7cutlass13device_kernel\w+4gemm6kernel\w+", "matmul", False),
    (r"(cutlass::device_kernel<flash::|flash::|fmha_|pytorch_flash::).*", "attention", False),
    (r"cudnn_generated_fort_native_sdpa.*", "attention", False),
    (r"sm\d\d_xmma_(fprop|dgrad|wgrad)_.*|implicit_convolve_sgemm<.*|.*conv_depthwise.*", "convolution", False),
    (r"cudnn::\S*(nchwToNhwc|nhwcToNchw)\S*Kernel.*", "data_movement", True),
    (r"(reduce_kernel|cudnn::fusion::lean_reduction_kernel|reduction_prod_kernel)(<.*)?", "norm_activation", False),
    (r"(cunn_SoftMax\w*|softmax_warp_\w+|\w+_layer_norm_kernel|upsample_\w+_frame)<.*", "norm_activation", False),
    (r"vllm::moe::moe_sum\w*<.*", "norm_activation", False),
    (r"triton_(red|per)_fused_\w*(norm|softmax|mean|sum)\w*", "norm_activation", False),
    (r"triton_poi_fused(__to_copy)+_\d+", "data_movement", True),
    (r"triton_poi_fused_(?!_to_copy_\d)\w*(add|mul|exp)\w*", "norm_activation", True),
    (r"vllm::act_and_mul_kernel<.*", "norm_activation", True),
    (r"vllm::reshape_and_cache\w*<.*", "data_movement", True),
    (r"(CatArrayBatchedCopy\w*|vectorized_gather_kernel|index_elementwise_kernel|elementwise_kernel_with_index|"
     r"indexSelect\w+|indexing_backward_kernel|_scatter_gather_elementwise_kernel|roll_cuda_kernel)<.*",
     "data_movement", True),
    (r"(\w+_)?elementwise_kernel<.*(FillFunctor|direct_copy_kernel|bfloat16_copy_kernel|float16_copy_kernel|"
     r"masked_fill_kernel|where_kernel_impl|masked_scatter_kernel|flip_kernel).*", "data_movement", True),
    (r"distribution_elementwise_grid_stride_kernel<.*|sbtopk::gatherTopK<.*", "data_movement", True),
    (r"fill_reverse_indices_kernel\(.*|masked_scatter_size_check\(.*", "data_movement", True),
    (r"(\w+_)?elementwise_kernel<(?!.*(copy_kernel|where_kernel))[^<]*(gpu_kernel_impl(_nocast)?<)?(templates::)?"
     r"([AB]?UnaryFunctor|BinaryFunctor|CUDAFunctor\w*|CompareFunctor|AbsFunctor|\w*silu\w*|GeluCUDAKernelImpl|\w+_kernel_cuda|\w+_kernel_impl|compare_scalar_kernel|"
     r"launch_clamp_scalar|BUnaryFunctor|pow_tensor_\w+|\w+_backward_kernel\w*)\W.*", "norm_activation", True),
    (r"memcpy (host to device|device to host|peer to peer)", "data_movement", False),
    (r"memcpy (device to device|kind \d+)|memset", "data_movement", True),
    (r"(at_cuda_detail::)?cub::.*(Radix|Scan|Sort|Select|RunLength|Unique|Reduce).*", "other", False),
    (r"at::cuda::kernelHistogram1D<.*|bitonicSort\w+<.*|nccl\w+\(.*|graph launch", "other", False),
    (r"vllm::moe::(moe_align_block_size\w*|count_and_sort\w*)<.*|_topk_topp_kernel", "other", False),
    (r"_compute_slot_mapping_kernel", "other", False),
]  # fmt: skip
"""Whole names, as `plain` leaves them, with (class, fusible): by what the functions do."""


def plain(name: str) -> str:
    """Return a name without return type, integer types in templates, and namespaces that say nothing."""
    name = re.sub(r"\(anonymous namespace\)::|<unnamed>::|at::native::|\(int\)|\(bool\)", "", name)
    return name.replace("void ", "")


def names_of(reports: Iterator[Path]) -> set[str]:
    return {name for path in reports for name in read_projectable(path).operations["name"].unique().to_pylist()}


def test_names_of_the_captures_here() -> None:
    demo = HERE / "src" / "dsocr_nvtx" / "demo" / "h200-gundam-2x3.sqlite.xz"
    graph = read_table(HERE / "tests" / "data" / "h200-cupti-graph" / "timings" / "operations.arrow")
    check(names_of(iter([demo])) | set(graph["name"].unique().to_pylist()))


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the exports in ../shared/data are not here")
def test_names_of_all_pytorch_and_vllm_exports() -> None:
    check(names_of(path for path in EXPORTS.rglob("*.sqlite.xz") if path.name.split(".")[0] in (*PYTORCH, *MINE)))


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the exports in ../shared/data are not here")
def test_names_of_other_programs_decide_by_a_text_they_have() -> None:
    for name in names_of(iter(EXPORTS.rglob("*.sqlite.xz"))):
        kind, rule = classify(name)
        assert rule in name
        assert rule or kind == "other"
        assert not is_fusible(kind, rule) or kind in ("data_movement", "norm_activation")


def check(names: set[str]) -> None:
    wrong = []
    for name in sorted(names):
        expected = {(kind, fusible) for pattern, kind, fusible in KNOWN if re.fullmatch(pattern, plain(name), re.S)}
        found, rule = classify(name)
        if expected != {(str(found), is_fusible(found, rule))}:
            wrong.append((plain(name), str(found), rule, expected))
    assert names
    assert not wrong


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the exports in ../shared/data are not here")
@pytest.mark.parametrize("identity", [*PYTORCH[:5], *PYTORCH[6:], "h200-graph-node"])  # c8f71ebb is NCCL for the most
def test_nearly_all_time_of_a_pytorch_report_has_a_class(identity: str) -> None:
    operations = read_projectable(EXPORTS / "nsys" / f"{identity}.sqlite.xz").operations
    took = numbers(operations, "end_ns") - numbers(operations, "start_ns")
    strange = [classify(name)[0] == "other" for name in operations["name"].to_pylist()]
    assert took[strange].sum() < 0.02 * took.sum()
