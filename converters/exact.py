"""The quantised step in exact integer arithmetic, as the engines compute it.

Fake-quantised torch sums dequantised values in float32; an integer kernel sums codes exactly and
rounds once. The two differ where a value lies within a few 1e-5 codes of a rounding boundary: about
one code in 10^5 per convolution. A deep network passes such a flip on and enlarges it (measured on
trained saf_edge_s: one flip at hop 8 becomes differences of up to 19 codes), so float32 sums cannot
serve as a golden reference. Here

- convolutions and linear layers sum codes exactly, then round ``float32(sum) · scale`` half to
  even, scale = s_x · s_w / s_y in float32: what XNNPACK and MLAS do;
- products likewise;
- sums of two tensors use XNNPACK's 21-bit multipliers with round half up (xnnpack, qs8-vadd);
- everything else is torch on dequantised codes, in float64 and rounded to float32: nearest to what
  any float32 kernel gives, whatever its order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node
from torch.utils._pytree import tree_map

from spectral_edge.program import StepProgram

from .passes import clean
from .passes.common import arguments, is_dequantize, is_quantize, op_name, qparams_of

__all__ = ["ExactStep"]

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d")
_CLAMPS = {"aten.relu": (0.0, None), "aten.relu6": (0.0, 6.0)}
_LARGEST_PRODUCT = 255 * 127  # of a code minus zero point and a weight code
_EXACT_FLOAT32 = 2**24  # float32 sums integers below this exactly, in any order
_VADD_BITS = 20  # the larger multiplier of a sum lies in [2^20, 2^21)


@dataclass(frozen=True)
class _Site:
    """A quantise node that is computed exactly: what it rounds, and the clamp in between."""

    producer: Node
    kind: str
    bounds: tuple[float | None, float | None]


class ExactStep(torch.fx.Interpreter):
    """Runs the step of a quantised program at batch 1; real values in and out, all on their grids.

    Call it with inputs and states like ``program.module``.
    """

    def __init__(self, program: StepProgram) -> None:
        example: list[Any] = [
            torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in program.inputs
        ]
        example += list(program.initial_states(1))
        cleaned = clean(program.module, example)
        super().__init__(cleaned, garbage_collect_values=False)
        self._outputs = len(program.outputs)
        self._sites = {n: s for n in cleaned.graph.nodes if (s := _site(n)) is not None}
        self._exact = {s.producer for s in self._sites.values()}

    def step(
        self, inputs: Sequence[torch.Tensor], states: Sequence[torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Run one hop: (inputs, states) -> (outputs, next states), like ``StepProgram.step``."""
        with torch.no_grad():
            flat = self.run(*inputs, *states)
        return tuple(flat[: self._outputs]), tuple(flat[self._outputs :])

    def run_node(self, n: Node) -> Any:
        """Compute a node; exact sites from codes, all others as torch does."""
        if n in self._exact and not _read_elsewhere(n, self._sites):
            return torch.empty(n.meta["val"].shape)  # only its exact form is read
        site = self._sites.get(n)
        if site is None:
            return super().run_node(n)
        scale, zero_point, low, high, dtype = qparams_of(n)
        codes = _COMPUTE[site.kind](self, site.producer, float(scale)) + zero_point
        least, most = (
            limit if b is None else int(np.rint(b / np.float32(scale))) + zero_point
            for b, limit in zip(site.bounds, (low, high), strict=True)
        )
        return torch.clamp(codes, max(least, low), min(most, high)).to(dtype)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute an ATen op in float64 and round its result to float32."""
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
            return super().call_function(target, args, kwargs)
        args, kwargs = tree_map(_widened, (args, kwargs))
        return tree_map(_narrowed, super().call_function(target, args, kwargs))

    def _codes(self, node: Node) -> tuple[torch.Tensor, np.float32]:
        """Codes minus zero point as float64, and the scale, of a dequantised operand."""
        bound = arguments(node)
        codes = self.env[bound["input"]].double() - int(bound["zero_point"])
        return codes, np.float32(bound["scale"])

    def _weight(self, node: Any) -> tuple[torch.Tensor, torch.Tensor]:
        bound = arguments(node)
        key = "scales" if "scales" in bound else "scale"
        scales = self.env[bound[key]] if isinstance(bound[key], Node) else bound[key]
        return self.env[bound["input"]].double(), torch.as_tensor(scales, dtype=torch.float32)

    def _weighted(self, node: Node, scale: float) -> torch.Tensor:
        bound = arguments(node)
        x, scale_x = self._codes(bound["input"])
        weight, scale_w = self._weight(bound["weight"])
        terms = weight[0].numel()
        kind = torch.float32 if terms * _LARGEST_PRODUCT < _EXACT_FLOAT32 else torch.float64
        bias = bound["bias"]
        bound |= {"input": x.to(kind), "weight": weight.to(kind), "bias": None}
        total = node.target(*bound.values()).double()  # type: ignore[operator]
        if bias is not None:
            total += _per_channel(self._weight(bias)[0], node, total.ndim)
        factor = torch.as_tensor(scale_x) * scale_w / torch.tensor(scale, dtype=torch.float32)
        return torch.round(total.float() * _per_channel(factor, node, total.ndim)).double()

    def _product(self, node: Node, scale: float) -> torch.Tensor:
        (a, scale_a), (b, scale_b) = self._codes(node.args[0]), self._codes(node.args[1])  # type: ignore[arg-type]
        factor = scale_a * scale_b / np.float32(scale)
        return torch.round((a * b).float() * torch.as_tensor(factor)).double()

    def _sum(self, node: Node, scale: float) -> torch.Tensor:
        (a, scale_a), (b, scale_b) = self._codes(node.args[0]), self._codes(node.args[1])  # type: ignore[arg-type]
        ratio_a, ratio_b = scale_a / np.float32(scale), scale_b / np.float32(scale)
        exponent = int(np.frexp(max(ratio_a, ratio_b))[1]) - 1
        shift = _VADD_BITS - exponent
        factor_a, factor_b = (int(np.rint(np.ldexp(r, shift))) for r in (ratio_a, ratio_b))
        return torch.floor((a * factor_a + b * factor_b) / 2.0**shift + 0.5)


_COMPUTE = {"weighted": ExactStep._weighted, "mul": ExactStep._product, "add": ExactStep._sum}


def _widened(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.double() if narrow else value


def _narrowed(value: Any) -> Any:
    wide = isinstance(value, torch.Tensor) and value.dtype == torch.float64
    return value.float() if wide else value


def _per_channel(values: torch.Tensor, node: Node, rank: int) -> torch.Tensor:
    """Shape one value per output channel for a result of ``rank``."""
    if values.ndim and op_name(node) in _CONVOLUTIONS:
        return values.reshape(-1, *[1] * (rank - 2))
    return values


def _site(node: Node) -> _Site | None:
    """Recognise a quantise node whose value an integer kernel computes."""
    if not is_quantize(node):
        return None
    producer: Any = node.args[0]
    bounds: tuple[float | None, float | None] = (None, None)
    name = op_name(producer)
    if name in _CLAMPS or name == "aten.hardtanh":
        bound = arguments(producer)
        bounds = _CLAMPS.get(name) or (float(bound["min_val"]), float(bound["max_val"]))
        producer = producer.args[0]
        name = op_name(producer)
    if name in (*_CONVOLUTIONS, "aten.linear"):
        bound = arguments(producer)
        integer = is_dequantize(bound["input"]) and _is_dequantised_constant(bound["weight"])
        return _Site(producer, "weighted", bounds) if integer else None
    if name in ("aten.add", "aten.mul") and _two_on_grids(producer):
        return _Site(producer, name.removeprefix("aten."), bounds)
    return None


def _two_on_grids(node: Node) -> bool:
    operands = node.args
    return len(operands) == 2 and not node.kwargs and all(is_dequantize(a) for a in operands)


def _is_dequantised_constant(node: Any) -> bool:
    return (
        isinstance(node, Node)
        and ".dequantize_per_" in op_name(node)
        and node.all_input_nodes[0].op == "get_attr"
    )


def _read_elsewhere(node: Node, sites: dict[Node, _Site]) -> bool:
    """True when something besides exact sites (and the clamp before them) reads the node."""
    for user in node.users:
        readers = [user] if user in sites else list(user.users)
        if any(r not in sites or sites[r].producer is not node for r in readers):
            return True
    return False
