"""Models over a fixed window (images, windowed classifiers) as step programs without states."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

import spectral_edge.streaming.streamify  # noqa: F401  # registers every rule
from spectral_edge.errors import ParityError
from spectral_edge.program import StepProgram, TensorSpec
from spectral_edge.streaming.attention import on_pairs
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import RULES
from spectral_edge.streaming.trace import trace
from spectral_edge.streaming.value import Refused

__all__ = ["window_program"]

TOLERANCE = 1e-5  # of the output's peak


class _WindowRewriter(Rewriter):
    """Rewriting where no tensor has a time axis: shapes become concrete, nothing else changes."""

    def _outputs(self, node: fx.Node) -> list[Any]:
        found = [self.env[leaf] for leaf in torch.utils._pytree.tree_leaves(node.args[0])]
        for value in found:
            if isinstance(value, Refused):
                raise value.error
        return found


def window_program(model: nn.Module, example: torch.Tensor) -> StepProgram:
    """Return the program of one window: no time axis, no states, delay 0.

    Args:
        model: takes one tensor; traced in eval mode, not changed. Its ``deployable()`` copy is used
            where it has one, so that norms are folded.
        example: float32[batch, ...]; only its sizes other than the batch count.

    Raises:
        NotStreamable: an op that has no rule.
        ParityError: the program differs from the model.
    """
    make = getattr(model, "deployable", None)
    ready: nn.Module = make() if callable(make) else copy.deepcopy(model).eval()
    clip = trace(ready, (example,), (None,))
    rewriter = _WindowRewriter(clip, RULES, on_pairs)
    outputs = rewriter.run()
    module = rewriter.module(outputs)
    with torch.no_grad():
        x = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
        expected, flat = ready(x), module(x)
        leaves = torch.utils._pytree.tree_leaves(expected)
        _compare(leaves, flat)
        with FlopCounterMode(display=False) as counter:
            module(x[:1])
    return StepProgram(
        module=module,
        inputs=(TensorSpec(clip.input_names[0], (1, *example.shape[1:])),),
        outputs=tuple(
            TensorSpec(name, (1, *leaf.shape[1:]))
            for name, leaf in zip(clip.output_names, leaves, strict=True)
        ),
        states=OrderedDict(),
        output_kind=clip.output_kind,
        receptive_field=1,
        macs=int(counter.get_total_flops()) // 2,
        provenance={"model": type(model).__name__},
    )


def _compare(expected: list[torch.Tensor], got: Any) -> None:
    for want, value in zip(expected, got, strict=True):
        error = float((want - value).abs().max()) / (float(want.abs().max()) or 1.0)
        if error > TOLERANCE:
            raise ParityError(
                f"window program differs from the model by {error:.2e} of the peak "
                f"(allowed {TOLERANCE:.0e}); it was not returned"
            )
