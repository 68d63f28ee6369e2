"""Step graph passes: fewer nodes, the same numbers.

With one frame per hop the time axis has size 1, so most permutations move no element: they become
reshapes, reshapes sink below pointwise ops and linear layers until they meet, and meet to vanish.
One-hot convolutions (``nn.Unfold``) merge with the pointwise convolution after them; equal
computations are done once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.fold import get_constant, set_constant

__all__ = ["tidy"]

_aten = torch.ops.aten
Shape = tuple[Any, ...]  # sizes; -1 stands for the batch
_UNARY = {
    _aten.sigmoid.default, _aten.tanh.default, _aten.relu.default, _aten.relu6.default,
    _aten.hardtanh.default, _aten.hardswish.default, _aten.hardsigmoid.default, _aten.silu.default,
    _aten.gelu.default, _aten.elu.default, _aten.leaky_relu.default, _aten.exp.default,
    _aten.abs.default, _aten.square.default, _aten.mul.Scalar, _aten.add.Scalar,
}  # fmt: skip
_ROUNDS = 10


def tidy(module: fx.GraphModule, inputs: Callable[[int], Sequence[torch.Tensor]]) -> None:
    """Simplify a step graph in place.

    Args:
        module: graph of one hop.
        inputs: returns inputs and states for a batch size.
    """
    for _ in range(_ROUNDS):
        before = _fingerprint(module)
        shapes = _Shapes(module, inputs)
        for rule in (_drop_idle, _permute_to_reshape, _join_reshapes, _sink_reshape, _merge_taps):
            for node in list(module.graph.nodes):
                if node.op == "call_function" and node in shapes.known:
                    rule(module, node, shapes)
            module.graph.eliminate_dead_code()
        _share(module)
        if _fingerprint(module) == before:
            break
    module.graph.lint()
    module.recompile()


def _fingerprint(module: fx.GraphModule) -> list[str]:
    return [f"{n.target}{n.args}" for n in module.graph.nodes]


class _Shapes:
    """Shapes of all tensors, with -1 for sizes that follow the batch."""

    def __init__(
        self, module: fx.GraphModule, inputs: Callable[[int], Sequence[torch.Tensor]]
    ) -> None:
        module.recompile()
        low, high = (_record(module, inputs(batch)) for batch in (2, 3))
        self.known: dict[fx.Node, Shape] = {
            n: tuple(a if a == b else -1 for a, b in zip(low[n], high[n], strict=True)) for n in low
        }
        # a size that is a multiple of the batch is not the batch itself
        self.rows = {n: [a for a, b in zip(low[n], high[n], strict=True) if a != b] for n in low}

    def reshapable(self, node: fx.Node) -> bool:
        """Return True when the shape has one size that follows the batch."""
        return self.known[node].count(-1) == 1


def _record(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> dict[fx.Node, Shape]:
    shapes: dict[fx.Node, Shape] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                shapes[n] = tuple(result.shape)
            return result

    with torch.no_grad():
        Recorder(module).run(*inputs)
    return shapes


def _drop_idle(module: fx.GraphModule, node: fx.Node, shapes: _Shapes) -> None:
    """Remove reshapes, expansions and slices that change nothing."""
    if node.target not in (_aten.reshape.default, _aten.expand.default, _aten.slice.Tensor):
        return
    source: Any = node.args[0]
    if source not in shapes.known or shapes.rows[source] != shapes.rows[node]:
        return
    # an output that is an input would tie the two together in exported files
    passes_through = source.op == "placeholder" and any(u.op == "output" for u in node.users)
    if shapes.known[source] == shapes.known[node] and not passes_through:
        node.replace_all_uses_with(source)


def _permute_to_reshape(module: fx.GraphModule, node: fx.Node, shapes: _Shapes) -> None:
    """Write a permutation that only moves axes of size 1 as a reshape."""
    if node.target is not _aten.permute.default or not shapes.reshapable(node):
        return
    source: Any = node.args[0]
    order: Any = node.args[1]
    sizes = shapes.known[source]
    moved = [a % len(sizes) for a in order if sizes[a] != 1]
    if moved == sorted(moved):
        node.target, node.args = _aten.reshape.default, (source, list(shapes.known[node]))


def _join_reshapes(module: fx.GraphModule, node: fx.Node, shapes: _Shapes) -> None:
    """Reshape from the first of a chain of reshapes."""
    while node.target is _aten.reshape.default and node.args[0].target is _aten.reshape.default:  # type: ignore[union-attr]
        node.args = (node.args[0].args[0], node.args[1])  # type: ignore[union-attr]


def _sink_reshape(module: fx.GraphModule, node: fx.Node, shapes: _Shapes) -> None:
    """Apply a pointwise op or a linear layer before the reshape that feeds it."""
    target: Any = node.target
    linear = target is _aten.linear.default
    if target not in _UNARY and not linear:
        return
    view: Any = node.args[0]
    if view.target is not _aten.reshape.default or len(view.users) > 1:
        return
    if not shapes.reshapable(node) or view not in shapes.known:
        return
    source: Any = view.args[0]
    if linear and (
        source not in shapes.known
        or shapes.known[source][-1] != shapes.known[view][-1]
        or len(shapes.known[source]) > len(shapes.known[view])
    ):
        return
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, (source, *node.args[1:]), dict(node.kwargs))
        back = module.graph.call_function(_aten.reshape.default, (new, list(shapes.known[node])))
    new.meta, back.meta = dict(node.meta), dict(view.meta)
    last = shapes.known[node][-1:] if linear else shapes.known[source][-1:]
    shapes.known[new] = (*shapes.known[source][:-1], *last)
    shapes.rows[new] = shapes.rows[source]
    shapes.known[back], shapes.rows[back] = shapes.known[node], shapes.rows[node]
    node.replace_all_uses_with(back)


def _merge_taps(module: fx.GraphModule, node: fx.Node, shapes: _Shapes) -> None:
    """Merge a one-hot convolution and the pointwise one after it: W[o, c·k + i] = K[o, c, i]."""
    if node.target is not _aten.conv2d.default or not str(node.args[1]).startswith("taps_"):
        return
    if len(node.users) != 1:
        return
    (point,) = node.users
    plain = point.target is _aten.conv2d.default and point.args[0] is node
    if not plain or list(point.args[3:6]) != [[1, 1], [0, 0], [1, 1]] or point.args[6] != 1:
        return
    weight: Any = point.args[1]
    w = get_constant(module, weight)
    if tuple(w.shape[2:]) != (1, 1):
        return
    taps = get_constant(module, node.args[1])  # type: ignore[arg-type]
    kernel = w.reshape(w.shape[0], -1, *taps.shape[2:])
    merged = set_constant(module, point, f"{weight.target}_merged".replace(".", "_"), kernel)
    with module.graph.inserting_before(point):
        new = module.graph.call_function(
            _aten.conv2d.default,
            (node.args[0], merged, point.args[2], node.args[3], node.args[4], node.args[5], 1),
        )
    new.meta = dict(point.meta)
    shapes.known[new], shapes.rows[new] = shapes.known[point], shapes.rows[point]
    point.replace_all_uses_with(new)


def _share(module: fx.GraphModule) -> None:
    """Compute equal things once."""
    seen: dict[str, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = f"{node.target}|{node.args}|{node.kwargs}"
        if key in seen:
            node.replace_all_uses_with(seen[key])
            module.graph.erase_node(node)
        else:
            seen[key] = node
