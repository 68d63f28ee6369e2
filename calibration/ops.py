"""What quantisation has to know about each ATen op.

Anything not listed computes in float between a dequantised input and a quantised output, which is
right for every op; the lists below say where more is allowed (or prescribed) than that.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from spectral_edge.program import QParams

__all__ = ["FIXED", "FLOAT", "FUSABLE", "MOVE", "SHARE", "WEIGHTED", "Weighted", "is_clamp"]

_aten = torch.ops.aten


class Weighted(NamedTuple):
    """Argument positions of an op with a weight, and the weight's output-channel axis."""

    x: int
    weight: int
    bias: int
    axis: int


WEIGHTED: dict[Any, Weighted] = {
    _aten.conv1d.default: Weighted(0, 1, 2, 0),
    _aten.conv1d.padding: Weighted(0, 1, 2, 0),
    _aten.conv2d.default: Weighted(0, 1, 2, 0),
    _aten.conv2d.padding: Weighted(0, 1, 2, 0),
    _aten.conv3d.default: Weighted(0, 1, 2, 0),
    _aten.convolution.default: Weighted(0, 1, 2, 0),
    _aten.conv_transpose1d.default: Weighted(0, 1, 2, 1),
    _aten.conv_transpose2d.input: Weighted(0, 1, 2, 1),
    _aten.linear.default: Weighted(0, 1, 2, 0),
}

# A clamp that follows one of these directly is part of its integer kernel.
FUSABLE = {*WEIGHTED, _aten.add.Tensor}

# Ops that move codes and compute nothing: their output is on the grid of their inputs.
MOVE = {
    _aten.as_strided.default,
    _aten.cat.default,
    _aten.chunk.default,
    _aten.constant_pad_nd.default,
    _aten.expand.default,
    _aten.expand_as.default,
    _aten.flatten.using_ints,
    _aten.flip.default,
    _aten.gather.default,
    _aten.index.Tensor,
    _aten.index_select.default,
    _aten.max_pool1d.default,
    _aten.max_pool2d.default,
    _aten.movedim.int,
    _aten.narrow.default,
    _aten.pad.default,
    _aten.permute.default,
    _aten.pixel_shuffle.default,
    _aten.pixel_unshuffle.default,
    _aten.repeat.default,
    _aten.repeat_interleave.self_int,
    _aten.reshape.default,
    _aten.roll.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.stack.default,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unbind.int,
    _aten.unflatten.int,
    _aten.unsqueeze.default,
    _aten.upsample_nearest1d.default,
    _aten.upsample_nearest1d.vec,
    _aten.upsample_nearest2d.default,
    _aten.upsample_nearest2d.vec,
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.amax.default,
    _aten.amin.default,
    _aten.maximum.default,
    _aten.minimum.default,
    _aten.where.self,
    operator.getitem,
}

# Ops whose kernels want equal qparams on both sides although they compute or bring in a number.
SHARE = {
    _aten.adaptive_avg_pool2d.default,
    _aten.avg_pool1d.default,
    _aten.avg_pool2d.default,
    _aten.masked_fill.Scalar,
    _aten.where.ScalarOther,
    _aten.where.ScalarSelf,
    _aten.upsample_bilinear2d.vec,
}

_ZERO_TO_ONE = QParams(1 / 256, -128)
_MINUS_ONE_TO_ONE = QParams(1 / 128, 0)

# Outputs whose qparams the integer kernels prescribe.
FIXED: dict[Any, QParams] = {
    _aten.sigmoid.default: _ZERO_TO_ONE,
    _aten.softmax.int: _ZERO_TO_ONE,
    _aten._softmax.default: _ZERO_TO_ONE,
    _aten.tanh.default: _MINUS_ONE_TO_ONE,
}

# Ops without an integer kernel; a chain of them stays in float from end to end.
FLOAT = {
    _aten.div.Tensor,
    _aten.elu.default,
    _aten.erf.default,
    _aten.exp.default,
    _aten.group_norm.default,
    _aten.layer_norm.default,
    _aten.log.default,
    _aten.log1p.default,
    _aten.native_layer_norm.default,
    _aten.pow.Tensor_Scalar,
    _aten.prelu.default,
    _aten.reciprocal.default,
    _aten.rms_norm.default,
    _aten.rsqrt.default,
    _aten.silu.default,
    _aten.softplus.default,
    _aten.sqrt.default,
}


def is_clamp(node: fx.Node) -> bool:
    """Say whether ``node`` is a ReLU or ReLU6, the clamps that integer kernels fuse."""
    if node.target in (_aten.relu.default, _aten.relu6.default):
        return True
    return node.target is _aten.hardtanh.default and tuple(node.args[1:3]) == (0.0, 6.0)
