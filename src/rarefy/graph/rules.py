"""What each function of torch makes of the channels of its inputs: the rule of every name."""

from __future__ import annotations

from rarefy.graph.layer_rules import (
    attended,
    batch_normalised,
    convolved,
    embedded,
    group_normalised,
    linear,
    multiplied,
    sloped,
)
from rarefy.graph.pointwise import pointwise, same
from rarefy.graph.shape_rules import assigned, joined, normalised, padded, parted, pooled, reduced, shaped
from rarefy.graph.tracing import Rule

_NAMES: dict[Rule, str] = {
    same: "relu relu6 hardtanh leaky_relu elu gelu silu hardswish hardsigmoid sigmoid tanh mish softplus softsign selu "
    "celu rrelu tanhshrink hardshrink softshrink logsigmoid threshold dropout dropout1d dropout2d dropout3d "
    "feature_dropout alpha_dropout clamp clamp_min clamp_max clip neg abs exp expm1 log log1p sqrt rsqrt square sin "
    "cos erf sign round floor ceil "
    "reciprocal contiguous clone detach to float half bfloat16 double type type_as cpu cuda "
    "nan_to_num requires_grad data logical_not invert positive",
    pointwise: "add sub mul div truediv true_divide subtract multiply divide pow maximum minimum where lerp addcmul "
    "addcdiv rsub eq ne lt le gt ge masked_fill atan2 logical_and logical_or",
    shaped: "view reshape flatten unflatten permute transpose movedim moveaxis swapaxes swapdims squeeze unsqueeze "
    "expand expand_as view_as reshape_as T mT t repeat tile repeat_interleave pixel_shuffle pixel_unshuffle "
    "channel_shuffle broadcast_to",
    parted: "chunk split tensor_split split_with_sizes unbind getitem narrow select",
    assigned: "setitem",
    joined: "cat concat concatenate stack",
    reduced: "mean sum amax amin max min std var prod norm logsumexp argmax argmin any all median",
    normalised: "softmax log_softmax softmin normalize cumsum",
    pooled: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate "
    "upsample max_pool2d_with_indices",
    padded: "pad",
    convolved: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    linear: "linear",
    embedded: "embedding",
    batch_normalised: "batch_norm instance_norm",
    group_normalised: "group_norm layer_norm rms_norm",
    sloped: "prelu",
    multiplied: "matmul bmm mm",
    attended: "scaled_dot_product_attention",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
