"""Streaming rules: how each op looks for one hop.

``RULES`` maps an ATen op to a function ``rule(rewriter, clip_node) -> Value``. A rule emits nodes
of the step graph and returns what they stand for. This module holds the registry, what rules share,
and the ops that stay inside a frame; the modules beside it hold data movement (``rules_shape``),
windows
(``rules_window``), shifts and padding (``rules_shift``), running values (``rules_running``),
recurrence (``recurrent``) and attention (``attention``).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.value import Refused, Value, refusal

__all__ = ["KINDS", "POINTWISE", "RULES", "argument", "register", "register_op"]

_aten = torch.ops.aten
Rule = Callable[[Rewriter, fx.Node], Any]
RULES: dict[Any, Rule] = {}
KINDS: dict[str, list[str]] = {}  # kind -> op names, for the generated documentation


def register(kind: str, *names: str) -> Callable[[Rule], Rule]:
    """Register the decorated rule for ATen ops ``names`` (``op`` or ``op.overload``)."""

    def add(rule: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(_aten, packet), overload or "default")
            register_op(kind, op, name, rule)
        return rule

    return add


def register_op(kind: str, op: Any, name: str, rule: Rule) -> None:
    """Register a rule for one op; ``name`` is what the documentation calls it."""
    RULES[op] = rule
    names = KINDS.setdefault(kind, [])
    if name not in names:
        names.append(name)


# -- helpers ------------------------------------------------------------------------------------


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """Return an argument of an op by its schema name."""
    for i, spec in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if spec.name == name:
            if i < len(node.args):
                return node.args[i]
            return node.kwargs.get(name, spec.default_value if default is None else default)
    return default


def operands(ctx: Rewriter, node: fx.Node) -> list[Value]:
    """Return the tensors a node reads, each standing for the very argument."""
    return [
        replace(ctx.value(n), clip=n)
        for n in node.all_input_nodes
        if isinstance(n.meta.get("val"), torch.Tensor)
    ]


def size_of(ctx: Rewriter, node: fx.Node, size: Any) -> Any:
    """Return a size of the clip graph as an int or a node of the step graph.

    Raises:
        NotStreamable: it grows with the number of frames.
    """
    if isinstance(size, fx.Node):
        size = size.meta.get("val")
    if not isinstance(size, torch.SymInt):
        return size
    if ctx.clip.slope(size) != 0:
        raise refusal(
            node,
            "it computes with the number of frames",
            "use a value per frame; a stream has no length",
        )
    one = ctx.clip.size(size, 1, 1)
    if not ctx.per_stream(size):
        return one
    return ctx.batch_size() if one == 1 else ctx.emit(operator.mul, (ctx.batch_size(), one))


def step_sizes(ctx: Rewriter, val: torch.Tensor) -> list[Any]:
    """Return the sizes that clip tensor ``val`` has in the step graph, ints or nodes."""
    sizes: list[Any] = []
    for size in val.shape:
        slope = ctx.clip.slope(size, 1)
        one = int(slope * ctx.hop) if slope else ctx.clip.size(size, 1, 1)
        if not ctx.per_stream(size):
            sizes.append(one)
        elif one == 1:
            sizes.append(ctx.batch_size())
        else:
            sizes.append(ctx.emit(operator.mul, (ctx.batch_size(), one)))
    return sizes


def mapped(ctx: Rewriter, node: fx.Node, values: Sequence[Value]) -> tuple[Any, Any]:
    """Return args and kwargs with clip nodes replaced by the nodes of ``values``."""
    table = {v.clip: v.node for v in values}

    def swap(n: fx.Node) -> Any:
        return table[n] if n in table else size_of(ctx, node, n)

    return fx.map_arg(node.args, swap), fx.map_arg(node.kwargs, swap)


def aligned_operands(ctx: Rewriter, node: fx.Node) -> list[Value]:
    """Return operands delayed to a common offset, all with time at one rate."""
    originals = operands(ctx, node)
    timed = [v for v in originals if v.axis is not None]
    for other in timed[1:]:
        if other.fold != timed[0].fold or other.rate != timed[0].rate:
            raise refusal(
                node, "its operands have time at different rates", "bring both to one frame rate"
            )
    late = ctx.aligned(originals)
    return [replace(v, clip=o.clip) for v, o in zip(late, originals, strict=True)]


def result(ctx: Rewriter, node: fx.Node, new: fx.Node, values: Sequence[Value]) -> Value:
    """Return the value of a frame-local op: time as in its operands, axis from the clip shape."""
    timed = [v for v in values if v.axis is not None]
    axis = ctx.time_axis(node)
    if axis is None and timed:
        raise refusal(
            node,
            "its result depends on all frames at once",
            "use a running value (a window, an exponential average or a cumulative sum)",
        )
    if not timed:
        return Value(new, node)
    past = max(v.past for v in timed)
    return replace(timed[0], node=new, clip=node, axis=axis, past=past)


def positive_axis(index: int, ndim: int) -> int:
    """Return an axis counted from the front."""
    return index + ndim if index < 0 else index


def same_op(ctx: Rewriter, node: fx.Node) -> Value:
    """Rule of ops that do to one hop what they do to a clip."""
    values = aligned_operands(ctx, node)
    args, kwargs = mapped(ctx, node, values)
    return result(ctx, node, ctx.emit(node.target, args, kwargs), values)


def refuse_time(ctx: Rewriter, node: fx.Node, value: Value, dims: Sequence[int]) -> None:
    """Refuse an op that works along the time axis."""
    ndim = value.clip.meta["val"].ndim
    if value.axis is not None and value.axis in {positive_axis(d, ndim) for d in dims}:
        raise refusal(
            node,
            "it works over all frames of the clip, which is not causal with finite lookahead",
            "use a running or windowed form (cumulative or per-frame normalisation, EMA, window)",
        )


# -- frame-local ops ----------------------------------------------------------------------------

POINTWISE = (
    "abs", "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "mul.Tensor", "mul.Scalar",
    "div.Tensor", "div.Scalar", "div.Tensor_mode", "neg", "exp", "exp2", "expm1", "log",
    "log1p", "sqrt", "rsqrt", "square", "reciprocal", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "sigmoid", "log_sigmoid", "logit", "relu", "relu6", "hardtanh",
    "hardsigmoid", "hardswish", "silu", "gelu", "elu", "celu", "selu", "leaky_relu", "softplus",
    "mish", "threshold", "hardshrink", "softshrink", "clamp", "clamp.Tensor", "clamp_min",
    "clamp_max", "minimum", "maximum", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar",
    "where.self", "where.ScalarOther", "where.ScalarSelf", "eq.Scalar", "ne.Scalar", "gt.Scalar",
    "ge.Scalar", "lt.Scalar", "le.Scalar", "eq.Tensor", "ne.Tensor", "gt.Tensor", "lt.Tensor",
    "ge.Tensor", "le.Tensor", "logical_not", "logical_and", "logical_or", "bitwise_not",
    "bitwise_and.Tensor", "bitwise_or.Tensor", "sign", "round", "floor", "ceil", "trunc", "frac",
    "fmod.Scalar", "remainder.Scalar", "rsub.Scalar", "rsub.Tensor", "atan2", "hypot", "erf",
    "masked_fill.Scalar", "masked_fill.Tensor", "addcmul", "addcdiv", "lerp.Scalar", "lerp.Tensor",
    "nan_to_num", "logaddexp", "isnan", "__and__.Tensor", "__or__.Tensor", "to.dtype",
    "to.dtype_layout", "_to_copy", "type_as",
)  # fmt: skip
register("pointwise", *POINTWISE)(same_op)


@register(
    "nothing to do", "clone", "contiguous", "alias", "detach", "detach_", "lift_fresh_copy",
    "dropout", "feature_dropout", "alpha_dropout",
)  # fmt: skip
def _identity(ctx: Rewriter, node: fx.Node) -> Value:
    return replace(ctx.value(node.args[0]), clip=node)


@register("per channel", "prelu")
def _prelu(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    weight: Any = node.args[1]
    if value.axis == 1 and weight.meta["val"].numel() != 1:
        raise refusal(node, "its slope differs per frame", "put channels on axis 1")
    return same_op(ctx, node)


@register("over axes other than time", "linear")
def _linear(ctx: Rewriter, node: fx.Node) -> Value:
    refuse_time(ctx, node, ctx.value(node.args[0]), [-1])
    return same_op(ctx, node)


@register("over axes other than time", "matmul", "bmm", "mm", "addmm", "mv", "dot")
def _matmul(ctx: Rewriter, node: fx.Node) -> Value:
    first, second = node.args[-2:]
    left, right = ctx.value(first), ctx.value(second)
    refuse_time(ctx, node, left, [-1])
    refuse_time(ctx, node, right, [-2 if right.clip.meta["val"].ndim > 1 else -1])
    return same_op(ctx, node)


@register(
    "over axes other than time",
    "softmax.int", "_softmax", "mean.dim", "mean", "sum", "sum.dim_IntList",
    "amax", "amin", "max.dim", "min.dim", "max", "min", "var.correction", "std.correction",
    "var.dim", "std.dim", "var_mean.correction", "prod.dim_int", "argmax", "argmin", "flip",
    "linalg_vector_norm", "norm.ScalarOpt_dim", "logsumexp", "all.dim", "any.dim", "sort", "topk",
    "cumsum", "cumprod", "cummax", "cummin",
)  # fmt: skip
def over_dims(ctx: Rewriter, node: fx.Node) -> Any:
    """Rule of reductions and the like, whose ``dim`` must not be time."""
    value = ctx.value(node.args[0])
    ndim = value.clip.meta["val"].ndim
    names = {a.name for a in node.target._schema.arguments}  # type: ignore[union-attr]
    dims = argument(node, "dims" if "dims" in names else "dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(ndim))
    refuse_time(ctx, node, value, dims)
    if isinstance(node.meta["val"], torch.Tensor):
        return same_op(ctx, node)
    values = aligned_operands(ctx, node)
    args, kwargs = mapped(ctx, node, values)
    return several(ctx, node, ctx.emit(node.target, args, kwargs), values[0])


def several(ctx: Rewriter, node: fx.Node, new: fx.Node, value: Value) -> list[Value]:
    """Return the values of an op with several results, time as in ``value``."""
    parts = []
    for i, part in enumerate(node.meta["val"]):
        item = ctx.emit(operator.getitem, (new, i))
        parts.append(replace(value, node=item, clip=node, axis=ctx.time_axis(node, part)))
    return parts


@register("over axes other than time", "glu")
def _glu(ctx: Rewriter, node: fx.Node) -> Value:
    """Spelled as slices, sigmoid and product, which every engine has."""
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    val: Any = value.clip.meta["val"]
    dim = positive_axis(argument(node, "dim", -1), val.ndim)
    refuse_time(ctx, node, value, [dim])
    half = int(val.shape[dim]) // 2
    first, second = (
        ctx.emit(_aten.slice.Tensor, (value.node, dim, a, a + half)) for a in (0, half)
    )
    gate = ctx.emit(_aten.sigmoid.default, (second,))
    return result(ctx, node, ctx.emit(_aten.mul.Tensor, (first, gate)), [value])


@register("pointwise", "log2", "log10")
def _log(ctx: Rewriter, node: fx.Node) -> Value:
    """Natural logarithm and a factor: engines have no other."""
    value = ctx.value(node.args[0])
    base = 2.0 if "log2" in str(node.target) else 10.0
    natural = ctx.emit(_aten.log.default, (value.node,))
    scaled = ctx.emit(_aten.mul.Scalar, (natural, 1.0 / math.log(base)))
    return result(ctx, node, scaled, [value])


@register("over axes other than time", "log_softmax.int")
def _log_softmax(ctx: Rewriter, node: fx.Node) -> Value:
    """Spelled out, shifted by the maximum: engines have no log-softmax in int8."""
    value, dim = ctx.value(node.args[0]), node.args[1]
    refuse_time(ctx, node, replace(value, clip=node), [dim])  # type: ignore[list-item]
    peak = ctx.emit(_aten.amax.default, (value.node, [dim], True))
    x = ctx.emit(_aten.sub.Tensor, (value.node, peak))
    total = ctx.emit(_aten.sum.dim_IntList, (ctx.emit(_aten.exp.default, (x,)), [dim], True))
    out = ctx.emit(_aten.sub.Tensor, (x, ctx.emit(_aten.log.default, (total,))))
    return result(ctx, node, out, [value])


@register("over axes other than time", "einsum")
def _einsum(ctx: Rewriter, node: fx.Node) -> Value:
    equation = str(node.args[0]).replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not right:
        raise refusal(node, "its equation is not explicit", "write it as 'ij,jk->ik'")
    for term, operand in zip(terms, node.args[1], strict=True):  # type: ignore[arg-type]
        value = ctx.value(operand)
        if value.axis is not None and term[value.axis] not in right:
            raise refusal(node, "it sums over all frames of the clip", "use a running form")
    ctx.time_axis(node)
    return same_op(ctx, node)


@register("over axes other than time", "layer_norm", "rms_norm")
def _layer_norm(ctx: Rewriter, node: fx.Node) -> Value:
    count = len(node.args[1])  # type: ignore[arg-type]
    refuse_time(ctx, node, ctx.value(node.args[0]), [-1 - i for i in range(count)])
    return same_op(ctx, node)


@register("over axes other than time", "group_norm", "instance_norm")
def _group_norm(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    refuse_time(ctx, node, value, range(1, value.clip.meta["val"].ndim))
    return same_op(ctx, node)


def _getitem(ctx: Rewriter, node: fx.Node) -> Any:
    parts: Any = ctx.env[node.args[0]]  # type: ignore[index]
    if isinstance(parts, Refused):
        return parts
    part = parts[node.args[1]]
    return part if isinstance(part, Refused) else replace(part, clip=node)


RULES[operator.getitem] = _getitem


def _refused(why: str, instead: str, *names: str) -> None:
    def rule(ctx: Rewriter, node: fx.Node) -> Value:
        raise refusal(node, why, instead)

    for name in names:
        packet, _, overload = name.partition(".")
        RULES[getattr(getattr(_aten, packet), overload or "default")] = rule


_refused(
    "a transform inside the model needs framing, which belongs to the fixed-point front end",
    "let the model start at the spectrum (spectral_edge.StftFrontend makes it) and end at a mask",
    "stft", "stft.center", "istft", "fft_rfft", "fft_irfft", "fft_fft", "fft_ifft", "fft_rfft2",
)  # fmt: skip
_refused(
    "engines have no complex numbers",
    "keep real and imaginary parts as channels",
    "view_as_complex", "complex", "polar", "view_as_real",
)  # fmt: skip
_refused("engines have no 3-D convolution", "use conv2d over (frames, bands)", "conv3d")
