"""Kernel names to classes: the names that DeepSeek-OCR's runs on Hopper and Ampere really show."""

import pytest

from dsocr_nvtx.join.classes import KernelClass, classify


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "matmul"),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16>", "matmul"),
        ("void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<cutlass::gemm>>", "matmul"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int>", "matmul"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolution"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "data_movement"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<at::native::OpaqueType<2u>>", "data_movement"),
        ("void at::native::index_elementwise_kernel<128, 4>", "data_movement"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "data_movement"),
        ("memcpy host to device", "data_movement"),
        ("memset", "data_movement"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16>", "norm_activation"),
        ("void (anonymous namespace)::softmax_warp_forward<c10::BFloat16, float>", "norm_activation"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "norm_activation"),
        ("void at::native::reduce_kernel<512, 1, at::native::MeanOps>", "norm_activation"),
        ("void at::native::sbtopk::gatherTopK<float, unsigned int>", "data_movement"),
        ("void at::native::bitonicSortKVInPlace<2, -1>", "other"),
        ("graph launch", "other"),
        ("somebody_elses_kernel", "other"),
        ("", "other"),
    ],
)
def test_a_kernel_is_classed_by_its_name(name: str, kind: str) -> None:
    found, rule = classify(name)
    assert found == kind
    assert rule in name
    assert bool(rule) or found is KernelClass.OTHER
