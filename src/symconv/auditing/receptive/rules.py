"""What each of torch's operations does to what is seen: one rule an operation.

The names are those of the packets in `torch.ops.aten`, as torch dispatches them; what torch tags
as pointwise needs no rule. An operation without a rule makes what is seen unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from symconv.auditing.receptive import moves, sums, windows
from symconv.auditing.receptive.reach import NotPeriodicError
from symconv.auditing.receptive.seen import Seen, Unknown, fresh, together
from symconv.auditing.receptive.steps import Step, tensors

Rule = Callable[[Step], Seen | list[Seen]]


def pointwise(s: Step) -> Seen:
    """Position by position, broadcast."""
    return together([s.seen(t) for a in s.args.values() for t in tensors(a)], s.shape)


def constant(s: Step) -> Seen:
    """A tensor made of shapes alone."""
    return Seen(fresh(s.shape), tuple({} for _ in s.x.views))


def named(rules: dict[Rule, str]) -> dict[str, Rule]:
    """Rules by the names of their operations."""
    return {name: rule for rule, names in rules.items() for name in names.split()}


RULES: dict[str, Rule] = named(
    {
        windows.convolution: "convolution convolution_overrideable _convolution",
        windows.pool: """avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d_with_indices
            max_pool3d_with_indices mkldnn_max_pool2d mkldnn_max_pool3d max_pool1d_with_indices
            max_pool2d max_pool3d""",
        windows.adaptive_pool: """_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
            adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
            mkldnn_adaptive_avg_pool2d""",
        windows.local: "local_forward",
        windows.local_adjoint: "local_adjoint",
        sums.sparse_linear: "sparse_forward",
        windows.im2col: "im2col",
        windows.col2im: "col2im",
        windows.unfold: "unfold",
        sums.reduce: """sum mean amax amin max min prod any all argmax argmin var std var_mean
            std_mean logsumexp linalg_vector_norm norm median nanmedian nansum count_nonzero
            mode aminmax""",
        sums.along: """_softmax _log_softmax _safe_softmax softmax cumsum cumprod cummax cummin
            logcumsumexp sort _fft_r2c _fft_c2c _fft_c2r topk""",
        sums.normalise: """native_batch_norm _native_batch_norm_legit _batch_norm_with_update
            _native_batch_norm_legit_no_training _batch_norm_no_update cudnn_batch_norm
            native_layer_norm native_group_norm _fused_rms_norm""",
        sums.matmul: "mm bmm addmm baddbmm matmul dot vdot mv addmv",
        sums.addbmm: "addbmm",
        sums.linear: "linear",
        sums.attention: """_scaled_dot_product_flash_attention_for_cpu
            _scaled_dot_product_attention_math _scaled_dot_product_flash_attention
            _scaled_dot_product_efficient_attention
            _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
            _scaled_dot_product_attention_math_for_mps""",
        moves.reshape: "view _unsafe_view _reshape_alias reshape _unsafe_masked_view view_copy",
        moves.same: """clone _to_copy contiguous detach alias lift_fresh lift native_dropout dropout
            real             _conj conj _neg_view lift_fresh_copy""",
        constant: """zeros_like ones_like full_like empty_like rand_like randn_like randint_like
            new_zeros new_ones new_full new_empty new_empty_strided bernoulli zero""",
        moves.glu: "glu",
        windows.interpolate: """upsample_nearest1d upsample_nearest2d upsample_nearest3d
            _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
            upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
            _upsample_bilinear2d_aa _upsample_bicubic2d_aa""",
        moves.copy: "copy",
        moves.expand: "expand",
        moves.permute: "permute",
        moves.transpose: "transpose t",
        moves.squeeze: "squeeze",
        moves.unsqueeze: "unsqueeze",
        moves.select: "select",
        moves.unbind: "unbind",
        moves.slice_: "slice",
        moves.split: "split split_with_sizes unsafe_split unsafe_split_with_sizes",
        moves.cat: "cat",
        moves.stack: "stack",
        moves.pad: """constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
            replication_pad1d replication_pad2d replication_pad3d pad""",
        moves.roll: "roll",
        moves.flip: "flip",
        moves.repeat: "repeat",
        moves.shuffle_out: "pixel_shuffle",
        moves.shuffle_in: "pixel_unshuffle",
        moves.channel_shuffle: "channel_shuffle native_channel_shuffle",
        moves.index_select: "index_select",
        moves.index: "index _unsafe_index",
        moves.gather: "gather",
        moves.embedding: "embedding",
        pointwise: """_prelu_kernel hardswish rrelu_with_noise masked_fill log_sigmoid_forward
 fill where heaviside complex polar tril triu""",
        sums.recurrent: "lstm gru rnn_tanh rnn_relu",
    }
)


def applied(s: Step, is_pointwise: bool) -> list[Seen]:
    """What comes out of an operation sees, one entry per tensor that comes out."""
    if not s.shapes:
        return []
    rule = RULES.get(s.name) or (pointwise if is_pointwise else None)
    inputs = [s.seen(t) for a in s.args.values() for t in tensors(a)]
    why = f"the operation {s.name}"
    try:
        found = rule(s) if rule else None
    except NotPeriodicError as error:
        found, why = None, f"{s.name}: {error}"
    if found is None:
        views = tuple(Unknown(why) for _ in inputs[0].views)
        return [Seen(fresh(shape), views) for shape in s.shapes]
    return found if isinstance(found, list) else [found] * len(s.shapes)
