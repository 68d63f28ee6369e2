"""Streaming rules: how each op looks for one hop.

``RULES`` maps an ATen op to a function ``rule(rewriter, clip_node) -> Value``. A rule emits nodes of
the step graph and returns what they stand for. Rules fall into few kinds, registered as tables below:
pointwise ops and data movement (same op on one hop), ops over axes other than time, ops that reach
across time (convolution, padding, slicing).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, prod
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter, Value

__all__ = ["KINDS", "RULES"]

_aten = torch.ops.aten
Rule = Callable[[Rewriter, fx.Node], Any]
RULES: dict[Any, Rule] = {}
KINDS: dict[str, list[str]] = {}  # kind -> op names, for the generated documentation


def _register(kind: str, *names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(_aten, packet), overload or "default")
            RULES[op] = rule
            KINDS.setdefault(kind, []).append(name)
        return rule

    return add


# -- helpers ------------------------------------------------------------------------------------


def _operands(ctx: Rewriter, node: fx.Node) -> list[Value]:
    return [ctx.env[n] for n in node.all_input_nodes if isinstance(ctx.env.get(n), Value)]


def _mapped(ctx: Rewriter, node: fx.Node, values: Sequence[Value]) -> tuple[Any, Any]:
    """Return args and kwargs with clip nodes replaced by the nodes of ``values``."""
    table = {v.clip: v.node for v in values}

    def swap(n: fx.Node) -> Any:
        if n in table:
            return table[n]
        val = n.meta.get("val")
        if isinstance(val, torch.SymInt) and ctx.clip.slope(val) == 0:
            sizes = {ctx.clip.size(val, 1, b) for b in (1, 2, 3)}
            if len(sizes) == 1:
                return sizes.pop()
            if ctx.clip.size(val, 1, 1) == 1:
                return ctx.batch_size()
        raise ctx.refuse(
            node,
            "it computes with the number of frames",
            "use a value per frame; a stream has no length",
        )

    return fx.map_arg(node.args, swap), fx.map_arg(node.kwargs, swap)


def _aligned_operands(ctx: Rewriter, node: fx.Node) -> tuple[list[Value], Value | None]:
    """Return operands delayed to a common offset and one that carries time (or None)."""
    originals = _operands(ctx, node)
    values = [
        replace(v, clip=o.clip) for v, o in zip(ctx.aligned(originals), originals, strict=True)
    ]
    timed = [v for v in values if v.axis is not None]
    for other in timed[1:]:
        if other.fold != timed[0].fold or other.rate != timed[0].rate:
            raise ctx.refuse(
                node, "its operands have time at different rates", "bring both to one frame rate"
            )
    return values, timed[0] if timed else None


def _result(ctx: Rewriter, node: fx.Node, new: fx.Node, values: Sequence[Value]) -> Value:
    """Return the value of a frame-local op: time as in its operands, axis from the clip shape."""
    timed = [v for v in values if v.axis is not None]
    axis = ctx.time_axis(node)
    if axis is None and timed:
        raise ctx.refuse(
            node,
            "its result depends on all frames at once",
            "use a running value (a window, an exponential average or a cumulative sum)",
        )
    if not timed:
        return Value(new, node)
    past = max(v.past for v in timed)
    return replace(timed[0], node=new, clip=node, axis=axis, past=past)


def _axis(index: int, ndim: int) -> int:
    return index + ndim if index < 0 else index


def _same_op(ctx: Rewriter, node: fx.Node) -> Value:
    values, _ = _aligned_operands(ctx, node)
    args, kwargs = _mapped(ctx, node, values)
    return _result(ctx, node, ctx.emit(node.target, args, kwargs), values)


def _refuse_time(ctx: Rewriter, node: fx.Node, value: Value, dims: Sequence[int]) -> None:
    ndim = value.clip.meta["val"].ndim
    if value.axis is not None and value.axis in {_axis(d, ndim) for d in dims}:
        raise ctx.refuse(
            node,
            "it works over all frames of the clip, which is not causal with finite lookahead",
            "use a running or windowed form (cumulative or per-frame normalisation, EMA, window)",
        )


# -- frame-local ops ----------------------------------------------------------------------------

_register(
    "pointwise",
    "abs", "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "mul.Tensor", "mul.Scalar",
    "div.Tensor", "div.Scalar", "neg", "exp", "log", "log2", "log10", "log1p", "sqrt", "rsqrt",
    "square", "reciprocal", "sin", "cos", "tanh", "sigmoid", "relu", "relu_", "relu6", "hardtanh",
    "hardtanh_", "hardsigmoid", "hardswish", "hardswish_", "silu", "silu_", "gelu", "elu", "elu_",
    "leaky_relu", "leaky_relu_", "softplus", "selu", "mish", "clamp", "clamp_min", "clamp_max",
    "minimum", "maximum", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "where.self", "eq.Scalar",
    "ne.Scalar", "gt.Scalar", "ge.Scalar", "lt.Scalar", "le.Scalar", "eq.Tensor", "gt.Tensor",
    "lt.Tensor", "ge.Tensor", "le.Tensor", "logical_not", "logical_and", "logical_or", "sign",
    "round", "floor", "ceil", "rsub.Scalar", "atan2", "erf", "add_.Tensor", "mul_.Tensor",
    "sub_.Tensor", "div_.Tensor", "masked_fill.Scalar",
)(_same_op)  # fmt: skip

_register(
    "data movement",
    "clone", "contiguous", "alias", "detach", "permute", "transpose.int", "t", "unbind.int",
    "to.dtype", "_to_copy", "type_as", "lift_fresh_copy",
)(_same_op)  # fmt: skip


@_register("data movement", "dropout", "feature_dropout", "alpha_dropout")
def _identity(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    return replace(value, clip=node)


@_register("per-channel", "prelu")
def _prelu(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    if value.axis == 1:
        weight = node.args[1].meta["val"]  # type: ignore[union-attr]
        if weight.numel() != 1:
            raise ctx.refuse(node, "its slope differs per frame", "put channels on axis 1")
    return _same_op(ctx, node)


@_register(
    "data movement",
    "view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze.dim",
    "squeeze.dims", "squeeze", "unsqueeze",
)  # fmt: skip
def _view(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    val = node.meta["val"]
    shape = ctx.step_shape(val)
    if shape.count(-1) > 1:
        raise ctx.refuse(node, "it splits the batch", "keep the batch on one axis")
    new = ctx.emit(_aten.view.default, (_contiguous(ctx, value), shape))
    if value.axis is None:
        return Value(new, node)
    axis = ctx.time_axis(node)
    assert axis is not None
    before, after = ctx.concrete(value.clip.meta["val"]), ctx.concrete(val)
    outer = Fraction(prod(before[: value.axis]) * value.fold[0], prod(after[:axis]))
    inner = Fraction(prod(before[value.axis + 1 :]) * value.fold[1], prod(after[axis + 1 :]))
    if outer.denominator != 1 or inner.denominator != 1:
        raise ctx.refuse(
            node, "the reshape mixes frames with another axis", "use permute to move axes"
        )
    return replace(value, node=new, clip=node, axis=axis, fold=(int(outer), int(inner)))


def _contiguous(ctx: Rewriter, value: Value) -> fx.Node:
    moved = value.node.target in (_aten.permute.default, _aten.transpose.int, _aten.expand.default)
    return ctx.emit(_aten.contiguous.default, (value.node,)) if moved else value.node


@_register("data movement", "expand", "expand_as")
def _expand(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    val, source = node.meta["val"], value.clip.meta["val"]
    shape = ctx.step_shape(val)
    lead = val.ndim - source.ndim
    for i, size in enumerate(shape):
        if size == -1 and (i < lead or ctx.step_shape(source)[i - lead] != -1):
            shape[i] = ctx.batch_size()
    if value.axis is None and ctx.time_axes(val):
        return value  # a constant repeated over time: broadcasting does the same for one hop
    new = ctx.emit(_aten.expand.default, (value.node, shape))
    return _result(ctx, node, new, [value])


@_register("over axes other than time", "linear")
def _linear(ctx: Rewriter, node: fx.Node) -> Value:
    _refuse_time(ctx, node, ctx.env[node.args[0]], [-1])
    return _same_op(ctx, node)


@_register("over axes other than time", "matmul", "bmm", "mm", "addmm")
def _matmul(ctx: Rewriter, node: fx.Node) -> Value:
    first, second = node.args[-2:]
    left, right = ctx.env[first], ctx.env[second]
    _refuse_time(ctx, node, left, [-1])
    _refuse_time(ctx, node, right, [-2 if right.clip.meta["val"].ndim > 1 else -1])
    return _same_op(ctx, node)


@_register(
    "over axes other than time",
    "softmax.int", "_softmax", "log_softmax.int", "mean.dim", "sum.dim_IntList", "amax", "amin",
    "var.correction", "std.correction", "var.dim", "std.dim", "prod.dim_int", "argmax", "cumsum",
    "flip", "roll", "glu", "linalg_vector_norm", "logsumexp", "all.dim", "any.dim", "sort",
)  # fmt: skip
def _over_dims(ctx: Rewriter, node: fx.Node) -> Any:
    value: Value = ctx.env[node.args[0]]
    ndim = value.clip.meta["val"].ndim
    schema = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    name = "dims" if "dims" in schema else "dim"
    index = schema.index(name)
    dims = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    if dims is None:
        dims = list(range(ndim))
    dims = [dims] if isinstance(dims, int) else list(dims)  # type: ignore[call-overload]
    _refuse_time(ctx, node, value, dims or list(range(ndim)))
    return _same_op(ctx, node)


@_register("over axes other than time", "layer_norm")
def _layer_norm(ctx: Rewriter, node: fx.Node) -> Value:
    count = len(node.args[1])  # type: ignore[arg-type]
    _refuse_time(ctx, node, ctx.env[node.args[0]], [-1 - i for i in range(count)])
    return _same_op(ctx, node)


@_register("over axes other than time", "group_norm", "instance_norm")
def _group_norm(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    _refuse_time(ctx, node, value, range(1, value.clip.meta["val"].ndim))
    return _same_op(ctx, node)


@_register("data movement", "upsample_nearest1d.vec", "upsample_nearest2d.vec")
def _upsample_nearest(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    source, result = value.clip.meta["val"], node.meta["val"]
    if value.axis is not None and value.axis > 1:
        if ctx.clip.slope(result.shape[value.axis]) != ctx.clip.slope(source.shape[value.axis]):
            raise ctx.refuse(node, "it changes the frame rate", "up-sample other axes than time")
    size = ctx.step_shape(result)[2:]
    new = ctx.emit(node.target, (value.node, size, None))
    return _result(ctx, node, new, [value])


@_register("data movement", "cat")
def _cat(ctx: Rewriter, node: fx.Node) -> Value:
    ndim = node.meta["val"].ndim
    dim = _axis(node.args[1] if len(node.args) > 1 else 0, ndim)  # type: ignore[arg-type]
    values = _operands(ctx, node)
    if any(v.axis == dim for v in values):
        raise ctx.refuse(
            node,
            "it joins pieces along time",
            "pad with torch.nn.functional.pad, or concatenate channels",
        )
    return _same_op(ctx, node)


@_register("data movement", "select.int", "unfold", "index_select")
def _over_one_dim(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    _refuse_time(ctx, node, value, [node.args[1]])  # type: ignore[list-item]
    return _same_op(ctx, node)


@_register(
    "data movement",
    "split.Tensor", "split_with_sizes", "split.sizes", "chunk", "unsafe_chunk", "tensor_split.sections",
)  # fmt: skip
def _split(ctx: Rewriter, node: fx.Node) -> list[Value]:
    value: Value = ctx.env[node.args[0]]
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    _refuse_time(ctx, node, value, [dim])  # type: ignore[list-item]
    args, kwargs = _mapped(ctx, node, [value])
    new = ctx.emit(node.target, args, kwargs)
    return [
        replace(value, node=new, clip=node, axis=ctx.time_axis(node, part))
        for part in node.meta["val"]
    ]


def _getitem(ctx: Rewriter, node: fx.Node) -> Value:
    parts = ctx.env[node.args[0]]
    part: Value = parts[node.args[1]]
    new = ctx.emit(operator.getitem, (part.node, node.args[1]))
    return replace(part, node=new, clip=node)


RULES[operator.getitem] = _getitem


# -- ops that reach across time -----------------------------------------------------------------


@_register("across time", "slice.Tensor")
def _slice(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    defaults = (None, 0, None, None, 1)
    args = [*node.args, *defaults[len(node.args) :]]
    dim = _axis(args[1], value.clip.meta["val"].ndim)  # type: ignore[arg-type]
    if dim != value.axis:
        mapped, kwargs = _mapped(ctx, node, [value])
        return _result(ctx, node, ctx.emit(node.target, mapped, kwargs), [value])
    start, step = args[2] or 0, args[4]
    if not isinstance(start, int) or start < 0 or step != 1 or not value.pure:
        raise ctx.refuse(
            node, "it cuts frames counted from the end, or skips frames", "slice from a fixed start"
        )
    if ctx.time_axis(node) is None:
        raise ctx.refuse(node, "it keeps a fixed number of frames", "keep one value per frame")
    # y[j] = x[j + start]: the newest frame of x is an older one of y
    return replace(value, clip=node, offset=value.offset + start)


@_register("across time", "constant_pad_nd", "pad")
def _pad(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    ndim = value.clip.meta["val"].ndim
    pads: list[int] = list(node.args[1])  # type: ignore[arg-type]
    mode = "constant"
    fill: Any = 0.0
    if node.target is _aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"  # type: ignore[assignment]
        fill = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    elif len(node.args) > 2:
        fill = node.args[2]
    left = right = 0
    if value.axis is not None:
        index = 2 * (ndim - 1 - value.axis)
        if index + 1 < len(pads):
            left, right = pads[index], pads[index + 1]
            pads[index] = pads[index + 1] = 0
    if left and not value.pure:
        raise ctx.refuse(node, "it pads an axis that merges time", "pad before merging axes")
    if left and mode != "constant":
        raise ctx.refuse(node, f"it pads time by {mode!r}", "pad time with a constant")
    if left > 0 and value.offset > 0:
        raise ctx.refuse(
            node,
            f"it pads a tensor that already looks {value.offset} frames ahead",
            "pad on the left only in all layers but the first",
        )
    node_out = value.node
    while pads and pads[-1] == 0:
        pads.pop()
    if pads:
        pads += [0] * (len(pads) % 2)
        if mode == "constant":
            node_out = ctx.emit(_aten.constant_pad_nd.default, (node_out, pads, fill or 0.0))
        else:
            node_out = ctx.emit(_aten.pad.default, (node_out, pads, mode))
    # y[j] = x[j - left]
    past = value.past + Fraction(left) / value.rate
    return replace(
        value, node=node_out, clip=node, offset=value.offset - left, past=max(Fraction(0), past)
    )


@_register("across time", "conv1d", "conv2d", "conv1d.padding", "conv2d.padding")
def _conv(ctx: Rewriter, node: fx.Node) -> Value:
    value: Value = ctx.env[node.args[0]]
    weight: Value = ctx.env[node.args[1]]
    kernel = list(weight.clip.meta["val"].shape[2:])
    n = len(kernel)
    args = [*node.args, *(None, [1] * n, [0] * n, [1] * n, 1)[len(node.args) - 2 :]]
    bias = ctx.env[args[2]].node if args[2] is not None else None
    stride, dilation = _spread(args[3], n), _spread(args[5], n)
    padding = _paddings(args[4], kernel, dilation)
    if weight.axis is not None:
        raise ctx.refuse(node, "its kernel depends on the input", "use multiplications")
    if value.axis is None or value.axis == 0:
        mapped, kwargs = _mapped(ctx, node, _operands(ctx, node))
        return _result(ctx, node, ctx.emit(node.target, mapped, kwargs), [value])
    if value.axis == 1 or not value.pure:
        raise ctx.refuse(
            node, "time is on its channel axis or merged with another axis", "keep time spatial"
        )
    along = value.axis - 2
    reach = (kernel[along] - 1) * dilation[along]
    left, right = padding[along]
    if left > 0 and value.offset > 0:
        raise ctx.refuse(
            node,
            f"it pads a tensor that already looks {value.offset} frames ahead",
            "pad on the left only in all layers but the first",
        )
    s = stride[along]
    chunk = ctx.chunk(value)
    assert chunk % s == 0, "hop multiple divides every stride"
    lag = value.offset - left  # of the padded input
    offset = ceil(Fraction(lag + reach - (s - 1), s))
    count = offset * s - lag
    full = ctx.history(replace(value, offset=lag), count)
    used = chunk - s + 1 + reach
    if used < count + chunk:
        full = ctx.emit(_aten.slice.Tensor, (full, value.axis, 0, used))
    spatial = [p if i != along else (0, 0) for i, p in enumerate(padding)]
    full, symmetric = _pad_asymmetric(ctx, full, spatial)
    new = ctx.emit(
        _aten.conv1d.default if n == 1 else _aten.conv2d.default,
        (full, weight.node, bias, stride, symmetric, dilation, args[6]),
    )
    return replace(
        value,
        node=new,
        clip=node,
        offset=offset,
        rate=value.rate / s,
        past=value.past + Fraction(left) / value.rate,
    )


def _spread(value: Any, n: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * n if len(items) == 1 else items


def _paddings(value: Any, kernel: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in _spread(value, len(kernel))]


def _pad_asymmetric(
    ctx: Rewriter, node: fx.Node, pads: list[tuple[int, int]]
) -> tuple[fx.Node, list[int]]:
    if all(a == b for a, b in pads):
        return node, [a for a, _ in pads]
    flat = [p for pair in reversed(pads) for p in pair]
    return ctx.emit(_aten.constant_pad_nd.default, (node, flat, 0.0)), [0] * len(pads)
