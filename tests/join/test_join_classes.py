"""Kernel names to classes: the names that DeepSeek-OCR's runs on Hopper and Ampere really show."""

import pytest

from dsocr_nvtx.join.classes import KernelClass, classify, is_fusible


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


REDUCE = "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>(T3)"
COPY = "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>"
BROADCAST = "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096>)"
PREFILL = "void flashinfer::BatchPrefillWithPagedKVCacheKernel<flashinfer::KernelTraits<16, 8>>"
TRITON_MIX = "triton_poi_fused_add_cat_index_select_mul_split_with_sizes_view_3"


@pytest.mark.parametrize(
    ("name", "kind", "fusible"),
    [
        (REDUCE, "norm_activation", False),
        ("void cudnn::fusion::lean_reduction_kernel<0, 0, 0>", "norm_activation", False),
        ("void (anonymous namespace)::softmax_warp_forward<float, float>", "norm_activation", False),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "norm_activation", False),
        ("void at::native::(anonymous namespace)::upsample_linear1d_out_frame<float>", "norm_activation", False),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>", "norm_activation", True),
        ("void at::native::vectorized_elementwise_kernel<8, silu_kernel(TensorIterator &)>", "norm_activation", True),
        ("void vllm::act_and_mul_kernel<c10::BFloat16, &vllm::silu_kernel<c10::BFloat16>>", "norm_activation", True),
        (COPY, "data_movement", True),
        ("void at::native::(anonymous namespace)::distribution_elementwise_grid_stride_kernel<float, 4, "
         "void at::native::templates::cuda::normal_and_transform<float>>", "data_movement", True),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", "data_movement", True),
        ("memcpy device to device", "data_movement", True),
        ("memset", "data_movement", True),
        ("memcpy host to device", "data_movement", False),
        ("memcpy device to host", "data_movement", False),
        ("memcpy peer to peer", "data_movement", False),
        (BROADCAST, "other", False),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)", "other", False),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>", "other", False),
        (PREFILL, "attention", False),
        ("void at::native::reduce_kernel<512, 1, at::native::func_wrapper_t<sum_functor, direct_copy>>",
         "norm_activation", False),
        ("fused_moe_kernel", "matmul", False),
        ("void vllm::moe::moe_sum_vec_kernel<c10::BFloat16, int, 6>", "norm_activation", False),
        ("somebody_elses_kernel", "other", False),
    ],
)  # fmt: skip
def test_what_a_fused_kernel_would_do_in_passing_is_movement_and_pointwise_work(
    name: str, kind: str, fusible: bool
) -> None:
    found, rule = classify(name)
    assert (found, is_fusible(found, rule)) == (kind, fusible)


@pytest.mark.parametrize(
    ("name", "kind", "fusible"),
    [
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_4", "norm_activation", False),
        ("triton_red_fused_add_fused_add_rms_norm_1", "norm_activation", False),
        ("triton_per_fused__to_copy_native_layer_norm_addmm_0", "norm_activation", False),
        ("triton_red_fused__softmax_exp_max_prepare_softmax_online_sub_view_0", "norm_activation", False),
        ("triton_per_fused_index_sum_where_2", "norm_activation", False),
        ("triton_poi_fused_add_mm_mul_silu_0", "norm_activation", True),
        ("triton_poi_fused__scaled_dot_product_flash_attention_mul_1", "norm_activation", True),
        ("triton_poi_fused__softmax__to_copy_exp_where_1", "norm_activation", True),
        ("triton_poi_fused_convolution_gelu_3", "norm_activation", True),
        (TRITON_MIX, "norm_activation", True),
        ("triton_poi_fused__to_copy_2", "data_movement", True),
        ("triton_poi_fused__to_copy_cat_clone_slice_view_12", "data_movement", True),
        ("triton_poi_fused_embedding_0", "data_movement", True),
        ("triton_for_fused_0", "norm_activation", True),
        ("triton_red_fused_mm_0", "matmul", False),
        ("triton_per_fused__to_copy_mm_t_view_0", "matmul", False),
        ("triton_tem_fused_addmm_7", "matmul", False),
        ("triton_tem_fused__to_copy_bmm_0", "matmul", False),
        ("triton_tem_fused_flex_attention_0", "attention", False),
        ("triton_tem_fused_convolution_1", "convolution", False),
    ],
)
def test_a_kernel_of_inductor_is_classed_by_what_it_fuses(name: str, kind: str, fusible: bool) -> None:
    """A norm is a norm whatever it copies, and what only prepares a product multiplies nothing."""
    found, rule = classify(name)
    assert (found, is_fusible(found, rule)) == (kind, fusible)
    assert rule in name


SERVED = {
    ("matmul", False): (
        "fused_moe_kernel", "fused_moe_kernel_gptq_awq", "void marlin::Marlin<__nv_bfloat16, 256, 1, 8>",
        "void machete::KernelTemplate", "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_splitK_TNT",
        "void cutlass::device_kernel<vllm::cutlass_3x_gemm_sm90<cutlass::half_t>>",
    ),
    ("attention", False): (
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloop>>>",
        "void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<(int)8>>>>",
        "void flash::prepare_varlen_num_blocks_kernel<(int)1, (bool)0>(int, int, int, const int *)",
        "void vllm::paged_attention_v1_kernel<__nv_bfloat16, __nv_bfloat16, 128, 16, 128>",
        "void vllm::paged_attention_v2_reduce_kernel<__nv_bfloat16, 128>", "kernel_unified_attention_2d",
        "void vllm::merge_attn_states_kernel<__nv_bfloat16, 128>", "merge_attn_states_kernel",
        "void flashinfer::BatchDecodeWithPagedKVCacheKernel<flashinfer::PosEncodingMode>",
    ),
    ("norm_activation", False): (
        "void vllm::rms_norm_kernel<c10::BFloat16>", "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>",
        "void vllm::moe::moe_sum_kernel<c10::BFloat16, 6>", "triton_red_fused_fused_add_rms_norm_0",
        "_topk_log_softmax_kernel", "void vllm::rms_norm_static_fp8_quant_kernel<c10::BFloat16>",
    ),
    ("norm_activation", True): (
        "void vllm::act_and_mul_kernel<c10::BFloat16, __nv_bfloat162, &vllm::silu_kernel<c10::BFloat16>>",
        "void vllm::rotary_embedding_kernel<c10::BFloat16, true>", "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>",
        "void per_token_group_quant_8bit_kernel<c10::BFloat16>", "triton_poi_fused_mul_silu_slice_1",
    ),
    ("data_movement", True): (
        "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, (vllm::Fp8KVCacheDataType)0>",
        "void vllm::reshape_and_cache_kernel<__nv_bfloat16>", "void vllm::concat_and_cache_mla_kernel<__nv_bfloat16>",
        "void vllm::copy_blocks_kernel<__nv_bfloat16>", "_gather_block_tables_kernel",
    ),
    ("other", False): (
        "void vllm::moe::moe_align_block_size_kernel<int>", "void vllm::moe::count_and_sort_expert_tokens_kernel<int>",
        "void vllm::moe::topkGatingSoftmax<8, 64, 4, 16, 32, int>", "void vllm::moe::grouped_topk_fused_kernel<float>",
        "void vllm::apply_repetition_penalties_kernel<float>", "_topk_topp_kernel", "_gumbel_sample_kernel",
        "_temperature_kernel", "_min_p_kernel", "_penalties_kernel", "_bincount_kernel", "_ranks_kernel",
        "_apply_grammar_bitmask_kernel", "_compute_slot_mapping_kernel", "_compute_slot_mappings_kernel",
        "rejection_greedy_sample_kernel", "sample_recovered_tokens_kernel", "_prepare_prefill_inputs_kernel",
        "_prepare_pos_seq_lens_kernel", "_combine_sampled_and_draft_tokens_kernel", "_post_update_kernel",
        "void flashinfer::sampling::TopKTopPSamplingFromProbKernel<1024, cub::BLOCK_SCAN_WARP_SCANS>",
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>",
    ),
}  # fmt: skip
"""What vLLM 0.26 to 0.33 launches, by class and whether a fused kernel would do it in passing."""


@pytest.mark.parametrize(
    ("name", "kind", "fusible"), [(name, kind, fusible) for (kind, fusible), names in SERVED.items() for name in names]
)
def test_a_kernel_of_a_serving_engine_is_classed_by_a_rule(name: str, kind: str, fusible: bool) -> None:
    found, rule = classify(name)
    assert (found, is_fusible(found, rule)) == (kind, fusible)
    assert rule, "sampling and routing are known work, of no other class"
    assert rule in name
