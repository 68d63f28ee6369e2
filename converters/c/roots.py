"""Which values need memory, and where: decided once, looking back from their readers.

A value that only one loop reads is computed inside that loop. A value that a concatenation reads
is written straight into its part of the result, a state that a concatenation reads lies there.
"""

from __future__ import annotations

from collections.abc import Iterator

from .read import Graph, Operator, Tensor
from .view import Buffer, View, contiguous

__all__ = ["ELEMENTWISE", "MOVES", "REDUCTIONS", "deferred", "places"]

MOVES = frozenset(
    {
        "BROADCAST_TO", "EXPAND_DIMS", "RESHAPE", "REVERSE_V2", "SLICE", "SPLIT", "SQUEEZE",
        "STRIDED_SLICE", "TRANSPOSE",
    }
)  # fmt: skip
REDUCTIONS = frozenset({"MEAN", "REDUCE_MAX", "REDUCE_MIN", "SOFTMAX", "SUM"})
ELEMENTWISE = frozenset(
    {
        "ABS", "ADD", "CAST", "CEIL", "COS", "DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP", "FLOOR",
        "FLOOR_DIV", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS",
        "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAXIMUM",
        "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "POW", "PRELU", "QUANTIZE", "RELU", "RELU6",
        "RELU_N1_TO_1", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIN", "SQRT", "SQUARE",
        "SQUARED_DIFFERENCE", "SUB", "TANH",
    }
)  # fmt: skip
CHEAP = frozenset({"DEQUANTIZE"})  # computed again by every reader


def deferred(graph: Graph) -> frozenset[int]:
    """Tensors that are computed where they are read, by index.

    All readers of such a tensor end in one loop and together look at each element once.
    """
    outputs = {t.index for t in graph.outputs.values()}
    ends: dict[int, frozenset[object]] = {}  # of the tensors found so far
    for op in reversed(graph.operators):
        if op.code in MOVES or op.code == "CONCATENATION" or len(op.outputs) != 1:
            continue
        made = op.output
        readers = list(_readers(graph, made, outputs))
        if any(reader is None for reader, _ in readers):
            continue
        found: set[object] = set()
        volume: dict[int, int] = {}
        for reader, seen in readers:
            assert reader is not None
            if reader.code in ELEMENTWISE:
                found |= ends.get(reader.output.index, frozenset({reader.output.index}))
                size = reader.output.size
            else:
                found.add(("reduction", reader.position))
                size = seen.size
            volume[seen.index] = max(volume.get(seen.index, 0), size)
        once = len(found) == 1 and sum(volume.values()) <= made.size
        if found and (once or op.code in CHEAP):
            ends[made.index] = frozenset(found)
    return frozenset(ends)


def _readers(
    graph: Graph, tensor: Tensor, outputs: set[int]
) -> Iterator[tuple[Operator | None, Tensor]]:
    """Readers of a tensor and of views of it with what they see; None for one that needs memory."""
    if tensor.index in outputs:
        yield None, tensor
    for op in graph.consumers.get(tensor.index, []):
        if op.code in MOVES and op.inputs[_data_input(op)] is tensor:
            for view in op.outputs:
                yield from _readers(graph, view, outputs)
        elif op.code in ELEMENTWISE or op.code in REDUCTIONS:
            yield op, tensor
        else:
            yield None, tensor


def _data_input(op: Operator) -> int:
    return 1 if op.code == "SPLIT" else 0


def places(graph: Graph) -> dict[int, View]:
    """Where tensors should be written, by index; states and inputs among them lie there."""
    found: dict[int, View] = {}
    inputs = {t.index for t in graph.inputs.values()}

    def offer(tensor: Tensor, view: View | None) -> None:
        if view is None or tensor.data is not None or tensor.index in found:
            return
        if tensor.index in inputs:
            if not view.is_packed:
                return
            view.buffer.kind = "fixed"
        found[tensor.index] = view

    for tensor in graph.outputs.values():
        if tensor.index not in inputs:
            offer(tensor, contiguous(Buffer(tensor.dtype, tensor.size, "fixed"), tensor.shape))
    producers = {t.index: op for op in graph.operators for t in op.outputs}
    for op in reversed(graph.operators):
        made = op.output
        if op.code == "CONCATENATION":
            offer(made, contiguous(Buffer(made.dtype, made.size), made.shape))
            axis = int(op.options.get("Axis", 0)) % max(len(made.shape), 1)
            at = 0
            for piece in op.inputs:
                if piece is None or len(piece.shape) != len(made.shape):
                    continue  # the rule of the operator says what is wrong
                begin = [at if i == axis else 0 for i in range(len(made.shape))]
                at += piece.shape[axis]
                if piece.dtype == made.dtype and piece.index in inputs | set(producers):
                    steps = [1] * len(begin)
                    offer(piece, found[made.index].sliced(begin, piece.shape, steps))
        elif op.code == "RESHAPE" and op.inputs and op.inputs[0] is not None:
            source = op.inputs[0]
            if source.size != made.size:
                continue
            before = producers.get(source.index)
            if made.index not in found and before is not None and before.code == "TRANSPOSE":
                offer(made, contiguous(Buffer(made.dtype, made.size), made.shape))
            if made.index in found:
                offer(source, found[made.index].reshaped(source.shape))
        elif op.code == "TRANSPOSE" and made.index in found and op.inputs[0] is not None:
            order = [] if op.inputs[1] is None or op.inputs[1].data is None else op.numbers(1)
            if sorted(order) == list(range(len(made.shape))):
                inverse = [order.index(i) for i in range(len(order))]
                offer(op.inputs[0], found[made.index].permuted(inverse))
    return found
