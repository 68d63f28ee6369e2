"""The model's ``forward`` as an ATen graph whose batch and frame counts are symbols."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx, nn
from torch.export import Dim

from spectral_edge.errors import NotStreamable, SpecError
from spectral_edge.streaming.fold import fold_batch_norm
from spectral_edge.streaming.spell import (
    fold_constants,
    pack_groups,
    spell_einsum,
    without_mutation,
)

__all__ = ["ClipGraph", "trace"]

TRACE_FRAMES = (48, 576, 5760)  # example lengths, the next when one does not fit the strides
LONG = 2**12 * 3**3 * 5**2 * 7**2  # frames at which sizes are compared; strides divide it
TRACE_BATCH = 3
PROBE_BATCH = 7  # concrete batch at which symbolic sizes are compared


@dataclass(frozen=True)
class ClipGraph:
    """A traced model.

    Attributes:
        module: ATen graph ``(inputs...) -> outputs``; every node carries ``meta["val"]`` with
            symbolic shapes.
        input_names: as in ``forward``.
        time_dims: time axis of each input, None for an input without time.
        output_names: ``output`` or the keys of the returned dict.
        output_kind: ``tensor``, ``tuple`` or ``dict``.
        example: concrete inputs, long enough for the model's strides.
        frames: the symbols that stand for T (one per input).
        batch: the symbols that stand for the batch size.
    """

    module: fx.GraphModule
    input_names: tuple[str, ...]
    time_dims: tuple[int | None, ...]
    output_names: tuple[str, ...]
    output_kind: str
    example: tuple[torch.Tensor, ...]
    frames: tuple[sympy.Symbol, ...]
    batch: tuple[sympy.Symbol, ...]

    @property
    def probe_batch(self) -> int:
        """Batch at which sizes are compared unless another is given."""
        return PROBE_BATCH

    def size(self, value: Any, frames: int, batch: int = PROBE_BATCH) -> int:
        """Evaluate a size (int or SymInt) at ``frames`` and ``batch``."""
        if isinstance(value, int):
            return value
        known = dict.fromkeys(self.frames, frames) | dict.fromkeys(self.batch, batch)
        return int(value.node.expr.subs(known))

    def slope(self, value: Any, batch: int = PROBE_BATCH) -> Fraction:
        """Return how much a size grows for each additional frame of the clip (0: not at all)."""
        if isinstance(value, int):
            return Fraction(0)
        low, high = LONG, 2 * LONG
        return Fraction(self.size(value, high, batch) - self.size(value, low, batch), LONG)

    def count_time_axes(self, node: fx.Node) -> int:
        """Return how many axes of a node's tensor grow with the number of frames."""
        val = node.meta.get("val")
        if not isinstance(val, torch.Tensor):
            return 0
        return sum(self.slope(size) != 0 for size in val.shape)


def trace(
    model: nn.Module, example: Sequence[torch.Tensor], time_dims: Sequence[int | None]
) -> ClipGraph:
    """Trace ``model.forward`` over clips of symbolic length and batch.

    Args:
        model: in eval mode.
        example: one tensor per input; only ranks, dtypes and the other sizes count.
        time_dims: time axis of each input or None.

    Raises:
        NotStreamable: the graph depends on a concrete number of frames (a Python loop over time),
            or on the data.
        SpecError: example and time_dims do not fit together.
    """
    names = _input_names(model, example)
    for frames in TRACE_FRAMES:
        try:
            return _trace(model, example, time_dims, names, frames)
        except _TooShort as error:
            if frames == TRACE_FRAMES[-1]:
                raise error.reason from error.__cause__
    raise AssertionError("no example length")


_MISFITS = ("greater than actual input size", "too small", "must match the size of tensor")


class _TooShort(Exception):
    """The example is too short for the model, or no multiple of its strides."""

    def __init__(self, reason: NotStreamable) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _trace(
    model: nn.Module,
    example: Sequence[torch.Tensor],
    time_dims: Sequence[int | None],
    names: tuple[str, ...],
    length: int,
) -> ClipGraph:
    args: list[torch.Tensor] = []
    shapes: list[dict[int, Any]] = []
    for tensor, axis in zip(example, time_dims, strict=True):
        if axis is not None and not 0 < axis < tensor.ndim:
            raise SpecError(
                f"time_dim is {axis}, the input has axes 1…{tensor.ndim - 1} (0: batch)"
            )
        shape = list(tensor.shape)
        shape[0] = TRACE_BATCH
        dims: dict[int, Any] = {0: Dim.DYNAMIC}
        if axis is not None:
            shape[axis] = length
            dims[axis] = Dim.DYNAMIC
        args.append(_random_like(tensor, shape))
        shapes.append(dims)
    exported = _export(model, tuple(args), tuple(shapes))
    module = without_mutation(exported)
    fold_constants(module)
    fold_batch_norm(module)
    pack_groups(module)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    frames, batch = _symbols(placeholders, time_dims)
    with torch.no_grad():
        result = model(*args)
    output_names, kind = _output_names(result)
    clip = ClipGraph(
        module, names, tuple(time_dims), output_names, kind, tuple(args), frames, batch
    )
    spell_einsum(module, clip.count_time_axes)
    module.recompile()
    return clip


@contextmanager
def _symbolic_friendly() -> Iterator[None]:
    """Spell calls that tracing would tie to one length in a form that keeps it symbolic."""
    replaced = [
        (torch, "max_pool1d", _max_pool1d),
        (torch, "diff", _diff),
        (torch.Tensor, "diff", _diff),
        (nn.modules.transformer, "_detect_is_causal_mask", _is_causal_hint),
    ]
    originals = [getattr(owner, name) for owner, name, _ in replaced]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for owner, name, substitute in replaced:
            setattr(owner, name, substitute)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for (owner, name, _), original in zip(replaced, originals, strict=True):
            setattr(owner, name, original)


def _is_causal_hint(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Answer for a layer that would look into its mask; the flag is only a hint."""
    return bool(is_causal)


def _diff(
    x: torch.Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: torch.Tensor | None = None,
    append: torch.Tensor | None = None,
) -> torch.Tensor:
    pieces = [t for t in (prepend, x, append) if t is not None]
    x = torch.cat(pieces, dim) if len(pieces) > 1 else x
    for _ in range(n):
        later = torch.ops.aten.slice.Tensor(x, dim, 1)
        x = later - torch.ops.aten.slice.Tensor(x, dim, 0, -1)
    return x


def _max_pool1d(
    x: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    def pair(value: Any, other: int) -> list[int]:
        return [other, value if isinstance(value, int) else value[0]]

    stride = pair(stride, 1) if stride else None
    y = torch.max_pool2d(
        x.unsqueeze(-2),
        pair(kernel_size, 1),
        stride,
        pair(padding, 0),
        pair(dilation, 1),
        ceil_mode,
    )
    return y.squeeze(-2)


def _export(
    model: nn.Module, args: tuple[torch.Tensor, ...], shapes: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), _symbolic_friendly(), warnings.catch_warnings():
            # old-style weight norm sets its weight again in every forward
            warnings.filterwarnings("ignore", message="The tensor attribute .* was assigned")
            return torch.export.export(model, args, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises many classes here; all mean the same for the author
        text = str(error)
        if "specialized" in text or "Constraints violated" in text or "not all values" in text:
            reason = (
                "the graph depends on a concrete number of frames or batch (a Python loop over "
                "time, or int(x.shape[...])). Use nn.GRU/LSTM/RNN or spectral_edge.layers.scan for "
                "recurrence, and shape arithmetic without int()"
            )
        elif "data-dependent" in text or "GuardOnDataDependent" in text:
            reason = "control flow depends on data. Write it with torch.where"
        else:
            reason = "torch.export cannot trace it"
        first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        refused = NotStreamable(f"{type(model).__name__}.forward: {reason} [{first.strip()}]")
        if any(words in text for words in _MISFITS):
            raise _TooShort(refused) from error
        raise refused from error


def _random_like(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if tensor.dtype.is_floating_point:
        return torch.randn(list(shape), generator=generator).to(tensor.dtype)
    return torch.zeros(list(shape), dtype=tensor.dtype)


def _input_names(model: nn.Module, example: Sequence[torch.Tensor]) -> tuple[str, ...]:
    names = list(inspect.signature(model.forward).parameters)
    if len(names) < len(example):
        raise SpecError(f"example has {len(example)} tensors, forward takes {len(names)}")
    return tuple(names[: len(example)])


def _symbols(
    placeholders: Sequence[fx.Node], time_dims: Sequence[int | None]
) -> tuple[tuple[sympy.Symbol, ...], tuple[sympy.Symbol, ...]]:
    frames, batch = set(), set()
    for node, axis in zip(placeholders, time_dims, strict=True):
        shape = node.meta["val"].shape
        if axis is not None:
            frames |= shape[axis].node.expr.free_symbols
        if not isinstance(shape[0], int):
            batch |= shape[0].node.expr.free_symbols
    return tuple(frames), tuple(batch)


def _output_names(result: Any) -> tuple[tuple[str, ...], str]:
    if isinstance(result, torch.Tensor):
        return ("output",), "tensor"
    if isinstance(result, dict) and all(isinstance(v, torch.Tensor) for v in result.values()):
        return tuple(str(key) for key in result), "dict"
    if isinstance(result, (tuple, list)) and all(isinstance(v, torch.Tensor) for v in result):
        return tuple(f"output_{i}" for i in range(len(result))), "tuple"
    raise NotStreamable(
        f"forward returns {type(result).__name__}; return a tensor, a tuple or a dict of tensors"
    )
