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
from math import prod
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter, Value

__all__ = ["KINDS", "RULES", "register", "register_op"]

_aten = torch.ops.aten
Rule = Callable[[Rewriter, fx.Node], Any]
RULES: dict[Any, Rule] = {}
KINDS: dict[str, list[str]] = {}  # kind -> op names, for the generated documentation


def register(kind: str, *names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(_aten, packet), overload or "default")
            RULES[op] = rule
            KINDS.setdefault(kind, []).append(name)
        return rule

    return add


def register_op(kind: str, op: Any, name: str, rule: Rule) -> None:
    """Register a rule for an op outside the ATen library."""
    RULES[op] = rule
    KINDS.setdefault(kind, []).append(name)


# -- helpers ------------------------------------------------------------------------------------


def operands(ctx: Rewriter, node: fx.Node) -> list[Value]:
    return [ctx.env[n] for n in node.all_input_nodes if isinstance(ctx.env.get(n), Value)]


def mapped(ctx: Rewriter, node: fx.Node, values: Sequence[Value]) -> tuple[Any, Any]:
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


def _alignedoperands(ctx: Rewriter, node: fx.Node) -> tuple[list[Value], Value | None]:
    """Return operands delayed to a common offset and one that carries time (or None)."""
    originals = operands(ctx, node)
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


def result(ctx: Rewriter, node: fx.Node, new: fx.Node, values: Sequence[Value]) -> Value:
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


def positive_axis(index: int, ndim: int) -> int:
    return index + ndim if index < 0 else index


def same_op(ctx: Rewriter, node: fx.Node) -> Value:
    values, _ = _alignedoperands(ctx, node)
    args, kwargs = mapped(ctx, node, values)
    return result(ctx, node, ctx.emit(node.target, args, kwargs), values)


def refuse_time(ctx: Rewriter, node: fx.Node, value: Value, dims: Sequence[int]) -> None:
    ndim = value.clip.meta["val"].ndim
    if value.axis is not None and value.axis in {positive_axis(d, ndim) for d in dims}:
        raise ctx.refuse(
            node,
            "it works over all frames of the clip, which is not causal with finite lookahead",
            "use a running or windowed form (cumulative or per-frame normalisation, EMA, window)",
        )


# -- frame-local ops ----------------------------------------------------------------------------

register(
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
)(same_op)  # fmt: skip

register(
    "data movement",
    "clone", "contiguous", "alias", "detach", "permute", "transpose.int", "t",
    "to.dtype", "_to_copy", "type_as", "lift_fresh_copy", "movedim.int", "movedim.intlist",
    "swapaxes", "mT", "zeros_like", "ones_like", "full_like",
)(same_op)  # fmt: skip


@register("data movement", "dropout", "feature_dropout", "alpha_dropout")
def _identity(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    return replace(value, clip=node)


_FILLS = {"zeros": 0.0, "ones": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


@register(
    "constants", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "scalar_tensor"
)
def _creation(ctx: Rewriter, node: fx.Node) -> Value:
    name = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    fill = _FILLS.get(name, node.args[0 if name == "scalar_tensor" else -1])
    val = node.meta["val"]
    shape = [ctx.batch_size() if n == -1 else n for n in ctx.step_shape(val)]
    new = ctx.emit(_aten.full.default, (shape, fill), {"dtype": val.dtype})
    return Value(new, node, axis=ctx.time_axis(node))


@register("per-channel", "prelu")
def _prelu(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    if value.axis == 1:
        weight = node.args[1].meta["val"]  # type: ignore[union-attr]
        if weight.numel() != 1:
            raise ctx.refuse(node, "its slope differs per frame", "put channels on axis 1")
    return same_op(ctx, node)


@register(
    "data movement",
    "view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze.dim",
    "squeeze.dims", "squeeze", "unsqueeze",
)  # fmt: skip
def _view(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
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


@register("data movement", "expand", "expand_as")
def _expand(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    val, source = node.meta["val"], value.clip.meta["val"]
    shape = ctx.step_shape(val)
    lead = val.ndim - source.ndim
    for i, size in enumerate(shape):
        if size == -1 and (i < lead or ctx.step_shape(source)[i - lead] != -1):
            shape[i] = ctx.batch_size()
    if value.axis is None and ctx.time_axes(val):
        return value  # a constant repeated over time: broadcasting does the same for one hop
    new = ctx.emit(_aten.expand.default, (value.node, shape))
    return result(ctx, node, new, [value])


@register("over axes other than time", "linear")
def _linear(ctx: Rewriter, node: fx.Node) -> Value:
    refuse_time(ctx, node, ctx.value(node.args[0]), [-1])
    return same_op(ctx, node)


@register("over axes other than time", "matmul", "bmm", "mm", "addmm")
def _matmul(ctx: Rewriter, node: fx.Node) -> Value:
    first, second = node.args[-2:]
    left, right = ctx.value(first), ctx.value(second)
    refuse_time(ctx, node, left, [-1])
    refuse_time(ctx, node, right, [-2 if right.clip.meta["val"].ndim > 1 else -1])
    return same_op(ctx, node)


@register(
    "over axes other than time",
    "softmax.int", "_softmax", "log_softmax.int", "mean.dim", "sum.dim_IntList", "amax", "amin",
    "var.correction", "std.correction", "var.dim", "std.dim", "prod.dim_int", "argmax",
    "flip", "roll", "glu", "linalg_vector_norm", "logsumexp", "all.dim", "any.dim", "sort",
)  # fmt: skip
def _over_dims(ctx: Rewriter, node: fx.Node) -> Any:
    value = ctx.value(node.args[0])
    ndim = value.clip.meta["val"].ndim
    schema = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    name = "dims" if "dims" in schema else "dim"
    index = schema.index(name)
    dims = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    if dims is None:
        dims = list(range(ndim))
    dims = [dims] if isinstance(dims, int) else list(dims)  # type: ignore[call-overload]
    refuse_time(ctx, node, value, dims or list(range(ndim)))
    return same_op(ctx, node)


@register("over axes other than time", "einsum")
def _einsum(ctx: Rewriter, node: fx.Node) -> Value:
    equation = str(node.args[0]).replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not right:
        raise ctx.refuse(node, "its equation is not explicit", "write it as 'ij,jk->ik'")
    for term, operand in zip(terms, node.args[1], strict=True):  # type: ignore[arg-type]
        value = ctx.value(operand)
        if value.axis is not None and term[value.axis] not in right:
            raise ctx.refuse(
                node, "it sums over all frames of the clip", "use a running or windowed form"
            )
    return same_op(ctx, node)


@register("over axes other than time", "layer_norm")
def _layer_norm(ctx: Rewriter, node: fx.Node) -> Value:
    count = len(node.args[1])  # type: ignore[arg-type]
    refuse_time(ctx, node, ctx.value(node.args[0]), [-1 - i for i in range(count)])
    return same_op(ctx, node)


@register("over axes other than time", "group_norm", "instance_norm")
def _group_norm(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    refuse_time(ctx, node, value, range(1, value.clip.meta["val"].ndim))
    return same_op(ctx, node)


@register("data movement", "upsample_nearest1d.vec", "upsample_nearest2d.vec")
def _upsample_nearest(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    source, target = value.clip.meta["val"], node.meta["val"]
    if value.axis is not None and value.axis > 1:
        if ctx.clip.slope(target.shape[value.axis]) != ctx.clip.slope(source.shape[value.axis]):
            raise ctx.refuse(node, "it changes the frame rate", "up-sample other axes than time")
    size = ctx.step_shape(target)[2:]
    new = ctx.emit(node.target, (value.node, size, None))
    return result(ctx, node, new, [value])


@register("data movement", "select.int", "unfold", "index_select")
def _over_one_dim(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    refuse_time(ctx, node, value, [node.args[1]])  # type: ignore[list-item]
    return same_op(ctx, node)


@register(
    "data movement",
    "split.Tensor", "split_with_sizes", "split.sizes", "chunk", "unsafe_chunk", "tensor_split.sections",
)  # fmt: skip
def _split(ctx: Rewriter, node: fx.Node) -> list[Value]:
    value = ctx.value(node.args[0])
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    refuse_time(ctx, node, value, [dim])  # type: ignore[list-item]
    args, kwargs = mapped(ctx, node, [value])
    new = ctx.emit(node.target, args, kwargs)
    parts = []
    for i, part in enumerate(node.meta["val"]):
        item = ctx.emit(operator.getitem, (new, i))
        parts.append(replace(value, node=item, clip=node, axis=ctx.time_axis(node, part)))
    return parts


@register("data movement", "unbind.int")
def _unbind(ctx: Rewriter, node: fx.Node) -> list[Value]:
    value = ctx.value(node.args[0])
    dim = node.args[1] if len(node.args) > 1 else 0
    refuse_time(ctx, node, value, [dim])  # type: ignore[list-item]
    parts = []
    for i, part in enumerate(node.meta["val"]):
        item = ctx.emit(_aten.select.int, (value.node, dim, i))
        parts.append(replace(value, node=item, clip=node, axis=ctx.time_axis(node, part)))
    return parts


def _getitem(ctx: Rewriter, node: fx.Node) -> Value | None:
    parts: list[Value | None] = ctx.env[node.args[0]]  # type: ignore[index]
    part = parts[node.args[1]]  # type: ignore[index]
    # None is a last state: it exists only at the end of a clip, and using it is refused
    return None if part is None else replace(part, clip=node)


RULES[operator.getitem] = _getitem
