"""Short names of kernels, from names that PyTorch, vLLM and cuDNN show in reports, by both demanglers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.naming import short_name

_COPY = "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase &)::[lambda() (instance 3)]::operator ()() const"
_NAMES = {
    "void at::native::vectorized_elementwise_kernel<(int)8, at::native::CUDAFunctor_add<c10::BFloat16>, "
    "std::array<char *, (unsigned long)3>>(int, T2, T3)": "vectorized_elementwise_kernel<CUDAFunctor_add, bf16>",
    "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, "
    "3ul> >(int, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, 3ul>)": (
        "vectorized_elementwise_kernel<CUDAFunctor_add, bf16>"
    ),
    "void at::native::elementwise_kernel<(int)128, (int)4, void at::native::gpu_kernel_impl_nocast<at::native::"
    "BinaryFunctor<c10::BFloat16, c10::BFloat16, c10::BFloat16, at::native::binary_internal::MulFunctor<float>>>"
    "(at::TensorIteratorBase &, const T1 &)::[lambda(int) (instance 1)]>(int, T3)": (
        "elementwise_kernel<MulFunctor, bf16>"
    ),
    f"void at::native::elementwise_kernel<(int)128, (int)4, void at::native::gpu_kernel_impl_nocast<{_COPY}::[lambda() "
    "(instance 12)]::operator ()() const::[lambda(c10::BFloat16) (instance 1)]>(at::TensorIteratorBase &, const T1 &)::"
    "[lambda(int) (instance 1)]>(int, T3)": "elementwise_kernel<direct_copy_kernel_cuda, bf16>",
    "void at::native::reduce_kernel<(int)512, (int)1, at::native::ReduceOp<float, at::native::func_wrapper_t<float, "
    "at::native::sum_functor<float, float, float>::operator ()(at::TensorIterator &)::[lambda(float, float) "
    "(instance 1)]>, unsigned int, float, (int)4, (int)4>>(T3)": "reduce_kernel<sum_functor, f32>",
    "void at::native::<unnamed>::CatArrayBatchedCopy<at::native::<unnamed>::OpaqueType<(unsigned int)2>, unsigned int, "
    "(int)4, (int)64, (int)64>(T1 *, T2)": "CatArrayBatchedCopy<2B>",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy<at::native::(anonymous namespace)::OpaqueType<2u>, "
    "unsigned int, 4, 64, 64>(char*)": "CatArrayBatchedCopy<2B>",
    "void at::native::vectorized_gather_kernel<(int)16, long>(char *, char *, T2 *, int)": (
        "vectorized_gather_kernel<i64>"
    ),
    "void at_cuda_detail::cub::detail::scan::DeviceScanKernel<at_cuda_detail::cub::detail::scan::policy_hub<int, int, "
    "int, unsigned int, std::plus<int>>::Policy1000, const int *, int *, at_cuda_detail::cub::ScanTileState<int, "
    "(bool)1>, std::plus<int>, int>(T2)": "DeviceScanKernel<plus, i32>",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_32x1_tn_align2>(T1::Params)": (
        "Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_32x1_tn_align2>"
    ),
    "void vllm::act_and_mul_kernel<c10::BFloat16, __nv_bfloat162, &vllm::silu_kernel<c10::BFloat16>, (bool)1>(T1 *)": (
        "act_and_mul_kernel<silu_kernel, bf16>"
    ),
    "nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN": "nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN",
    "memcpy host to device": "memcpy host to device",
    "(anonymous namespace)::mine(int)": "mine",
    "_Z3foov": "_Z3foov",
    "<": "<",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize(("name", "short"), _NAMES.items())
def test_a_short_name_keeps_functor_and_type(name: str, short: str) -> None:
    assert short_name(name) == short


@given(st.text(alphabet="abT1<>()[]{}:,& *", max_size=60))
def test_any_text_has_a_short_name_that_is_no_longer(name: str) -> None:
    """Whatever a report calls its kernels, there is something to print, made of the words of the name."""
    short = short_name(name)
    assert len(short) <= max(len(name), 1)
    assert bool(short) == bool(name)
