"""Clip graph passes: spelling a traced model in forms that the rules follow.

without_mutation   in-place ops become functional ones
fold_constants     weight normalisation and the like are computed once
spell_einsum       einsums become matrix products, or products and sums
pack_groups        equal recurrent modules on parts of one tensor become one
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from spectral_edge.streaming.fold import get_constant, set_constant
from spectral_edge.streaming.value import refusal

__all__ = ["fold_constants", "pack_groups", "spell_einsum", "without_mutation"]

_aten = torch.ops.aten


def without_mutation(exported: ExportedProgram) -> fx.GraphModule:
    """Return the graph with in-place ops replaced.

    Raises:
        NotStreamable: the model writes to one of its buffers.
    """
    module: fx.GraphModule = exported.module(check_guards=False)
    mutable = [n for n in module.graph.nodes if _is_mutable(n)]
    for node in mutable:
        target = node.args[0]
        if target.op == "get_attr" and not _counts_batches(node):
            raise refusal(
                node,
                f"it writes to the buffer {target.target}",
                "keep state in the carry of spectral_edge.layers.scan",
            )
    if all(_is_private(n) for n in mutable):
        for node in mutable:
            if _counts_batches(node):
                module.graph.erase_node(node)
            else:
                node.target = _functional(node)
        _drop_whole_slices(module)
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own tree utilities
        module = exported.run_decompositions({}).module(check_guards=False)
    _drop_whole_slices(module)
    return module


def _drop_whole_slices(module: fx.GraphModule) -> None:
    """Remove slices that take a whole axis, which indexing writes in numbers."""
    for node in list(module.graph.nodes):
        scatter = node.target is _aten.slice_scatter.default
        if not scatter and node.target is not _aten.slice.Tensor:
            continue
        first = 2 if scatter else 1
        given: list[Any] = list(node.args[first:])
        defaults: list[Any] = [0, None, None, 1]
        _, start, end, step = given + defaults[len(given) :]
        if not start and step == 1 and (end is None or (isinstance(end, int) and end >= 1 << 40)):
            node.replace_all_uses_with(node.args[first - 1])
            module.graph.erase_node(node)


def _is_mutable(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or node.target is _aten.detach_.default:
        return False
    return bool(schema.is_mutable)


def _counts_batches(node: fx.Node) -> bool:
    """Return True for training-mode bookkeeping that nobody reads."""
    target: Any = node.args[0]
    return target.op == "get_attr" and not node.users and node.target is _aten.add_.Tensor


def _is_private(node: fx.Node) -> bool:
    """Return True when nothing else sees the tensor that ``node`` overwrites."""
    target: Any = node.args[0]
    if _counts_batches(node):
        return True
    if target.op != "call_function" or len(target.users) > 1 or _functional(node) is None:
        return False
    schema = getattr(target.target, "_schema", None)
    return schema is not None and all(r.alias_info is None for r in schema.returns)


def _functional(node: fx.Node) -> Any:
    name, _, overload = node.target._schema.name.split("::")[1].partition(".")  # type: ignore[union-attr]
    overload = node.target._overloadname  # type: ignore[union-attr]
    packet = getattr(_aten, name.removesuffix("_"), None)
    return getattr(packet, overload, None)


# -- constants ----------------------------------------------------------------------------------

_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal_")


def fold_constants(module: fx.GraphModule) -> None:
    """Compute what depends on parameters only; results of parameters are parameters again."""
    constant: dict[fx.Node, torch.Tensor] = {}
    learned: set[fx.Node] = set()
    folded: list[fx.Node] = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = _attribute(module, str(node.target))
            if isinstance(value, torch.Tensor):
                constant[node] = value.detach()
                if isinstance(value, torch.nn.Parameter):
                    learned.add(node)
        elif node.op == "call_function" and _foldable(node, constant):
            with torch.no_grad():
                args, kwargs = fx.map_arg((node.args, node.kwargs), constant.__getitem__)
                result = node.target(*args, **kwargs)
            if isinstance(result, torch.Tensor):
                constant[node] = result
                folded.append(node)
                if any(n in learned for n in node.all_input_nodes):
                    learned.add(node)
    for node in folded:
        if all(user in constant for user in node.users):
            continue  # only the last constant of a chain is kept
        name = f"{node.name}_folded"
        replacement = set_constant(module, node, name, constant[node], learned=node in learned)
        replacement.meta = {**node.meta, "val": node.meta.get("val")}
        node.replace_all_uses_with(replacement)
    module.graph.eliminate_dead_code()


def _attribute(module: fx.GraphModule, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _foldable(node: fx.Node, constant: dict[fx.Node, torch.Tensor]) -> bool:
    val = node.meta.get("val")
    if not isinstance(val, torch.Tensor) or getattr(node.target, "namespace", "") != "aten":
        return False
    if any(isinstance(s, torch.SymInt) for s in val.shape):
        return False
    if any(word in str(node.target) for word in _RANDOM) or _is_mutable(node):
        return False
    return all(n in constant for n in node.all_input_nodes)


# -- einsum -------------------------------------------------------------------------------------


def spell_einsum(module: fx.GraphModule, axes: Callable[[fx.Node], int]) -> None:
    """Write einsums of two tensors as matrix products, or as a product and a sum.

    Args:
        module: clip graph, changed in place.
        axes: number of time axes of a node's tensor.
    """
    for node in list(module.graph.nodes):
        if node.target is not _aten.einsum.default:
            continue
        tensors: Any = node.args[1]
        equation = str(node.args[0]).replace(" ", "")
        if len(tensors) != 2 or "." in equation or "->" not in equation:
            continue  # the rule refuses it with advice
        over_pairs = max(axes(n) for n in (node, *tensors)) > 1
        if not _as_matmul(module, node, equation, tensors) and not over_pairs:
            _as_products(module, node, equation, tensors)
    module.graph.eliminate_dead_code()


def _as_matmul(module: fx.GraphModule, node: fx.Node, equation: str, tensors: Any) -> bool:
    terms, _, out = equation.partition("->")
    left, right = terms.split(",")
    both = [c for c in left if c in right]
    summed, batch = [c for c in both if c not in out], [c for c in both if c in out]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1:
        return False
    a = _permuted(module, node, tensors[0], left, [*batch, *rows, *summed])
    b = _permuted(module, node, tensors[1], right, [*batch, *summed, *columns])
    product = add_node(module, node, _aten.matmul.default, (a, b))
    result = _permuted(module, node, product, "".join([*batch, *rows, *columns]), list(out))
    node.replace_all_uses_with(result)
    return True


def _as_products(module: fx.GraphModule, node: fx.Node, equation: str, tensors: Any) -> None:
    terms, _, out = equation.partition("->")
    letters = out + "".join(sorted({c for c in terms if c.isalpha() and c not in out}))
    factors = []
    for term, tensor in zip(terms.split(","), tensors, strict=True):
        present = [c for c in letters if c in term]
        x = _permuted(module, node, tensor, term, present)
        for i, c in enumerate(letters):
            if c not in term:
                x = add_node(module, node, _aten.unsqueeze.default, (x, i))
        factors.append(x)
    result = add_node(module, node, _aten.mul.Tensor, tuple(factors))
    if len(letters) > len(out):
        dims = list(range(len(out), len(letters)))
        result = add_node(module, node, _aten.sum.dim_IntList, (result, dims))
    node.replace_all_uses_with(result)


def _permuted(
    module: fx.GraphModule, like: fx.Node, x: fx.Node, letters: str, order: list[str]
) -> fx.Node:
    dims = [letters.index(c) for c in order]
    if dims == list(range(len(dims))):
        return x
    return add_node(module, like, _aten.permute.default, (x, dims))


def add_node(module: fx.GraphModule, like: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Insert a node before ``like``, with its place in the source and a symbolic value."""
    with module.graph.inserting_before(like):
        node = module.graph.call_function(target, args)
    node.meta = {k: v for k, v in like.meta.items() if k != "val"}
    node.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
    return node


# -- groups -------------------------------------------------------------------------------------

EXTRA_MACS = 20_000  # zeros of the block matrices, per step; beyond it packing does not pay


def pack_groups(module: fx.GraphModule) -> int:
    """Run equal one-layer GRU/LSTM/RNNs on the parts of one split tensor as one.

    Returns:
        Number of recurrent ops removed.
    """
    op = torch.ops.spectral_edge.recurrent.default
    by_source: dict[fx.Node, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.target is op and node.args[0].target is operator.getitem:
            by_source.setdefault(node.args[0].args[0], []).append(node)
    removed = 0
    for split, members in by_source.items():
        if len(members) > 1 and _can_pack(module, split, members):
            _pack(module, split, members)
            removed += len(members) - 1
    module.graph.eliminate_dead_code()
    return removed


def _can_pack(module: fx.GraphModule, split: fx.Node, members: list[fx.Node]) -> bool:
    first = members[0]
    parts = list(split.meta["val"])
    same = all(
        m.args[3:] == first.args[3:] and not m.args[1] and len(m.args[2]) == len(first.args[2])  # type: ignore[arg-type]
        for m in members
    )
    whole = sorted(map(_position, members)) == list(range(len(parts)))
    used_alone = all(
        user.target is operator.getitem and user.args[1] == 0 for m in members for user in m.users
    )
    along_last = all(str(p.shape[:-1]) == str(parts[0].shape[:-1]) for p in parts) and split.args[
        0
    ].meta["val"].shape[-1] == sum(int(p.shape[-1]) for p in parts)  # type: ignore[union-attr]
    if not (same and whole and used_alone and along_last) or first.args[4] != 1:
        return False
    weights: list[Any] = [w for m in members for w in m.args[2]]  # type: ignore[union-attr]
    sizes = [get_constant(module, w).numel() for w in weights]
    return sum(sizes) * (len(members) - 1) <= EXTRA_MACS


def _position(member: fx.Node) -> int:
    """Return which part of the split a recurrent node reads."""
    source: Any = member.args[0]
    return int(source.args[1])


def _pack(module: fx.GraphModule, split: fx.Node, members: list[fx.Node]) -> None:
    members = sorted(members, key=_position)
    _, _, _, mode, layers, bidirectional, batch_first, has_bias = members[0].args
    order = {n: i for i, n in enumerate(module.graph.nodes)}
    first = min(members, key=order.__getitem__)
    gates = {"GRU": 3, "LSTM": 4}.get(str(mode), 1)
    weights = []
    given: list[Any] = [m.args[2] for m in members]
    for i in range(len(given[0])):
        tensors = [get_constant(module, g[i]) for g in given]
        stem = f"{str(given[0][i].target).replace('.', '_')}_packed"
        weights.append(set_constant(module, first, stem, _blocks(tensors, gates), learned=True))
    args: Any = (split.args[0], [], weights, mode, layers, bidirectional, batch_first, has_bias)
    packed = add_node(module, first, torch.ops.spectral_edge.recurrent.default, args)
    y = add_node(module, first, operator.getitem, (packed, 0))
    hidden = [get_constant(module, g[1]).shape[1] for g in given]
    total, start = sum(hidden), 0
    for member, size in zip(members, hidden, strict=True):
        piece = add_node(module, first, _aten.slice.Tensor, (y, 2, start, start + size))
        if bidirectional:
            back = add_node(
                module, first, _aten.slice.Tensor, (y, 2, total + start, total + start + size)
            )
            piece = add_node(module, first, _aten.cat.default, ([piece, back], 2))
        for user in list(member.users):
            user.replace_all_uses_with(piece)
        start += size


def _blocks(tensors: list[torch.Tensor], gates: int) -> torch.Tensor:
    """Block-diagonal per gate (matrices) or joined per gate (biases), in PyTorch's gate order."""
    split = [t.chunk(gates, dim=0) for t in tensors]
    join = torch.block_diag if tensors[0].ndim == 2 else lambda *parts: torch.cat(parts)
    return torch.cat([join(*(s[g] for s in split)) for g in range(gates)])
