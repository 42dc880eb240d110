"""Operations known to hold no contraction: everything else that is not counted is unknown.

Pointwise operations, reductions, views, copies, indexing, sorting, random numbers, pooling,
normalisation, interpolation, losses. The names are those of the packets in `torch.ops.aten`; what
torch itself tags as pointwise or returns as a view is not listed.
"""

from __future__ import annotations

from typing import Any

import torch

_REDUCTIONS = """
all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum dist kthvalue
linalg__powsum linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmedian nansum
norm prod renorm std std_mean sum trace var var_mean _aminmax _cummax_helper _cummin_helper
_is_all_true _is_any_true _logcumsumexp _sparse_sum histc bincount _pdist_forward allclose equal
segment_reduce
"""
_MOVES = """
_chunk_cat _coalesce _copy_from _copy_from_and_resize _lazy_clone _pin_memory
_reshape_alias _reshape_copy _stack _to_copy _to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr
_to_sparse_csc _to_sparse_csr _unsafe_index _unsafe_index_put _unsafe_masked_index
_unsafe_masked_index_put_accumulate _unsafe_view _mkldnn_reshape _mkldnn_transpose
as_strided as_strided_scatter block_diag cat channel_shuffle clone col2im complex concat
constant_pad_nd contiguous copy diag_embed diagonal_scatter embedding embedding_renorm expand_as
fill flip gather im2col index index_add index_copy index_fill index_put _index_put_impl
index_reduce index_select lift lift_fresh masked_fill masked_scatter masked_select narrow_copy
nonzero nonzero_static pad pixel_shuffle pixel_unshuffle put reflection_pad1d reflection_pad2d
reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
resize resize_as roll rot90 scatter scatter_add scatter_reduce select_scatter set slice_scatter
sparse_mask split_copy squeeze stack t take take_along_dim to_mkldnn transpose tril triu unfold
unsafe_split unsafe_split_with_sizes unsqueeze view zero _pack_padded_sequence detach
mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight _cudnn_rnn_flatten_weight
"""
_MAKERS = """
arange bartlett_window bernoulli blackman_window cauchy empty empty_like empty_permuted
empty_strided exponential eye fft_fftfreq fft_rfftfreq full full_like geometric hamming_window
hann_window kaiser_window linspace log_normal logspace multinomial new_empty new_empty_strided
new_full new_ones new_zeros normal normal_functional ones ones_like poisson rand rand_like randint
randint_like randn randn_like random randperm range scalar_tensor sparse_coo_tensor
sparse_compressed_tensor _sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors
_validate_compressed_sparse_indices _convert_indices_from_coo_to_csr
_convert_indices_from_csr_to_coo tril_indices triu_indices uniform vander zeros zeros_like
_efficientzerotensor _standard_gamma _sample_dirichlet binomial
"""
_ORDER = """
_unique _unique2 bucketize isin searchsorted sort topk unique_consecutive unique_dim
unique_dim_consecutive histogram argsort
"""
_POOLS = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
avg_pool2d avg_pool3d fractional_max_pool2d fractional_max_pool3d max_pool1d_with_indices
max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mkldnn_max_pool2d
mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d
"""
_NORMS = """
_batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional _fused_rms_norm
_log_softmax _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
_native_batch_norm_legit_no_training _safe_softmax _softmax _sparse_softmax _sparse_log_softmax
_weight_norm_interface batch_norm_elemt batch_norm_stats batch_norm_gather_stats
batch_norm_gather_stats_with_counts cudnn_batch_norm log_softmax miopen_batch_norm
native_batch_norm native_group_norm native_layer_norm native_norm softmax
"""
_POINTWISE = """
_add_relu _masked_scale _prelu_kernel _resize_output _thnn_fused_gru_cell _thnn_fused_lstm_cell
glu hardswish log_sigmoid_forward native_dropout polar rrelu_with_noise cross linalg_cross
rrelu_with_noise_functional addr _foreach_add _foreach_mul gcd lcm heaviside huber_loss
_transform_bias_rescale_qkv quantize_per_tensor dequantize
_fake_quantize_learnable_per_tensor_affine
fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
_fake_quantize_per_tensor_affine_cachemask_tensor_qparams
_fake_quantize_learnable_per_channel_affine
_fill_mem_eff_dropout_mask _cudnn_init_dropout_state
"""
_RESAMPLING = """
_grid_sampler_2d_cpu_fallback _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d affine_grid_generator cudnn_affine_grid_generator cudnn_grid_sampler
grid_sampler_2d grid_sampler_3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_LOSSES = """
_ctc_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss multi_margin_loss
multilabel_margin_loss_forward nll_loss2d_forward nll_loss_forward smooth_l1_loss soft_margin_loss
"""
_BOXES = "nms roi_align ps_roi_align roi_pool ps_roi_pool"  # of torchvision
_QUESTIONS = """
_assert_async _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
_functional_sym_constrain_range _functional_sym_constrain_range_for_size _fused_sdp_choice
_has_same_storage_numel _linalg_check_errors _local_scalar_dense _nnz _debug_has_internal_overlap
dense_dim is_coalesced is_pinned is_same_size is_set_to item sparse_dim sym_constrain_range
sym_constrain_range_for_size sym_numel sym_size sym_storage_offset sym_stride _use_cudnn_ctc_loss
_use_miopen_ctc_loss record_stream _nested_tensor_from_mask_left_aligned _dimI _dimV
"""

FREE = frozenset(
    " ".join(
        (_REDUCTIONS, _MOVES, _MAKERS, _ORDER, _POOLS, _NORMS, _POINTWISE, _RESAMPLING, _LOSSES)
    ).split()
) | frozenset(_QUESTIONS.split())

_POINTWISE_TAG = getattr(torch.Tag, "pointwise", None)


def is_free(operation: Any) -> bool:
    """Is the operation known to hold no contraction?

    Args:
        operation: An operator overload such as ``torch.ops.aten.add.Tensor``.

    Example:
        >>> is_free(torch.ops.aten.add_.Tensor), is_free(torch.ops.aten.mm.default)
        (True, False)
    """
    if operation.namespace == "prim":  # questions about a tensor: its device, its layout
        return True
    if operation.namespace == "torchvision":
        return operation._opname in _BOXES.split()
    if operation.namespace != "aten":
        return False
    if _POINTWISE_TAG in operation.tags or operation.is_view:
        return True
    name = operation._opname.removesuffix("_").removesuffix("_backward").removesuffix("_copy")
    return name in FREE or operation._opname in FREE
