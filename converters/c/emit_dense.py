"""Text of convolutions and linear layers.

Outputs lie in the lanes of vectors, so that sums need no reassociation: every tap multiplies one
input value (for codes: a pair of them) with a vector of weights. A tile of neighbouring positions
shares each weight that is loaded. Where padding cuts the window, positions are computed one by one.
"""

from __future__ import annotations

import numpy as np

from .dense_shape import MAX_VECTORS, DenseShape, chunks_of, packed_weights, shape_of
from .emit_wide import emit_wide
from .expr import leaf, node, number, remapped
from .kernels import Dense
from .text import KernelText
from .view import View, contiguous

__all__ = ["emit_dense"]

MAX_ACCUMULATORS = 24  # vectors that a tile sums into
TILE_ELEMENTS = 8192  # sums of a tile
MIN_CHAINS = 8  # independent sums that hide the latency of an addition


def emit_dense(text: KernelText, kernel: Dense) -> None:
    """Write a convolution or linear layer."""
    if kernel.acc.dtype == "float64":
        emit_wide(text, kernel)
        return
    shape = shape_of(kernel)
    _Tiles(text, shape).emit()


class _Tiles:
    """Writes the tiles of one kernel."""

    def __init__(self, text: KernelText, shape: DenseShape) -> None:
        self.text, self.shape, self.kernel = text, shape, shape.kernel
        outputs = self.kernel.weight.shape[-1]
        bias = np.zeros((shape.groups, shape.lanes), np.int32 if shape.codes else np.float32)
        bias[:, :outputs] = self.kernel.bias.reshape(shape.groups, outputs)
        self.bias = text.constants.name(bias)
        self.weights = text.constants.name(packed_weights(shape))
        self.ctype = "int32_t" if shape.codes else "float"
        self.letter = "i" if shape.codes else "f"

    def emit(self) -> None:
        """Write all positions."""
        text, shape, kernel = self.text, self.shape, self.kernel
        batch, out_h, out_w, _ = kernel.shape
        if shape.codes:
            self._pack()
        first, last = self._inside(out_w)
        tile = self._tile_size(last - first)
        n, h = ("0" if size == 1 else name for size, name in ((batch, "n"), (out_h, "h")))
        if batch > 1:
            text.loop("n", batch)
        if out_h > 1:
            text.loop("h", out_h)
        if shape.padded_h:
            self._bounds(
                "h",
                h,
                kernel.before[0],
                kernel.stride[0],
                kernel.dilation[0],
                kernel.weight.shape[1],
                shape.x.shape[1],
            )
        if last > first:
            count = -(-(last - first) // tile)
            if count == 1:
                self._tile(n, h, str(first), tile, False)
            else:
                text.loop("t", count)
                start = f"{first} + t * {tile}"
                if (last - first) % tile:
                    start = f"{start} < {last - tile} ? {start} : {last - tile}"
                text.line(f"const int w = {start};")
                self._tile(n, h, "w", tile, False)
                text.close()
        for begin, end in ((0, first), (last, out_w)):
            if begin < end:
                text.loop("w", end, begin)
                self._tile(n, h, "w", 1, True)
                text.close()
        text.close((batch > 1) + (out_h > 1))

    def _pack(self) -> None:
        """Copy codes minus zero point as int16, so that pairs of them can be multiplied."""
        kernel, text = self.kernel, self.text
        assert kernel.packed is not None
        x = kernel.x
        shifted = node("sub16", "int16", leaf(x), number(kernel.zero_point, "int8"))
        target = contiguous(kernel.packed, x.shape)
        inner = list(enumerate(x.shape))
        text.nest(shifted, target, ["0"] * 4, inner)

    def _inside(self, out_w: int) -> tuple[int, int]:
        """Positions whose windows padding does not cut."""
        kernel = self.kernel
        if not self.shape.padded:
            return 0, out_w
        before, stride, dilation = kernel.before[1], kernel.stride[1], kernel.dilation[1]
        reach = dilation * (kernel.weight.shape[2] - 1)
        first = -(-before // stride)
        last = (self.shape.x.shape[2] - 1 - reach + before) // stride + 1
        first = min(first, out_w)
        return first, max(min(last, out_w), first)

    def _tile_size(self, positions: int) -> int:
        vectors = min(len(self.shape.widths), MAX_VECTORS)
        fitting = TILE_ELEMENTS // (self.shape.groups * self.shape.lanes)
        most = max(1, min(8, MAX_ACCUMULATORS // vectors, positions, fitting))
        even = [t for t in range(most, most // 2, -1) if positions % t == 0]
        return even[0] if even else most

    def _bounds(
        self, axis: str, at: str, before: int, stride: int, dilation: int, taps: int, size: int
    ) -> None:
        """Declare the first tap inside the input and the one after the last."""
        line = self.text.line
        start = f"({at}) * {stride} - {before}"
        line(f"const int {axis}0 = {start};")
        line(f"const int {axis}1 = {axis}0 < 0 ? (-{axis}0 + {dilation - 1}) / {dilation} : 0;")
        line(f"const int {axis}r = ({size + dilation - 1} - {axis}0) / {dilation};")
        line(f"const int {axis}2 = {axis}r < {taps} ? {axis}r : {taps};")

    def _tile(self, n: str, h: str, w: str, tile: int, cut: bool) -> None:
        """Write the sums of ``tile`` positions from ``w`` on, and their epilogue."""
        text, shape, kernel = self.text, self.shape, self.kernel
        if cut:
            self._bounds(
                "w",
                w,
                kernel.before[1],
                kernel.stride[1],
                kernel.dilation[1],
                kernel.weight.shape[2],
                shape.x.shape[2],
            )
        width = shape.groups * shape.lanes
        text.array(self.ctype, "acc", tile * width)
        runs = self._runs_per_output()
        per_group = runs * shape.terms * shape.lanes * (2 if shape.codes else 1)
        group = "0"
        if shape.groups > 1:
            group = "g"
            text.loop("g", shape.groups)
        at = taken = 0
        chunks = chunks_of(shape.widths)
        equal = len([c for c in chunks if c == chunks[0]])
        if equal > 2:  # a loop over equal chunks, then what is left
            size = sum(chunks[0])
            text.loop("c", equal)
            weights = f"c * {runs * shape.terms * size * (2 if shape.codes else 1)}"
            self._chunk(n, h, w, tile, cut, chunks[0], f"c * {size}", weights, group, per_group)
            text.close()
            at, taken = equal * size, equal
        for chunk in chunks[taken:]:
            weights = str(at * runs * shape.terms * (2 if shape.codes else 1))
            self._chunk(n, h, w, tile, cut, chunk, str(at), weights, group, per_group)
            at += sum(chunk)
        if shape.groups > 1:
            text.close()
        self._epilogue(n, h, w, tile)

    def _runs_per_output(self) -> int:
        sums = self.kernel.weight[0].size // self.kernel.weight.shape[-1]
        return int(sums) // self.shape.run

    def _chunk(
        self,
        n: str,
        h: str,
        w: str,
        tile: int,
        cut: bool,
        chunk: tuple[int, ...],
        at: str,
        weights: str,
        group: str,
        per_group: int,
    ) -> None:
        """Sum one group of vectors of outputs over all taps."""
        text, shape = self.text, self.shape
        line = text.line
        text.open("")
        chains = 1
        while (
            chains < 4
            and chains * 2 * tile * len(chunk) <= MIN_CHAINS
            and (shape.terms >= 8 * chains)
        ):
            chains *= 2
        start = f"{group} * {shape.lanes} + {at}" if group != "0" else at
        for v, lanes in enumerate(chunk):
            vector = f"se_{self.letter}{lanes}"
            offset = sum(chunk[:v])
            for p in range(tile):
                for u in range(chains):
                    value = f"*(const {vector} *)({self.bias} + {start} + {offset})"
                    line(f"{vector} a{p}_{v}_{u} = {value if u == 0 else '{0}'};")
        kind = "int16_t" if shape.codes else "float"
        origin = self._origin(n, h, w, cut, group)
        line(
            f"const {kind} *wb = {self.weights} + {group} * {per_group} + {weights};"
            if group != "0"
            else f"const {kind} *wb = {self.weights} + {weights};"
        )
        line(f"const {kind} *xb = {origin};")
        self._taps(tile, cut, chunk, chains, kind)
        for v, lanes in enumerate(chunk):
            for p in range(tile):
                parts = " + ".join(f"a{p}_{v}_{u}" for u in range(chains))
                where = f"acc + {p * shape.groups * shape.lanes} + {start} + {sum(chunk[:v])}"
                line(f"*(se_{self.letter}{lanes} *)({where}) = {parts};")
        text.close()

    def _origin(self, n: str, h: str, w: str, cut: bool, group: str) -> str:
        """Address of the first value that position ``w`` reads."""
        shape, kernel = self.shape, self.kernel
        terms = [(n, shape.x.strides[0])]
        terms.append(
            (
                "h0" if shape.padded_h else h,
                shape.x.strides[1] * (1 if shape.padded_h else kernel.stride[0]),
            )
        )
        offset = 0
        if cut:
            terms.append(("w0", shape.x.strides[2]))
        else:
            terms.append((f"({w})", shape.x.strides[2] * kernel.stride[1]))
            offset = -kernel.before[1] * shape.x.strides[2]
        depth = kernel.weight.shape[3]
        terms.append((group, depth * shape.x.strides[3]))
        moved = View(shape.x.buffer, shape.x.shape, shape.x.strides, shape.x.offset + offset)
        text = self.text.address(moved, terms)
        name, rest = text.split("[", 1)
        return f"{name} + ({rest.rstrip(']')})"

    def _taps(self, tile: int, cut: bool, chunk: tuple[int, ...], chains: int, kind: str) -> None:
        """Loops over kernel rows, runs and values."""
        text, shape, kernel = self.text, self.shape, self.kernel
        x, size = shape.x, sum(chunk) * (2 if shape.codes else 1)
        row, tap = x.strides[1] * kernel.dilation[0], x.strides[2] * kernel.dilation[1]
        rows = shape.height > 1 or shape.padded_h
        per_row = shape.runs_w * shape.terms * size
        if rows:
            low, high = ("h1", "h2") if shape.padded_h else ("0", str(shape.height))
            text.loop("kh", high, low)
        xr = f"xb + kh * {row}" if rows else "xb"
        wr = f"wb + kh * {per_row}" if rows else "wb"
        if shape.runs_w > 1:
            low, high = ("w1", "w2") if cut else ("0", str(shape.runs_w))
            text.loop("kw", high, low)
            xr, wr = f"{xr} + kw * {tap}", f"{wr} + kw * {shape.terms * size}"
            count = str(shape.terms)
        elif cut and shape.width > 1:  # a run over several taps, cut at its ends
            depth = kernel.weight.shape[3]
            per_tap = depth // 2 if shape.codes else depth
            xr, wr = f"{xr} + w1 * {tap}", f"{wr} + w1 * {per_tap * size}"
            count = f"(w2 - w1) * {per_tap}"
        else:
            count = str(shape.terms)
            if cut:
                text.open("if (w2 > w1)")
        text.line(f"const {kind} *wp = {wr};")
        text.line(f"const {kind} *xp = {xr};")
        self._run(tile, chunk, chains, count)
        if cut and shape.runs_w == 1 and shape.width == 1:
            text.close()
        text.close((shape.runs_w > 1) + rows)

    def _run(self, tile: int, chunk: tuple[int, ...], chains: int, count: str) -> None:
        """The innermost loop: one value (or pair) times a row of weights."""
        text, shape = self.text, self.shape
        size = sum(chunk) * (2 if shape.codes else 1)
        stride = shape.x.strides[2] * self.kernel.stride[1]
        step = shape.step * (2 if shape.codes else 1)
        start = "int k = 0"
        if chains > 1:
            text.line(f"{start};")
            text.open(f"for (; k + {chains} <= {count}; k += {chains})")
            for u in range(chains):
                self._term(tile, chunk, u, f"(k + {u})", size, stride, step)
            text.close()
            start = ""
        if chains == 1 or not count.isdecimal() or int(count) % chains:
            text.open(f"for ({start}; k < {count}; k++)")
            self._term(tile, chunk, 0, "k", size, stride, step)
            text.close()

    def _term(
        self, tile: int, chunk: tuple[int, ...], u: int, k: str, size: int, stride: int, step: int
    ) -> None:
        text, shape = self.text, self.shape
        text.open("")
        for v, lanes in enumerate(chunk):
            offset = sum(chunk[:v])
            if shape.codes:
                text.line(f"const int16_t *v{v} = wp + {k} * {size} + {2 * offset};")
            else:
                vector = f"se_f{lanes}"
                text.line(
                    f"const {vector} v{v} = *(const {vector} *)(wp + {k} * {size} + {offset});"
                )
        for p in range(tile):
            where = f"{k} * {step} + {p * stride}"
            if shape.codes:
                text.line(f"int32_t p{p};")
                text.line(f"memcpy(&p{p}, xp + {where}, 4);")
            else:
                text.line(f"const float p{p} = xp[{where}];")
            for v, lanes in enumerate(chunk):
                macro = f"SE_MADD{lanes}" if shape.codes else f"SE_FMA{lanes}"
                name = f"a{p}_{v}_{u}"
                text.line(f"{name} = {macro}({name}, v{v}, p{p});")
        text.close()

    def _epilogue(self, n: str, h: str, w: str, tile: int) -> None:
        """Store what the readers want of ``tile`` times all outputs."""
        text, shape, kernel = self.text, self.shape, self.kernel
        assert kernel.expr is not None
        assert kernel.out is not None
        outputs = kernel.weight.shape[-1]
        split = (*kernel.shape[:3], shape.groups, outputs)
        expr = remapped(kernel.expr, lambda view: view.reshaped(split))
        out = kernel.out.reshaped(split)
        assert expr is not None
        assert out is not None
        outer = [n, h, f"({w})" if w != "0" else "0", "0", "0"]
        inner = [(2, tile), (3, shape.groups), (4, outputs)]
        strides = (shape.groups * shape.lanes, shape.lanes, 1)
        text.nest(expr, out, outer, inner, ("acc", strides))
