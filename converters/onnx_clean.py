"""Clean-up of an exported ONNX model: int8 boundary, contract names, nothing superfluous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectral_edge.errors import ConversionError
from spectral_edge.qparams import QParams

__all__ = ["clean_model"]

Named = Sequence[tuple[str, QParams | None]]

# ops that move elements without computing: how many of their inputs are data
_MOVES = {
    "Concat": None,
    "Expand": 1,
    "Gather": 1,
    "MaxPool": 1,
    "Pad": 1,
    "ReduceMax": 1,
    "Reshape": 1,
    "Resize": 1,
    "Slice": 1,
    "Split": 1,
    "Squeeze": 1,
    "Tile": 1,
    "Transpose": 1,
    "Unsqueeze": 1,
}


def clean_model(model: Any, inputs: Named, outputs: Named) -> dict[str, int]:
    """Edit a ModelProto in place and return its op counts.

    Post: graph inputs and outputs have the given names, in order, and are int8 where qparams are
    given (the quantise and dequantise nodes at the boundary are gone); no node, initialiser,
    metadata entry or docstring is left that nothing needs.
    """
    graph = _Graph(model.graph)
    graph.set_names_apart()
    graph.inline_constants()
    graph.drop_identities()
    graph.fold_weight_transposes()
    graph.move_codes()
    graph.cut_inputs(inputs)
    graph.cut_outputs(outputs)
    graph.drop_unused()
    graph.finish()
    for holder in (model, model.graph):
        del holder.metadata_props[:]
        holder.doc_string = ""
    del model.functions[:]
    model.graph.name = "step"
    return dict(sorted(Counter(n.op_type for n in model.graph.node).items()))


class _Graph:
    """A GraphProto with look-up tables; names are changed by one renaming at the end."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.nodes = list(proto.node)
        self.initializers = {i.name: i for i in proto.initializer}
        self.rename: dict[str, str] = {}

    def set_names_apart(self) -> None:
        """Prefix every value's name, so that none equals a name of the boundary."""
        for node in self.nodes:
            for side in (node.input, node.output):
                side[:] = [f"/{n}" if n else n for n in side]
        for info in (*self.proto.input, *self.proto.output):
            info.name = f"/{info.name}"
        for tensor in self.initializers.values():
            tensor.name = f"/{tensor.name}"
        self.initializers = {t.name: t for t in self.initializers.values()}

    def drop_identities(self) -> None:
        """Let readers of an Identity read its input."""
        same: dict[str, str] = {}
        for node in self.nodes:
            node.input[:] = [same.get(n, n) for n in node.input]
            if node.op_type == "Identity":
                same[node.output[0]] = node.input[0]
        self.nodes = [n for n in self.nodes if n.op_type != "Identity"]
        for info in self.proto.output:
            info.name = same.get(info.name, info.name)

    # --- constants ---------------------------------------------------------------------------

    def inline_constants(self) -> None:
        """Turn Constant nodes into initialisers."""
        kept = []
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensor = node.attribute[0].t
                tensor.name = node.output[0]
                self.initializers[tensor.name] = tensor
            else:
                kept.append(node)
        self.nodes = kept

    def fold_weight_transposes(self) -> None:
        """Store weights transposed instead of transposing dequantised weights at run time.

        Engines recognise a quantised matrix product only when the dequantised weight is its direct
        operand.
        """
        from onnx import helper, numpy_helper

        producers = {n.output[0]: n for n in self.nodes}
        for node in self.nodes:
            if node.op_type != "Transpose" or node.input[0] not in producers:
                continue
            source = producers[node.input[0]]
            codes = self.initializers.get(source.input[0]) if source.input else None
            if source.op_type != "DequantizeLinear" or codes is None:
                continue
            order = list(_attribute(node, "perm"))
            name = f"{source.input[0]}.transposed"
            array = np.ascontiguousarray(numpy_helper.to_array(codes).transpose(order))
            self.initializers[name] = numpy_helper.from_array(array, name)
            rank, axis = array.ndim, _attribute(source, "axis", 1)
            scales = [name, *source.input[1:]]
            made = helper.make_node(
                "DequantizeLinear", scales, list(node.output), axis=order.index(axis % rank)
            )
            node.CopyFrom(made)

    def move_codes(self) -> None:
        """Let data movement between equal qparams read and write codes.

        Exact, and it spares an engine a dequantise and a quantise node for each tensor.
        """
        producers = {name: n for n in self.nodes for name in n.output}
        readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        results = {o.name for o in self.proto.output}
        for node in self.nodes:
            if node.op_type in _MOVES and not results & set(node.output):
                self._move_codes(node, producers, readers)

    def _move_codes(
        self, node: Any, producers: dict[str, Any], readers: dict[str, list[Any]]
    ) -> None:
        count = _MOVES[node.op_type] or len(node.input)
        if node.op_type == "Resize" and _attribute(node, "mode", b"nearest") != b"nearest":
            return
        sources = [producers.get(name) for name in node.input[:count]]
        targets = [r for name in node.output for r in readers.setdefault(name, [])]
        if any(s is None or s.op_type != "DequantizeLinear" for s in sources):
            return
        if not targets or any(t.op_type != "QuantizeLinear" for t in targets):
            return
        grids = {self.qparams(n) for n in (*sources, *targets)}
        if len(grids) != 1 or None in grids or not self._fill_codes(node, sources[0]):
            return
        for position, source in enumerate(sources):
            assert source is not None
            node.input[position] = source.input[0]
        for name in node.output:
            # readers of the codes skip the quantise node, which is dropped later as unused
            for codes in [t.output[0] for t in readers[name]]:
                for reader in readers.get(codes, []):
                    reader.input[:] = [name if i == codes else i for i in reader.input]
                    readers[name].append(reader)

    def _fill_codes(self, node: Any, source: Any) -> bool:
        """Make the constant of a Pad a code; False when it is not zero."""
        if node.op_type != "Pad":
            return True
        from onnx import numpy_helper

        if _attribute(node, "mode", b"constant") != b"constant":
            return True
        if len(node.input) > 2 and node.input[2]:
            fill = self.initializers.get(node.input[2])
            if fill is None or np.any(numpy_helper.to_array(fill)):
                return False
        inputs = list(node.input) + [""] * (3 - len(node.input))
        inputs[2] = source.input[2]
        node.input[:] = inputs
        return True

    def qparams(self, node: Any) -> tuple[np.float32, int] | None:
        """Scale and zero point of a per-tensor quantise or dequantise node."""
        from onnx import numpy_helper

        scale = self.initializers.get(node.input[1])
        if scale is None or int(np.prod(scale.dims)) != 1:
            return None
        zero_point = 0
        if len(node.input) > 2 and node.input[2]:
            zero_point = int(numpy_helper.to_array(self.initializers[node.input[2]]))
        return np.float32(numpy_helper.to_array(scale)), zero_point

    # --- boundary ----------------------------------------------------------------------------

    def cut_inputs(self, wanted: Named) -> None:
        """Rename inputs; where codes are wanted, let readers of the quantised input read it."""
        for info, (name, q) in zip(self.proto.input, wanted, strict=True):
            old, info.name = info.name, name
            if q is None:
                self.rename[old] = name
                continue
            info.type.tensor_type.elem_type = _int8()
            readers = [n for n in self.nodes if old in n.input]
            quantisers = [n for n in readers if self._quantises(n, q)]
            for node in quantisers:
                self.rename[node.output[0]] = name
                self.nodes.remove(node)
            if len(quantisers) < len(readers):
                self._dequantise_for_others(old, name, q)

    def _quantises(self, node: Any, q: QParams) -> bool:
        found = self.qparams(node) if node.op_type == "QuantizeLinear" else None
        return found == (np.float32(q.scale), q.zero_point)

    def _dequantise_for_others(self, old: str, name: str, q: QParams) -> None:
        """Some reader wants real values: give it a dequantise node on the codes."""
        from onnx import helper, numpy_helper

        scale, zero_point = f"{name}.scale", f"{name}.zero_point"
        self.initializers[scale] = numpy_helper.from_array(np.array(q.scale, np.float32), scale)
        self.initializers[zero_point] = numpy_helper.from_array(
            np.array(q.zero_point, np.int8), zero_point
        )
        node = helper.make_node("DequantizeLinear", [name, scale, zero_point], [old])
        self.nodes.insert(0, node)

    def cut_outputs(self, wanted: Named) -> None:
        """Rename outputs; where codes are wanted, return what the last dequantise node reads."""
        from onnx import helper

        taken = {i.name for i in self.proto.input}
        for info, (name, q) in zip(self.proto.output, wanted, strict=True):
            source = info.name
            if q is not None:
                node = next((n for n in self.nodes if source in n.output), None)
                if node is None or node.op_type != "DequantizeLinear":
                    raise ConversionError(
                        f"output {name!r} has qparams but does not come from a dequantise node"
                    )
                source = node.input[0]
                info.type.tensor_type.elem_type = _int8()
            info.name = name
            current = self.rename.get(source, source)
            if current in taken or current in self.initializers:
                self.nodes.append(helper.make_node("Identity", [source], [name]))
            else:
                self.rename[source] = name
            taken.add(name)

    # --- the rest ----------------------------------------------------------------------------

    def drop_unused(self) -> None:
        """Drop nodes whose results nothing reads."""
        results = {o.name for o in self.proto.output}
        kept = []
        for node in reversed(self.nodes):
            names = {self.rename.get(o, o) for o in node.output}
            if names & results:
                kept.append(node)
                results.update(self.rename.get(i, i) for i in node.input)
        self.nodes = kept[::-1]

    def finish(self) -> None:
        """Write nodes, initialisers and names back."""
        used = set()
        for number, node in enumerate(self.nodes):
            for side in (node.input, node.output):
                side[:] = [self.rename.get(n, n) for n in side]
            used.update(node.input)
            node.name = f"{node.op_type}_{number}"
            node.doc_string = ""
            del node.metadata_props[:]
        initializers = [t for name, t in self.initializers.items() if name in used]
        for tensor in initializers:
            tensor.doc_string = ""
            del tensor.metadata_props[:]
        nodes = [_copy(n) for n in self.nodes]
        tensors = [_copy(t) for t in initializers]
        for info in (*self.proto.input, *self.proto.output):
            info.doc_string = ""
            del info.metadata_props[:]
        del self.proto.node[:], self.proto.initializer[:], self.proto.value_info[:]
        del self.proto.quantization_annotation[:]
        self.proto.node.extend(nodes)
        self.proto.initializer.extend(tensors)


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _int8() -> int:
    from onnx import TensorProto

    return int(TensorProto.INT8)
