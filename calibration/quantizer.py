"""Which tensors of a step graph carry which qparams.

Every float tensor belongs to a group; all members of a group have the same scale and zero point.
Groups grow by union: through data movement, and from each state's output to its input. Nodes that
keep float values ("raw") are the inside of fused kernels and of float islands, the path of exact
states, and statistics made of running sums.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spectral_edge.program import QParams, StepProgram

from .graph import arguments, closure, get_constant, is_float_tensor, output_nodes, record_values
from .ops import FIXED, FLOAT, FUSABLE, MOVE, SHARE, is_clamp
from .running import running_statistics

__all__ = ["REQUANTIZE", "Annotation", "annotate", "moves_codes", "reads_codes"]

_aten = torch.ops.aten

# Stands between a tensor with prescribed qparams and a group with others; vanishes when frozen.
REQUANTIZE = _aten.clone.default

# Ops whose constant operands become int8 constants; a constant of any other op stays float.
_TAKES_CONSTANTS = {
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.bmm.default,
    _aten.matmul.default,
    _aten.mm.default,
    *MOVE,
    *SHARE,
}


@dataclass(frozen=True)
class Annotation:
    """The decision about every tensor of a step graph.

    Attributes:
        group: node -> representative of its group, for every node whose value is quantised.
        fixed: representative -> prescribed qparams.
        exact: nodes on the path of exact states, and statistics made of running sums; they pass
            float values to one another.
        statistics: those of them that end in no state; a program's output is int8 even then.
        constants: (user, argument node) of every constant that becomes int8.
    """

    group: dict[fx.Node, fx.Node]
    fixed: dict[fx.Node, QParams]
    exact: set[fx.Node]
    statistics: set[fx.Node]
    constants: list[tuple[fx.Node, fx.Node]]


def moves_codes(node: fx.Node) -> bool:
    """Say whether ``node`` only moves codes, so that its output is on its inputs' grid."""
    if node.target is operator.getitem:
        return moves_codes(node.all_input_nodes[0])
    return node.op == "call_function" and node.target in MOVE and not _pads_with_a_number(node)


def _pads_with_a_number(node: fx.Node) -> bool:
    if node.target is not _aten.constant_pad_nd.default:
        return False
    return arguments(node, 3)[2] not in (None, 0)


def reads_codes(node: fx.Node, group: Mapping[fx.Node, fx.Node]) -> bool:
    """Say whether what ``node`` moves is quantised before it; looks through lists of tensors."""
    return any(
        source in group or (moves_codes(source) and reads_codes(source, group))
        for source in node.all_input_nodes
    )


def annotate(program: StepProgram, module: fx.GraphModule) -> Annotation:
    """Decide for every tensor of a normalised graph; may insert :data:`REQUANTIZE` nodes."""
    annotation, conflicts = _annotate(program, module)
    if conflicts:
        for node in conflicts:
            _insert_requantize(program, module, node)
        annotation, conflicts = _annotate(program, module)
        assert not conflicts, conflicts
    return annotation


def _annotate(program: StepProgram, module: fx.GraphModule) -> tuple[Annotation, list[fx.Node]]:
    values = record_values(program, module)
    path = _exact_path(program, module)
    statistics = running_statistics(program, module) - path
    exact = path | statistics
    raw = _raw_nodes(module, exact, statistics)
    groups = _Groups()
    constants = []
    states = {n for tie in _tied_states(program, module) for n in tie}
    for node in module.graph.nodes:
        if node.op not in ("placeholder", "call_function"):
            continue
        if not node.users and node not in states:
            continue  # an input that the model ignores
        if node.op == "call_function" and node.target in _TAKES_CONSTANTS and node not in exact:
            constants += [(node, n) for n in node.all_input_nodes if n.op == "get_attr"]
        if is_float_tensor(values[node]) and node not in raw:
            groups.add(node)
    constants = [(user, c) for user, c in constants if is_float_tensor(values[c])]
    for _, constant in constants:
        groups.add(constant)
    for node in list(groups):
        if _shares(node):
            for source in _float_sources(node, values):
                groups.join(node, source)
    for state, following in _tied_states(program, module):
        groups.join(state, following)
    fixed, conflicts = _fixed_qparams(program, module, groups, constants)
    return Annotation(groups.as_dict(), fixed, exact, statistics, constants), conflicts


def _shares(node: fx.Node) -> bool:
    return moves_codes(node) or node.target in SHARE or _pads_with_a_number(node)


def _float_sources(node: fx.Node, values: dict[fx.Node, Any]) -> Iterator[fx.Node]:
    """Yield the float tensors that ``node`` moves; looks through ops that return lists."""
    for source in node.all_input_nodes:
        if is_float_tensor(values[source]):
            yield source
        elif isinstance(values[source], (tuple, list)):
            yield from _float_sources(source, values)


def _exact_path(program: StepProgram, module: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes from the input of each exact state to its own output."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    returned = output_nodes(module.graph)
    inputs, outputs = len(program.inputs), len(program.outputs)
    path: set[fx.Node] = set()
    for i, spec in enumerate(program.states.values()):
        if spec.exact:
            after = closure([placeholders[inputs + i]], lambda n: n.users)
            path |= after & closure([returned[outputs + i]], lambda n: n.all_input_nodes)
    return path


def _raw_nodes(
    module: fx.GraphModule, exact: set[fx.Node], statistics: set[fx.Node]
) -> set[fx.Node]:
    """Return nodes whose value is never quantised: everyone who reads it computes in float."""
    raw = set()
    for node in module.graph.nodes:
        users = list(node.users)
        fused = node.target in FUSABLE and len(users) == 1 and is_clamp(users[0])
        island = node.target in FLOAT and users and all(u.target in FLOAT for u in users)
        returned = node not in statistics  # an exact state goes out as it is
        path = node in exact and all(u in exact or (u.op == "output" and returned) for u in users)
        if fused or island or path:
            raw.add(node)
    return raw


def _tied_states(program: StepProgram, module: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield (state input, state output) of every state that becomes int8."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    states = placeholders[len(program.inputs) :]
    following = output_nodes(module.graph)[len(program.outputs) :]
    for spec, before, after in zip(program.states.values(), states, following, strict=True):
        if not spec.exact and spec.dtype.startswith("float"):
            yield before, after


def _fixed_qparams(
    program: StepProgram,
    module: fx.GraphModule,
    groups: _Groups,
    constants: list[tuple[fx.Node, fx.Node]],
) -> tuple[dict[fx.Node, QParams], list[fx.Node]]:
    """Return prescribed qparams by group, and the nodes that cannot have theirs in their group."""
    states = {before for before, _ in _tied_states(program, module)}
    arithmetic = {constant for user, constant in constants if not _shares(user)}
    prescribed: dict[fx.Node, list[tuple[fx.Node, QParams]]] = {}
    free: set[fx.Node] = set()
    for node in groups:
        root = groups.find(node)
        qparams: QParams | None = FIXED.get(node.target)
        if node in arithmetic:
            qparams = _exact_number(get_constant(module, node))
        if qparams is not None:
            prescribed.setdefault(root, []).append((node, qparams))
        elif not _shares(node) and node not in states:
            free.add(root)
    fixed, conflicts = {}, []
    for root, members in prescribed.items():
        if root in free or len({q for _, q in members}) > 1:
            conflicts += [node for node, _ in members]
        else:
            fixed[root] = members[0][1]
    return fixed, conflicts


def _exact_number(value: torch.Tensor) -> QParams | None:
    """Return qparams that represent a constant number exactly: code 1 or -1."""
    if value.numel() != 1 or isinstance(value, torch.nn.Parameter):
        return None
    return QParams(abs(float(value)) or 1.0, 0)


def _insert_requantize(program: StepProgram, module: fx.GraphModule, node: fx.Node) -> None:
    with module.graph.inserting_after(node):
        copy = module.graph.call_function(REQUANTIZE, (node,))
    copy.meta = dict(node.meta)
    for user in list(node.users):
        if _shares(user):
            user.replace_input_with(node, copy)
    returned = output_nodes(module.graph)
    outputs = len(program.outputs)
    output = next(iter(reversed(module.graph.nodes)))
    output.args = (
        tuple(copy if n is node and i >= outputs else n for i, n in enumerate(returned)),
    )


class _Groups:
    """Union-find over nodes; the representative is the member added first."""

    def __init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._order: dict[fx.Node, int] = {}

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self._parent)

    def add(self, node: fx.Node) -> None:
        if node not in self._parent:
            self._parent[node] = node
            self._order[node] = len(self._order)

    def find(self, node: fx.Node) -> fx.Node:
        while self._parent[node] is not node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def join(self, a: fx.Node, b: fx.Node) -> None:
        """Unite two groups; nodes that are not quantised have none."""
        if a in self._parent and b in self._parent:
            first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
            self._parent[second] = first

    def as_dict(self) -> dict[fx.Node, fx.Node]:
        return {node: self.find(node) for node in self._parent}
