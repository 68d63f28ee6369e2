"""Puts kernels, constants and entry points together: the source file, its header, its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import ConversionError

from .emit_dense import emit_dense
from .emit_depthwise import emit_depthwise
from .emit_loops import (
    emit_loop,
    emit_matmul,
    emit_pool,
    emit_reduce,
    emit_softmax,
)
from .kernels import Dense, Depthwise, Kernel, Loop, Matmul, Pool, Reduce, Softmax
from .literals import C_TYPES, Constants, number_text
from .lower import lower_graph
from .plan import SLIDE_STEPS, Move, Plan, plan_step
from .prelude import HEAD, helpers
from .read import read_graph
from .tables import with_tables, without_detours
from .text import KernelText
from .view import Buffer, View

__all__ = ["CSource", "Port", "compile_step"]

_WRITERS: dict[type[Kernel], Any] = {
    Dense: emit_dense,
    Depthwise: emit_depthwise,
    Loop: emit_loop,
    Matmul: emit_matmul,
    Pool: emit_pool,
    Reduce: emit_reduce,
    Softmax: emit_softmax,
}
POOLS = {
    "float32": "f32",
    "float64": "f64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "bool": "u8",
}


@dataclass(frozen=True)
class Port:
    """An input, output or state: ``function`` of the source returns its address."""

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class CSource:
    """A step as C.

    Attributes:
        source: the C file; it includes nothing but the C library.
        header: declarations, for a caller in another file; ``source`` contains them itself.
        prefix: what every name that a linker sees starts with.
        inputs, outputs: by tensor name, states included (``state.x`` and ``state.x.next``).
        kernels: loop nests that do work in one step, copies included.
        memory_bytes: of the struct with all inputs, outputs, states and scratch.
        state_bytes: of the states.
    """

    source: str
    header: str
    prefix: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    kernels: int
    memory_bytes: int
    state_bytes: int


def compile_step(
    content: bytes,
    prefix: str = "step",
    initial: Mapping[str, NDArray[Any]] | None = None,
) -> CSource:
    """Write the step in a TFLite file as C. The same arguments give the same bytes.

    Args:
        content: the file; it need not be trusted.
        prefix: a C identifier.
        initial: values of ``state.…`` inputs before the first hop, in the file's layout; zeros
            where there is none.

    Raises:
        ConversionError: the file is damaged, or holds what cannot be computed.
        UnsupportedOp: an operator that has no C form.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,40}", prefix):
        raise ConversionError(f"prefix is {prefix!r}, must be a C identifier of up to 41 letters")
    try:
        with np.errstate(all="ignore"):  # scales of strangers may overflow; rules look at results
            graph = read_graph(content)
            plan = plan_step(graph, lower_graph(graph))
            return _Writer(plan, prefix, initial or {}).write()
    except (RecursionError, OverflowError, ZeroDivisionError) as error:
        raise ConversionError(f"the TFLite file has no C form ({type(error).__name__})") from error


class _Writer:
    """The text of one plan."""

    def __init__(self, plan: Plan, prefix: str, initial: Mapping[str, NDArray[Any]]) -> None:
        self.plan, self.prefix, self.initial = plan, prefix, initial
        self.constants = Constants()
        self.type = f"{prefix}_state"

    def write(self) -> CSource:
        functions, calls = [], []
        for i, kernel in enumerate(self.plan.kernels):
            assert kernel.expr is not None
            kernel.expr = without_detours(with_tables(kernel.expr))
            if isinstance(kernel, Reduce | Softmax):
                kernel.body = without_detours(with_tables(kernel.body))
            function, call = self._kernel(i, kernel)
            functions.append(function)
            calls.append(call)
        inputs, outputs = (
            self._ports("input", self.plan.inputs),
            self._ports("output", self.plan.outputs),
        )
        entries = self._entries(calls, inputs, outputs)
        declarations = self._declarations(inputs, outputs)
        used = set(re.findall(r"\bc\d+\b", "\n".join([*functions, entries])))
        texts = [t for i, t in enumerate(self.constants.texts) if f"c{i}" in used]
        body = "\n".join([*texts, *functions, entries])
        source = "\n".join([HEAD, helpers(body), declarations, body])
        guard = f"{self.prefix.upper()}_H"
        header = (
            f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
            f'#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{declarations}\n'
            f"#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
        )
        return CSource(
            source,
            header,
            self.prefix,
            inputs,
            outputs,
            len(self.plan.kernels),
            self.plan.bytes,
            self.plan.state_bytes,
        )

    def _kernel(self, index: int, kernel: Kernel) -> tuple[str, str]:
        own = frozenset(id(buffer) for buffer in kernel.scratch)
        assert kernel.out is not None
        shifts = {(id(kernel.out.buffer.root), True): kernel.out.first}
        for view in kernel.reads():
            if view.buffer.root.kind == "const":
                continue
            key = id(view.buffer.root), False
            shifts[key] = min(view.first, shifts.get(key, view.first))
        text = KernelText(self.constants, self.plan.exact, kernel.acc, own, shifts)
        _WRITERS[type(kernel)](text, kernel)
        parameters, arguments = [], []
        for (_, write), (name, root) in text.parameters.items():
            shift = text.shift(root, write)
            const = "" if write else "const "
            parameters.append(f"{const}{C_TYPES[root.dtype]} *restrict {name}")
            place = self.plan.places[id(root)] + shift
            arguments.append(f"s->{POOLS[root.dtype]} + {place}{self._slid(root)}")
        body = "\n".join(text.lines)
        function = f"SE_KERNEL void k{index}({', '.join(parameters)})\n{{\n{body}\n}}\n"
        return function, f"    k{index}({', '.join(arguments)});"

    def _slid(self, buffer: Buffer) -> str:
        distance = self.plan.slide(buffer)
        return f" + s->slid * {distance}" if distance else ""

    def _ports(self, side: str, views: Mapping[str, View]) -> dict[str, Port]:
        ports, taken = {}, set()
        for name, view in views.items():
            plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] or "x"
            unique, count = plain, 1
            while unique in taken:
                count += 1
                unique = f"{plain}_{count}"
            taken.add(unique)
            function = f"{self.prefix}_{side}_{unique}"
            ports[name] = Port(name, function, view.shape, view.buffer.dtype)
        return ports

    def _declarations(self, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> str:
        p = self.prefix
        pools = "\n".join(
            f"    {C_TYPES[d]} {POOLS[d]}[{n}] __attribute__((aligned(64)));"
            for d, n in self.plan.pools.items()
        )
        lines = [
            "/* Inputs, outputs, states and scratch of one stream; the caller owns it. */",
            f"typedef struct {self.type} {{",
            pools,
            "    int32_t waiting;",
            "    int32_t slid;",
            f"}} {self.type};",
            "",
            "/* Bytes of the struct. */",
            f"int32_t {p}_size(void);",
            "/* Before the first hop: initial states. */",
            f"void {p}_init({self.type} *s);",
            "/* One hop: reads inputs and states, writes outputs and next states. A hand-over that",
            f"   {p}_hand_over left waiting is done first. */",
            f"void {p}_run({self.type} *s);",
            "/* The next states become the present ones, now. */",
            f"void {p}_hand_over({self.type} *s);",
            "/* A hand-over that waits is done, and every state lies where it lay at first. */",
            f"void {p}_settle({self.type} *s);",
            "/* The flag of a hand-over that the next hop does first. */",
            f"int32_t *{p}_waiting({self.type} *s);",
            f"/* {p}_run and {p}_hand_over. */",
            f"void {p}_step({self.type} *s);",
        ]
        for side in (inputs, outputs):
            for port in side.values():
                shape = "".join(f"[{n}]" for n in port.shape)
                lines.append(
                    f"{C_TYPES[port.dtype]} *{port.function}({self.type} *s); /* {shape} */"
                )
        return "\n".join(lines) + "\n"

    def _entries(
        self, calls: list[str], inputs: Mapping[str, Port], outputs: Mapping[str, Port]
    ) -> str:
        p, plan = self.prefix, self.plan
        at, out = (
            {
                n: f"s->{POOLS[v.buffer.dtype]} + {plan.start(v)}{self._slid(v.buffer)}"
                for n, v in views.items()
            }
            for views in (plan.inputs, plan.outputs)
        )
        lines = [f"int32_t {p}_size(void)", "{", f"    return (int32_t)sizeof({self.type});", "}"]
        lines += ["", f"void {p}_init({self.type} *s)", "{", "    memset(s, 0, sizeof *s);"]
        for name, view in plan.inputs.items():
            values = self.initial.get(name)
            if values is None or not np.any(values):
                continue
            if values.shape != view.shape or values.dtype != view.buffer.dtype:
                raise ConversionError(
                    f"an initial state is {values.dtype}{list(values.shape)}, "
                    f"must be {view.buffer.dtype}{list(view.shape)}"
                )
            dtype = view.buffer.dtype
            flat = values.reshape(-1)
            if np.all(flat == flat[0]):
                value = number_text(flat[0], dtype)
            else:
                value = f"{self.constants.name(np.ascontiguousarray(flat))}[i]"
            lines.append(f"    for (int i = 0; i < {view.size}; i++) ({at[name]})[i] = {value};")
        lines += ["}", "", f"void {p}_hand_over({self.type} *s)", "{"]
        lines += [f"    {_move_text(plan, move)}" for move in plan.moves]
        if plan.slides:
            lines += [f"    if (s->slid < {SLIDE_STEPS})", "        s->slid++;", "    else {"]
            lines += [f"        {_move_text(plan, m, SLIDE_STEPS + 1)}" for m in plan.slides]
            lines += ["        s->slid = 0;", "    }"]
        lines += ["    s->waiting = 0;", "}", "", f"void {p}_settle({self.type} *s)", "{"]
        lines += ["    if (s->waiting)", f"        {p}_hand_over(s);"]
        lines += [f"    {_move_text(plan, m, 's->slid')}" for m in plan.slides]
        lines += ["    s->slid = 0;", "}", "", f"void {p}_run({self.type} *s)", "{"]
        lines += ["    if (s->waiting)", f"        {p}_hand_over(s);", *calls, "}"]
        lines += ["", f"void {p}_step({self.type} *s)", "{", f"    {p}_run(s);"]
        lines += [f"    {p}_hand_over(s);", "}"]
        lines += ["", f"int32_t *{p}_waiting({self.type} *s)", "{"]
        lines += ["    return &s->waiting;", "}"]
        for side, places in ((inputs, at), (outputs, out)):
            for port in side.values():
                lines += ["", f"{C_TYPES[port.dtype]} *{port.function}({self.type} *s)", "{"]
                lines += [f"    return {places[port.name]};", "}"]
        return "\n".join(lines) + "\n"


def _move_text(plan: Plan, move: Move, steps: int | str = 1) -> str:
    """Copy what lies ``steps`` hand-overs behind the first place of a state to that place."""
    pool = f"s->{POOLS[move.target.buffer.dtype]}"
    size = move.target.size * np.dtype(move.target.buffer.dtype).itemsize
    target = f"{pool} + {plan.start(move.target)}"
    if steps == 1:
        return f"memmove({target}, {pool} + {plan.start(move.source)}, {size});"
    return f"memmove({target}, {target} + {steps} * {move.distance}, {size});"
