"""Text of convolutions and linear layers in float islands of quantised programs."""

from __future__ import annotations

import numpy as np

from .expr import remapped
from .kernels import Dense
from .text import KernelText
from .view import packed

__all__ = ["emit_wide"]


def emit_wide(text: KernelText, kernel: Dense) -> None:
    """A float island of a quantised program: sums in float64, as the golden rollout has them."""
    groups, height, width, depth, outputs = kernel.weight.shape
    weight = text.constants.name(np.ascontiguousarray(kernel.weight.reshape(-1)))
    bias = text.constants.name(kernel.bias.reshape(-1))
    batch, out_h, out_w, _ = kernel.shape
    steps = packed((groups, height, width, depth, outputs))
    for name, count in (("n", batch), ("h", out_h), ("w", out_w), ("g", groups)):
        text.loop(name, count)
    text.array("double", "acc", outputs)
    text.loop("o", outputs)
    text.line(f"acc[o] = {bias}[g * {outputs} + o];")
    text.close()
    text.loop("kh", height)
    text.line(
        f"const int r = h * {kernel.stride[0]} + kh * {kernel.dilation[0]} - {kernel.before[0]};"
    )
    text.line(f"if (r < 0 || r >= {kernel.x.shape[1]}) continue;")
    text.loop("kw", width)
    text.line(
        f"const int q = w * {kernel.stride[1]} + kw * {kernel.dilation[1]} - {kernel.before[1]};"
    )
    text.line(f"if (q < 0 || q >= {kernel.x.shape[2]}) continue;")
    text.loop("k", depth)
    s = kernel.x.strides
    terms = [("n", s[0]), ("r", s[1]), ("q", s[2]), ("g", depth * s[3]), ("k", s[3])]
    text.line(f"const double x = (double){text.address(kernel.x, terms)};")
    text.loop("o", outputs)
    at = f"g * {steps[0]} + kh * {steps[1]} + kw * {steps[2]} + k * {steps[3]} + o"
    text.line(f"acc[o] += x * (double){weight}[{at}];")
    text.close(4)
    assert kernel.expr is not None
    assert kernel.out is not None
    split = (batch, out_h, out_w, groups, outputs)
    expr = remapped(kernel.expr, lambda view: view.reshaped(split))
    out = kernel.out.reshaped(split)
    assert expr is not None
    assert out is not None
    text.nest(expr, out, ["n", "h", "w", "g", "0"], [(4, outputs)], ("acc", (1,)))
    text.close(4)
