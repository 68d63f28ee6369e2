"""Scales chosen so that no value ever lies near a rounding boundary.

Engines round the same integer sum with different arithmetic: float32, 21-bit multipliers, doubled
31-bit products. Where a value lies within about 1e-5 of k + 1/2 they disagree by one code, and a
deep recurrent network enlarges one such flip until nothing agrees. But what is rounded is an
integer times a ratio of scales. When that ratio is r/q with an *odd* q, every value is a multiple
of 1/q, so none is closer to a boundary than 1/(2q): far more than the error of a kernel that
rounds once. Such engines, and torch with float32 sums, then give the same integers.

- Convolutions and linear layers: the weight scale of each channel moves (by at most 5 %) so that
  s_x · s_w / s_y = r/q.
- Sums and changes of scale: all tensors joined by them take odd multiples of one power of two as
  scales (at most 3 % more).
- Means: likewise, the size counts as a divisor. Of a mean that is part of a sum, the scale of what
  the mean is taken of is divisible by two as often as the size is.
- Products: the scale of the result moves (by at most 5 %). One that is part of a sum gets a power
  of two, and its factors scales of few bits: its values are then exact in float32 and may lie on a
  boundary, which all engines round half to even. Zero points are even, so that they may be added
  before or after rounding.
- What a float island ends in, where a recurrent state depends on it: a power of two, by which to
  divide and by whose reciprocal to multiply are the same.

Kernels that round twice (tflite-runtime 2.14) still differ by a code now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log2
from typing import Any

import torch
from torch import fx

from spectral_edge.program import QParams

from .fake_quant import ActivationQuantizer, WeightQuantizer
from .insert import REDUCES, quantizer_of, quantizers
from .islands import ISLAND
from .ops import WEIGHTED, is_clamp
from .quantizer import REQUANTIZE

__all__ = ["odd_fraction", "separate"]

_aten = torch.ops.aten
_SUMS = (
    _aten.add.Tensor,
    _aten.sub.Tensor,
    REQUANTIZE,
    _aten.silu.default,  # x itself where x is large
    _aten.gelu.default,
    _aten.elu.default,
    _aten.hardswish.default,
    _aten.leaky_relu.default,
    _aten.prelu.default,
    _aten.relu.default,  # where no convolution before it takes it over
    _aten.relu6.default,
    _aten.hardtanh.default,
    _aten.abs.default,
)
_PRODUCTS = (_aten.mul.Tensor, _aten.matmul.default, _aten.bmm.default, _aten.mm.default)
_MEAN = _aten.mean.dim
_UNIT_BITS = 5  # the unit of a sum is 2^5 or more below its smallest scale
_SPAN_BITS = 13  # and at most 2^14 below its largest: a constant zero has no scale to speak of
_SLACK = 0.005  # a scale may shrink by this share
_GROWTH = 0.05  # and grow by this
_PRODUCT_SLACK = 0.03  # a product that is part of a sum may clip this much for a power of two
_LARGEST_NUMERATOR = 96


def odd_fraction(low: float, high: float) -> float | None:
    """Return r/q in [low, high] with odd q and small r, None when there is none."""
    for r in range(1, _LARGEST_NUMERATOR):
        q = ceil(r / high)
        q += 1 - q % 2
        if q * low <= r:
            return r / q
    return None


def separate(module: fx.GraphModule) -> None:
    """Move the scales of a prepared graph (in place) away from rounding boundaries.

    Scales change by a few percent at most; calling it again changes nothing. Tensors with
    prescribed scales stay as they are.
    """
    _even_zero_points(module)
    summed = _separate_sums(module)
    settled = set(summed)
    for q in _islands(module):
        if q.fixed is None and q not in settled:
            _move(q, _power(q.qparams().scale))
            settled.add(q)
    _shorten_factors(module, settled)
    for node in module.graph.nodes:
        if node.target in _PRODUCTS:
            _separate_product(module, node, settled)
        if node.target is _MEAN:
            _separate_mean(module, node, settled)
    for node in module.graph.nodes:
        if node.target in WEIGHTED:
            _separate_weight(module, node)


def _islands(module: fx.GraphModule) -> set[ActivationQuantizer]:
    nodes = [n for n in module.graph.nodes if ISLAND in n.meta and n.op == "call_function"]
    found = [quantizer_of(module, n) for n in nodes]
    return {q for q in found if q is not None}


def _even_zero_points(module: fx.GraphModule) -> None:
    """Make zero points even: half to even then gives one code, added before or after rounding."""
    for q in quantizers(module):
        if q.fixed is None:
            now = q.qparams()
            q.set_qparams(QParams(now.scale, min(now.zero_point + now.zero_point % 2, 126)))


def _result(module: fx.GraphModule, node: fx.Node) -> ActivationQuantizer | None:
    """Return the quantiser that rounds what ``node`` computes, behind a fused clamp or not."""
    found = quantizer_of(module, node)
    if found is None and len(node.users) == 1:
        (user,) = node.users
        if is_clamp(user):
            return quantizer_of(module, user)
    return found


def _operands(module: fx.GraphModule, node: fx.Node) -> list[ActivationQuantizer]:
    found = [quantizer_of(module, n) for n in node.all_input_nodes]
    return [q for q in found if q is not None]


def _sums(
    module: fx.GraphModule,
) -> Iterator[tuple[ActivationQuantizer, list[ActivationQuantizer]]]:
    for node in module.graph.nodes:
        result = _result(module, node) if node.target in _SUMS else None
        operands = _operands(module, node)
        if result is not None and len(operands) == len(node.all_input_nodes):
            yield result, operands


def _separate_sums(module: fx.GraphModule) -> list[ActivationQuantizer]:
    """Put all tensors joined by sums on odd multiples of one unit; return them."""
    parent: dict[ActivationQuantizer, ActivationQuantizer] = {}

    def find(q: ActivationQuantizer) -> ActivationQuantizer:
        while parent.setdefault(q, q) is not q:
            q = parent[q]
        return q

    results = set()
    products = {_result(module, n) for n in module.graph.nodes if n.target in _PRODUCTS}
    powers = products | _islands(module)
    for result, operands in _sums(module):
        results.add(result)
        for operand in operands:
            parent[find(operand)] = find(result)
    for node in module.graph.nodes:
        if node.target is _MEAN and _result(module, node) in parent:
            for source in _operands(module, node):
                parent[find(source)] = find(_result(module, node))  # type: ignore[arg-type]
    joined: dict[ActivationQuantizer, list[ActivationQuantizer]] = {}
    for q in parent:
        joined.setdefault(find(q), []).append(q)
    halved = _halvings(module, set(parent), results)
    for members in joined.values():
        scales = [q.qparams().scale for q in members]
        finest = [floor(log2(q.qparams().scale)) - _UNIT_BITS - halved.get(q, 0) for q in members]
        finest += [floor(log2(min(scales))) - _UNIT_BITS]
        unit = 2.0 ** max(min(finest), floor(log2(max(scales))) - _SPAN_BITS)
        for q in members:
            if q.fixed is None:
                scale = q.qparams().scale
                if q in halved and unit * 2.0 ** (halved[q] + 3) < scale:
                    _move(q, _multiple(scale, unit * 2.0 ** halved[q]))
                elif q in powers and q not in results:
                    _move(q, _power(scale))
                else:
                    _move(q, _odd_multiple(scale, unit))
    return list(parent)


def _halvings(
    module: fx.GraphModule, summed: set[ActivationQuantizer], results: set[Any]
) -> dict[ActivationQuantizer, int]:
    """Say how often two divides the sizes of means that go into sums, by the mean's source.

    A mean is a sum of codes times s_x / (n · s_y). Only an even n makes boundaries possible, so the
    scale of what it is taken of gets as many factors of two, unless that is the result of a sum.
    """
    found: dict[ActivationQuantizer, int] = {}
    for node in module.graph.nodes:
        if node.target is not _MEAN or _result(module, node) not in summed:
            continue
        for source in _operands(module, node):
            if source in summed and source not in results:
                size = node.meta[REDUCES]
                found[source] = max(found.get(source, 0), (size & -size).bit_length() - 1)
    return found


def _separate_mean(
    module: fx.GraphModule, node: fx.Node, settled: set[ActivationQuantizer]
) -> None:
    """Move the scale of a mean of codes, unless something else has settled it."""
    result, operands = _result(module, node), _operands(module, node)
    if result is None or result.fixed is not None or result in settled or result in operands:
        return
    if len(operands) == 1:
        source = operands[0].qparams().scale / node.meta[REDUCES]
        ratio = source / result.qparams().scale
        if (fraction := odd_fraction(ratio / (1 + _GROWTH), ratio * (1 + _SLACK))) is not None:
            _move(result, source / fraction)
            settled.add(result)


def _shorten_factors(module: fx.GraphModule, settled: set[ActivationQuantizer]) -> None:
    """Give factors of the products that sums have settled scales of few bits; settles them, too."""
    products = [n for n in module.graph.nodes if n.target in _PRODUCTS]
    results = {_result(module, n) for n in products}
    for node in reversed(products):
        if _result(module, node) not in settled:
            continue
        for factor in _operands(module, node):
            if factor.fixed is None and factor not in settled:
                scale = factor.qparams().scale
                unit = 2.0 ** (floor(log2(scale)) - _UNIT_BITS)
                _move(factor, _power(scale) if factor in results else _odd_multiple(scale, unit))
                settled.add(factor)


def _power(scale: float) -> float:
    return 2.0 ** ceil(log2(scale * (1 - _PRODUCT_SLACK)))


def _odd_multiple(scale: float, unit: float) -> float:
    multiple = ceil(scale * (1 - _SLACK) / unit)
    return (multiple + 1 - multiple % 2) * unit


def _multiple(scale: float, unit: float) -> float:
    return ceil(scale * (1 - _SLACK) / unit) * unit


def _separate_product(
    module: fx.GraphModule, node: fx.Node, settled: set[ActivationQuantizer]
) -> None:
    """Move the scale of a product of two tensors, unless something else has settled it."""
    result, operands = _result(module, node), _operands(module, node)
    if result is None or result.fixed is not None or result in settled or len(operands) != 2:
        return
    product = operands[0].qparams().scale * operands[1].qparams().scale
    ratio = product / result.qparams().scale
    if (fraction := odd_fraction(ratio / (1 + _GROWTH), ratio * (1 + _SLACK))) is not None:
        _move(result, product / fraction)
        settled.add(result)


def _move(q: ActivationQuantizer, scale: float) -> None:
    q.set_qparams(QParams(scale, q.qparams().zero_point))


def _separate_weight(module: fx.GraphModule, node: fx.Node) -> None:
    """Move the scale of each output channel of a convolution or linear layer."""
    where = WEIGHTED[node.target]
    source, result = quantizer_of(module, node.args[where.x]), _result(module, node)
    call = node.args[where.weight] if len(node.args) > where.weight else None
    if source is None or result is None or not isinstance(call, fx.Node):
        return
    if call.op != "call_module":
        return
    weight = module.get_submodule(str(call.target))
    if not isinstance(weight, WeightQuantizer):
        return
    factor = source.qparams().scale / result.qparams().scale
    scales = weight.scale().detach().double()
    moved = scales.flatten().tolist()
    for i, scale in enumerate(moved):
        ratio = scale * factor
        fraction = odd_fraction(ratio * (1 - _SLACK), ratio * (1 + _GROWTH))
        if fraction is not None:
            moved[i] = fraction / factor
    weight.set_scale(torch.tensor(moved, dtype=torch.float64).float().reshape(scales.shape))
