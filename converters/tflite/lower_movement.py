"""Data movement: lazy views and permutations, slices, concatenations, padding, repetition."""

from __future__ import annotations

from typing import Any

import torch

from .layout import channels_last
from .lower_conv import as_image, from_image
from .lowering import Call, Lowering, lowers
from .moves import concatenate, interleaved, padded, repeated, sliced, viewed
from .values import Const, Value

__all__: list[str] = []


def _source(call: Call) -> Value | Const:
    operand: Value | Const = call["self"] if "self" in call.args else call["input"]
    return operand


@lowers(
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.flatten",
    "aten.unflatten",
    "aten.squeeze",
    "aten.unsqueeze",
    moves=True,
)
def lower_view(low: Lowering, call: Call) -> Value | Const:
    """A lazy RESHAPE."""
    operand = _source(call)
    if isinstance(operand, Const):
        return operand.reshaped(call.shape)
    return viewed(low, operand, call.shape)


@lowers(
    "aten.permute",
    "aten.transpose",
    "aten.t",
    "aten.movedim",
    "aten.moveaxis",
    "aten.swapaxes",
    "aten.swapdims",
    "aten.numpy_T",
    "aten.mT",
    moves=True,
)
def lower_permute(low: Lowering, call: Call) -> Value | Const:
    """Only the layout changes; no operator."""
    operand = _source(call)
    # axes of different sizes show where each one goes
    probe = torch.empty([2 + i for i in range(len(operand.shape))], device="meta")
    moved = call.node.target(probe, *list(call.args.values())[1:])  # type: ignore[operator]
    order = tuple(n - 2 for n in moved.shape)
    if isinstance(operand, Const):
        return operand.transposed(order)
    perm = tuple(order.index(p) for p in operand.perm)
    return Value(operand.tensor, call.shape, perm, operand.dtype, operand.qparams)


@lowers("aten.slice", moves=True)
def lower_slice(low: Lowering, call: Call) -> Value:
    """SLICE or STRIDED_SLICE."""
    value = low.tensor_of(_source(call), call.name)
    axis = int(call["dim"]) % len(value.shape)
    begin, end, step = slice(call["start"], call["end"], call["step"]).indices(value.shape[axis])
    return sliced(low, value, axis, begin, end, step, call.name)


@lowers("aten.narrow", moves=True)
def lower_narrow(low: Lowering, call: Call) -> Value:
    """SLICE."""
    value = low.tensor_of(_source(call), call.name)
    axis, begin = int(call["dim"]) % len(value.shape), int(call["start"])
    return sliced(low, value, axis, begin, begin + int(call["length"]), 1, call.name)


@lowers("aten.select", moves=True)
def lower_select(low: Lowering, call: Call) -> Value:
    """SLICE of one element, then a lazy view."""
    value = low.tensor_of(_source(call), call.name)
    axis = int(call["dim"]) % len(value.shape)
    index = int(call["index"]) % value.shape[axis]
    if value.shape[axis] > 1:
        value = sliced(low, value, axis, index, index + 1, 1, call.name)
    return viewed(low, value, call.shape)


@lowers(
    "aten.split",
    "aten.split_with_sizes",
    "aten.chunk",
    "aten.unbind",
    "aten.tensor_split",
    moves=True,
)
def lower_split(low: Lowering, call: Call) -> tuple[Value, ...]:
    """One SLICE per piece that is read."""
    value = low.tensor_of(_source(call), call.name)
    axis = int(call["dim"]) % len(value.shape)
    read = {user.args[1] for user in call.node.users}
    pieces, begin = [], 0
    for i, meta in enumerate(call.node.meta["val"]):
        shape = tuple(meta.shape)
        size = shape[axis] if call.op != "aten.unbind" else 1
        if i in read:
            piece = sliced(low, value, axis, begin, begin + size, 1, f"{call.name}.{i}")
            pieces.append(viewed(low, piece, shape))
        else:
            pieces.append(value)
        begin += size
    return tuple(pieces)


@lowers("aten.cat", moves=True)
def lower_cat(low: Lowering, call: Call) -> Value:
    """CONCATENATION; empty pieces are left out."""
    pieces = [o for o in call["tensors"] if 0 not in o.shape]
    axis = int(call["dim"]) % len(call.shape)
    return concatenate(low, pieces, axis, call.name, call.shape)


@lowers("aten.stack", moves=True)
def lower_stack(low: Lowering, call: Call) -> Value:
    """CONCATENATION of lazy views."""
    axis = int(call["dim"]) % len(call.shape)
    shape = tuple(1 if i == axis else n for i, n in enumerate(call.shape))
    views = [
        o.reshaped(shape) if isinstance(o, Const) else viewed(low, o, shape)
        for o in call["tensors"]
    ]
    return concatenate(low, views, axis, call.name, call.shape)


@lowers("aten.roll", moves=True)
def lower_roll(low: Lowering, call: Call) -> Value:
    """Two SLICEs and a CONCATENATION per axis."""
    value = low.tensor_of(_source(call), call.name)
    if not call["dims"]:
        raise low.unsupported(call.node, "roll without dims has no lowering")
    for shift, axis in zip(call["shifts"], call["dims"], strict=True):
        axis, size = axis % len(value.shape), value.shape[axis]
        cut = -int(shift) % size
        if cut:
            tail = sliced(low, value, axis, cut, size, 1, f"{call.name}.tail")
            head = sliced(low, value, axis, 0, cut, 1, f"{call.name}.head")
            value = concatenate(low, [tail, head], axis, call.name, value.shape)
    return value


@lowers("aten.flip", moves=True)
def lower_flip(low: Lowering, call: Call) -> Value:
    """REVERSE_V2 per axis."""
    value = low.tensor_of(_source(call), call.name)
    for axis in call["dims"]:
        made = low.like(value, call.name, value.shape, value.perm)
        where = low.numbers([value.perm.index(axis % len(value.shape))])
        low.emit("REVERSE_V2", [low.index(value), where], [made.tensor], "ReverseV2Options")
        value = made
    return value


@lowers("aten.pad", "aten.constant_pad_nd", moves=True)
def lower_pad(low: Lowering, call: Call) -> Value:
    """CONCATENATION with constants; SLICE for negative amounts."""
    value = low.tensor_of(_source(call), call.name)
    if call.args.get("mode", "constant") != "constant":
        raise low.unsupported(call.node, f"padding mode {call['mode']!r} has no lowering")
    rank = len(value.shape)
    amounts = [(0, 0)] * rank
    pad = [int(p) for p in call["pad"]]
    for i in range(0, len(pad), 2):
        amounts[rank - 1 - i // 2] = (pad[i], pad[i + 1])
    for axis, (before, after) in enumerate(amounts):
        if before < 0 or after < 0:
            end = value.shape[axis] + min(after, 0)
            value = sliced(low, value, axis, max(-before, 0), end, 1, f"{call.name}.crop")
    amounts = [(max(a, 0), max(b, 0)) for a, b in amounts]
    return padded(low, value, amounts, call.name, float(call["value"] or 0.0))


@lowers("aten.repeat", moves=True)
def lower_repeat(low: Lowering, call: Call) -> Value:
    """CONCATENATION of copies."""
    value = low.tensor_of(_source(call), call.name)
    repeats = [int(r) for r in call["repeats"]]
    value = viewed(low, value, (1,) * (len(repeats) - len(value.shape)) + value.shape)
    for axis, times in enumerate(repeats):
        if times > 1:
            value = repeated(low, value, axis, times, call.name)
    return value


@lowers("aten.expand", "aten.expand_as", "aten.broadcast_to", moves=True)
def lower_expand(low: Lowering, call: Call) -> Value:
    """CONCATENATION of copies along the axes that grow (XNNPACK has no BROADCAST_TO)."""
    value = low.tensor_of(_source(call), call.name)
    rank = len(call.shape)
    value = viewed(low, value, (1,) * (rank - len(value.shape)) + value.shape)
    for axis in sorted(range(rank), key=lambda a: call.shape[a]):
        if value.shape[axis] != call.shape[axis]:
            value = repeated(low, value, axis, call.shape[axis], call.name)
    return value


@lowers("aten.upsample_nearest1d", "aten.upsample_nearest2d", moves=True)
def lower_upsample(low: Lowering, call: Call) -> Value:
    """Nearest-neighbour up-sampling by whole factors."""
    value = low.tensor_of(_source(call), call.name)
    image = low.laid(as_image(value), channels_last(4))
    target = call.shape if len(call.shape) == 4 else (*call.shape[:2], 1, call.shape[2])
    for axis in (2, 3):
        times, rest = divmod(target[axis], image.shape[axis])
        if rest:
            raise low.unsupported(
                call.node, f"a factor of {target[axis]}/{image.shape[axis]} has no lowering"
            )
        if times > 1:
            image = interleaved(low, image, axis, times, call.name)
    return from_image(image, len(call.shape))


@lowers("aten.repeat_interleave", moves=True)
def lower_repeat_interleave(low: Lowering, call: Call) -> Value:
    """Repeat elements next to each other along ``dim``."""
    value = low.tensor_of(_source(call), call.name)
    repeats: Any = call.args.get("repeats")
    if not isinstance(repeats, int) or call["dim"] is None:
        raise low.unsupported(call.node, "only a number of repeats along a dim has a lowering")
    return interleaved(low, value, int(call["dim"]) % len(value.shape), repeats, call.name)


@lowers("aten.index_select", moves=True)
def lower_index_select(low: Lowering, call: Call) -> Value:
    """GATHER with constant indices."""
    value, index = low.tensor_of(_source(call), call.name), call["index"]
    if not isinstance(index, Const):
        raise low.unsupported(call.node, "its index is not a constant")
    made = low.like(value, call.name, call.shape, value.perm)
    where = value.perm.index(int(call["dim"]) % len(value.shape))
    inputs = [low.index(value), low.numbers(index.array)]
    low.emit("GATHER", inputs, [made.tensor], "GatherOptions", axis=where)
    return made
