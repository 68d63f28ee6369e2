"""Data movement that moves nothing, or moves more than is used."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from .common import arguments, op_name, origin, shape_of

__all__ = ["crop_after_cat", "drop_noops", "merge_padding"]

_ALWAYS = {"aten.alias", "aten.clone", "aten.contiguous", "aten.detach", "aten.lift_fresh_copy"}
_RESHAPES = {
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.expand",
    "aten.flatten",
    "aten.squeeze",
    "aten.slice",
    "aten.pad",
    "aten.constant_pad_nd",
    "aten.repeat",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
}
_AXES = {"aten.permute", "aten.transpose", "aten.t"}


def drop_noops(module: torch.fx.GraphModule) -> bool:
    """Drop ops that return their input: copies, dropout, same-shape views, full slices.

    Post: no node of these kinds has the shape and element order of its input.
    """
    changed = False
    for node in list(module.graph.nodes):
        source = node.args[0] if node.args else None
        if node.op == "call_function" and isinstance(source, (Node, list, tuple)):
            same = _unchanged(node, source)
            if same is not None:
                node.replace_all_uses_with(same)
                module.graph.erase_node(node)
                changed = True
    return changed


def _unchanged(node: Node, source: Any) -> Node | None:
    name = op_name(node)
    if name == "aten.cat":
        return source[0] if len(source) == 1 else None
    if not isinstance(source, Node):
        return None
    if name in _ALWAYS:
        return source
    if name == "aten.dropout" and not node.args[2]:
        return source
    if name in ("aten._to_copy", "aten.to"):
        return source if node.meta["val"].dtype == source.meta["val"].dtype else None
    if name in _RESHAPES and shape_of(node) == shape_of(source):
        return source
    if name in _AXES and shape_of(node) == shape_of(source):
        return source if _moves_ones_only(node, source) else None
    return None


def _moves_ones_only(node: Node, source: Node) -> bool:
    """True when only axes of size 1 change places, so that shape and element order stay."""
    shape = shape_of(source)
    axes = torch.arange(len(shape)).tolist()
    bound = arguments(node)
    if op_name(node) == "aten.permute":
        order = [d % len(shape) for d in bound["dims"]]
    else:
        a, b = (0, 1) if op_name(node) == "aten.t" else (bound["dim0"], bound["dim1"])
        order = list(axes)
        order[a], order[b] = order[b], order[a]
    return [d for d in order if shape[d] > 1] == [d for d in axes if shape[d] > 1]


def crop_after_cat(module: torch.fx.GraphModule) -> bool:
    """Let a slice of a concatenation read only the pieces that it keeps.

    Post: no slice with step 1 along the concatenated axis lies inside one piece, or keeps less
    than all pieces. Quantise/dequantise pairs between the two must have equal qparams.
    """
    changed = False
    for node in list(module.graph.nodes):
        if op_name(node) != "aten.slice" or not isinstance(node.args[0], Node):
            continue
        cat, qparams = origin(node.args[0])
        if op_name(cat) == "aten.cat" and _same_grid(cat.args[0], qparams):
            changed |= _crop(module, node, cat)
    return changed


def _same_grid(pieces: Any, qparams: Any) -> bool:
    """True when the pieces already lie on the grid that a pair after them rounds to."""
    return qparams is None or all(isinstance(p, Node) and origin(p)[1] == qparams for p in pieces)


def _crop(module: torch.fx.GraphModule, node: Node, cat: Node) -> bool:
    rank = len(shape_of(node))
    bound, pieces = arguments(node), arguments(cat)["tensors"]
    axis = arguments(cat)["dim"] % rank
    if bound["dim"] % rank != axis or bound["step"] != 1:
        return False
    total = shape_of(cat)[axis]
    begin, end, _ = slice(bound["start"], bound["end"]).indices(total)
    kept, position = [], 0
    for piece in pieces:
        size = shape_of(piece)[axis]
        low, high = max(begin - position, 0), min(end - position, size)
        if low < high:
            kept.append((piece, low, high, size))
        position += size
    if not kept or len(kept) == len(pieces) or (len(kept) > 1 and len(cat.users) > 1):
        return False
    with module.graph.inserting_before(node):
        parts = [_piece(module, node, axis, *part) for part in kept]
        if len(parts) == 1:
            result = parts[0]
        else:
            result = module.graph.call_function(torch.ops.aten.cat.default, (parts, axis))
            result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)
    return True


def _piece(
    module: torch.fx.GraphModule, node: Node, axis: int, piece: Node, low: int, high: int, size: int
) -> Node:
    if (low, high) == (0, size):
        return piece
    part = module.graph.call_function(torch.ops.aten.slice.Tensor, (piece, axis, low, high))
    shape = list(shape_of(piece))
    shape[axis] = high - low
    value = piece.meta["val"]
    part.meta = {**node.meta, "val": torch.empty(shape, dtype=value.dtype, device="meta")}
    return part


def merge_padding(module: torch.fx.GraphModule) -> bool:
    """Move symmetric zero padding of the spatial axes into the convolution that reads it.

    Post: no convolution reads a zero padding that it could do itself. A quantise/dequantise pair
    between the two must repeat the qparams of the padded tensor (zero is then a code).
    """
    changed = False
    for node in list(module.graph.nodes):
        if op_name(node) not in ("aten.conv1d", "aten.conv2d"):
            continue
        if isinstance(arguments(node)["padding"], str):
            continue
        if not isinstance(node.args[0], Node):
            continue
        pad, qparams = origin(node.args[0])
        amounts = _symmetric_zero_padding(pad, len(shape_of(node)) - 2)
        if amounts is None or (qparams is not None and not _same_grid([pad.args[0]], qparams)):
            continue
        bound = arguments(node)
        padding = [int(p) for p in bound["padding"]]
        if len(padding) == 1:
            padding = padding * len(amounts)
        bound["padding"] = [p + a for p, a in zip(padding, amounts, strict=True)]
        bound["input"] = pad.args[0]
        node.args, node.kwargs = tuple(bound.values()), {}
        changed = True
    return changed


def _symmetric_zero_padding(node: Node, spatial: int) -> list[int] | None:
    if op_name(node) not in ("aten.pad", "aten.constant_pad_nd"):
        return None
    bound = arguments(node)
    if bound.get("mode", "constant") != "constant" or bound["value"] not in (None, 0, 0.0):
        return None
    pad = list(bound["pad"]) + [0] * (2 * spatial - len(bound["pad"]))
    if len(pad) > 2 * spatial or min(pad) < 0:
        return None
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return [a for a, _ in reversed(pairs)] if all(a == b for a, b in pairs) else None
