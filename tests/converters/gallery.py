"""One small module per op, and what it takes to run all of them on every engine at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.program import StepProgram, state_input, state_output

IMAGE = (1, 16, 6, 20)
SIGNAL = (1, 16, 40)
ROWS = (4, 24, 32)


class Lambda(nn.Module):
    """A module from a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> Any:
        return self.function(*xs)


class Scaled(nn.Module):
    """A function of the input times 4, where non-linearities bend."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Case:
    """A module with its input shapes."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]


def image(make: Callable[[], nn.Module], count: int = 1) -> Case:
    return Case(make, (IMAGE,) * count)


def signal(make: Callable[[], nn.Module]) -> Case:
    return Case(make, (SIGNAL,))


def function(f: Callable[..., Any], count: int = 1, shape: tuple[int, ...] = IMAGE) -> Case:
    return Case(lambda: Lambda(f), (shape,) * count)


def _bias(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.shape[1]).reshape(1, -1, 1, 1)


CASES: dict[str, Case] = {
    # convolutions
    "conv2d": image(lambda: nn.Conv2d(16, 8, 3, padding=1)),
    "conv2d_valid": image(lambda: nn.Conv2d(16, 8, (2, 3))),
    "conv2d_stride": image(lambda: nn.Conv2d(16, 8, 3, stride=2, padding=1)),
    "conv2d_dilated": image(lambda: nn.Conv2d(16, 8, 3, dilation=2, padding=2)),
    "conv2d_one_sided": image(lambda: nn.Conv2d(16, 8, (6, 5), padding=(0, 2))),
    "conv2d_wide_padding": image(lambda: nn.Conv2d(16, 8, 3, padding=(0, 3))),
    "conv2d_same": image(lambda: nn.Conv2d(16, 8, 3, padding="same")),
    "conv2d_no_bias": image(lambda: nn.Conv2d(16, 8, 1, bias=False)),
    "conv2d_relu": image(lambda: nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU())),
    "conv2d_relu6": image(lambda: nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU6())),
    "conv2d_hardtanh": image(lambda: nn.Sequential(nn.Conv2d(16, 8, 1), nn.Hardtanh())),
    "depthwise": image(lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16)),
    "depthwise_stride": image(lambda: nn.Conv2d(16, 16, (1, 3), (1, 2), (0, 1), groups=16)),
    "depthwise_multiplier": image(lambda: nn.Conv2d(16, 32, 3, padding=1, groups=16)),
    "depthwise_11": image(lambda: nn.Conv2d(16, 16, (1, 11), padding=(0, 5), groups=16)),
    "grouped": image(lambda: nn.Conv2d(16, 32, (1, 3), padding=(0, 1), groups=4)),
    "conv1d": signal(lambda: nn.Conv1d(16, 8, 3, padding=1)),
    "conv1d_dilated": signal(lambda: nn.Conv1d(16, 8, 3, dilation=4)),
    "conv1d_depthwise": signal(lambda: nn.Conv1d(16, 16, 5, padding=2, groups=16)),
    "conv1d_chain": signal(
        lambda: nn.Sequential(nn.Conv1d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 12, 1))
    ),
    # matrix products
    "linear": Case(lambda: nn.Linear(32, 20), ((24, 32),)),
    "linear_rank3": Case(lambda: nn.Linear(32, 20), (ROWS,)),
    "linear_rank4": image(lambda: nn.Linear(20, 12)),
    "linear_relu": Case(lambda: nn.Sequential(nn.Linear(32, 20), nn.ReLU()), (ROWS,)),
    "matmul": Case(lambda: Lambda(torch.matmul), ((1, 4, 24, 8), (1, 4, 8, 24))),
    "matmul_transposed": Case(
        lambda: Lambda(lambda a, b: a @ b.transpose(-1, -2)), ((1, 4, 24, 8), (1, 4, 24, 8))
    ),
    "bmm": Case(lambda: Lambda(torch.bmm), ((4, 24, 8), (4, 8, 24))),
    # two operands
    "add": function(torch.add, 2),
    "add_relu": function(lambda a, b: F.relu(a + b), 2),
    "sub": function(torch.sub, 2),
    "mul": function(torch.mul, 2),
    "add_scalar": function(lambda x: x + 0.5),
    "rsub_scalar": function(lambda x: 1.0 - x),
    "mul_scalar": function(lambda x: x * -0.7),
    "add_channels": function(lambda x: x + _bias(x)),
    "mul_channels": function(lambda x: x * _bias(x)),
    "add_broadcast": Case(lambda: Lambda(torch.add), (IMAGE, (1, 16, 1, 1))),
    "mul_broadcast_low_rank": Case(lambda: Lambda(torch.mul), (IMAGE, (20,))),
    "maximum": function(torch.maximum, 2),
    "minimum": function(torch.minimum, 2),
    "div": function(lambda a, b: a / (b.abs() + 1.0), 2),
    "div_scalar": function(lambda x: x / 3.0),
    # one operand
    "relu": function(F.relu),
    "relu6": function(F.relu6),
    "clamp": function(lambda x: x.clamp(-0.5, 1.5)),
    "sigmoid": function(torch.sigmoid),
    "tanh": function(torch.tanh),
    "leaky_relu": function(lambda x: F.leaky_relu(x, 0.1)),
    "prelu": image(lambda: nn.PReLU(16)),
    "gelu": function(F.gelu),
    "gelu_tanh": function(lambda x: F.gelu(x, approximate="tanh")),
    "silu": function(F.silu),
    "hardswish": function(F.hardswish),
    "hardsigmoid": function(F.hardsigmoid),
    "elu": function(F.elu),
    "abs": function(torch.abs),
    "neg": function(torch.neg),
    "square": function(torch.square),
    "pow2": function(lambda x: x**2),
    "sqrt": function(lambda x: (x.abs() + 0.1).sqrt()),
    "rsqrt": function(lambda x: (x.abs() + 0.1).rsqrt()),
    "exp": function(torch.exp),
    "log": function(lambda x: (x.abs() + 0.1).log()),
    "softplus": function(F.softplus),
    "softmax_channels": function(lambda x: x.softmax(1)),
    "softmax_last": function(lambda x: x.softmax(-1)),
    # reductions and norms
    "mean_space": function(lambda x: x.mean((2, 3))),
    "mean_channels": function(lambda x: x.mean(1, keepdim=True)),
    "sum_last": function(lambda x: x.sum(-1)),
    "amax": function(lambda x: x.amax(2)),
    "max_pool": image(lambda: nn.MaxPool2d(2)),
    "avg_pool": image(lambda: nn.AvgPool2d((1, 2))),
    "avg_pool_padded": image(lambda: nn.AvgPool2d(3, 1, 1)),
    "adaptive_avg_pool": image(lambda: nn.AdaptiveAvgPool2d(1)),
    "layer_norm": Case(lambda: nn.LayerNorm(32), (ROWS,)),
    "layer_norm_channels": function(
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)
    ),
    "group_norm": image(lambda: nn.GroupNorm(4, 16)),
    # data movement
    "cat": function(lambda a, b: torch.cat((a, b), 1), 2),
    "cat_six": function(lambda x: torch.cat((x,) * 6, 3)),
    "stack": function(lambda a, b: torch.stack((a, b), 2), 2),
    "slice": function(lambda x: x[:, 2:9, 1:]),
    "slice_step": function(lambda x: x[..., ::2]),
    "select": function(lambda x: x[:, :, 3]),
    "pad": function(lambda x: F.pad(x, (1, 2))),
    "pad_two_axes": function(lambda x: F.pad(x, (1, 0, 2, 1))),
    "pad_value": function(lambda x: F.pad(x, (1, 1), value=1.0)),
    "pad_negative": function(lambda x: F.pad(x, (-1, 2))),
    "view_heads": function(lambda x: x.view(1, 4, 4, 6, 20)),
    "flatten": function(lambda x: x.flatten(1)),
    "permute": function(lambda x: x.permute(0, 3, 1, 2)),
    "movedim": function(lambda x: x.movedim(1, 3)),
    "transpose": function(lambda x: x.transpose(1, 2)),
    "squeeze": Case(lambda: Lambda(lambda x: x.squeeze(2)), ((1, 16, 1, 20),)),
    "expand": Case(lambda: Lambda(lambda x: x.expand(1, 16, 3, 20)), ((1, 16, 1, 20),)),
    "repeat": function(lambda x: x.repeat(1, 2, 1, 1)),
    "split": function(lambda x: torch.cat(x.split(4, 1)[::-1], 1)),
    "chunk": function(lambda x: x.chunk(2, 3)[1]),
    "roll": function(lambda x: x.roll(1, 3)),
    "flip": function(lambda x: x.flip(3)),
    "upsample_width": function(lambda x: F.interpolate(x, scale_factor=(1.0, 2.0))),
    "upsample_both": function(lambda x: F.interpolate(x, scale_factor=2.0)),
    "dropout": image(lambda: nn.Dropout(0.5)),
}


class Gallery(nn.Module):
    """All cases side by side: one input per operand, one output per case."""

    def __init__(self, cases: dict[str, Case]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cases = nn.ModuleList(case.make() for case in cases.values())
        self.arity = [len(case.shapes) for case in cases.values()]

    def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
        results, position = [], 0
        for case, count in zip(self.cases, self.arity, strict=True):
            # times one: an output of its own even where a case returns its input
            results.append(case(*xs[position : position + count]))
            position += count
        return tuple(results)


def boundary(program: StepProgram) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """(name, spec) of all inputs and of all outputs of the step."""
    inputs = [(t.name, t) for t in program.inputs]
    inputs += [(state_input(n), s) for n, s in program.states.items()]
    outputs = [(t.name, t) for t in program.outputs]
    outputs += [(state_output(n), s) for n, s in program.states.items()]
    return inputs, outputs


def random_feeds(program: StepProgram, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Random codes, or normal values for float tensors, by name, logical shapes."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(-128, 128, spec.shape).astype(np.int8)
        if spec.qparams
        else rng.standard_normal(spec.shape).astype(np.float32)
        for name, spec in boundary(program)[0]
    }


def run_torch(program: StepProgram, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One step in torch; codes in and out where quantised."""
    inputs, outputs = boundary(program)
    real = [s.qparams.dequantize(feeds[n]) if s.qparams else feeds[n] for n, s in inputs]
    with torch.no_grad():
        results = program.module(*(torch.from_numpy(np.asarray(x)) for x in real))
    return {
        name: spec.qparams.quantize(r.numpy()) if spec.qparams else r.numpy()
        for (name, spec), r in zip(outputs, results, strict=True)
    }


class LitertStep:
    """A TFLite file in LiteRT, logical shapes at the boundary."""

    def __init__(self, data: bytes, layout: dict[str, list[int]]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.layout = layout
        self.interpreter = Interpreter(model_content=data, num_threads=1)
        self.runner = self.interpreter.get_signature_runner("step")

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        stored = {n: np.ascontiguousarray(a.transpose(self._perm(n, a))) for n, a in feeds.items()}
        return {
            n: a.transpose(np.argsort(self._perm(n, a))) for n, a in self.runner(**stored).items()
        }

    def _perm(self, name: str, array: NDArray[Any]) -> Sequence[int]:
        return self.layout.get(name, list(range(array.ndim)))


def onnx_session(data: bytes) -> Any:
    """An ONNX Runtime session as the package's engine makes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One step in ONNX Runtime."""
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


_OLD_RUNTIME = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
feeds = np.load(sys.argv[2])
runner = Interpreter(model_path=sys.argv[1], num_threads=1).get_signature_runner("step")
np.savez(sys.argv[3], **runner(**{k: feeds[k] for k in feeds.files}))
"""


def run_old_runtime(
    data: bytes, layout: dict[str, list[int]], feeds: dict[str, NDArray[Any]], folder: Path
) -> dict[str, NDArray[Any]]:
    """One step in tflite-runtime 2.14, in a process of its own."""
    model, given, made = folder / "m.tflite", folder / "in.npz", folder / "out.npz"
    model.write_bytes(data)
    stored = {
        n: np.ascontiguousarray(a.transpose(layout.get(n, range(a.ndim)))) for n, a in feeds.items()
    }
    np.savez(given, **stored)
    command = [sys.executable, "-c", _OLD_RUNTIME, str(model), str(given), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    arrays = np.load(made)
    return {
        n: arrays[n].transpose(np.argsort(layout.get(n, range(arrays[n].ndim))))
        for n in arrays.files
    }


def codes_equal(a: NDArray[Any], b: NDArray[Any]) -> tuple[float, int]:
    """Share of equal codes and the largest difference."""
    difference = np.abs(a.astype(np.int32) - b.astype(np.int32))
    return float(np.mean(difference == 0)), int(difference.max())
