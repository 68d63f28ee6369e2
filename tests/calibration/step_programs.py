"""Step programs made by hand, and the checks that a quantised one must pass."""

from __future__ import annotations

import io
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers quantized_decomposed)

from spectral_edge.calibration.ops import WEIGHTED
from spectral_edge.calibration.quantizer import moves_codes
from spectral_edge.program import QParams, StateSpec, StepProgram, TensorSpec

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_CHANNELS = torch.ops.quantized_decomposed.dequantize_per_channel.default


class ToyStep(nn.Module):
    """Causal conv, depth-wise conv without bias, residual with ReLU, gate and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 6, (3, 3), padding=(0, 1))
        self.depth = nn.Conv2d(6, 6, (1, 3), padding=(0, 1), groups=6, bias=False)
        self.point = nn.Conv2d(6, 6, 1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, frame: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = torch.cat([past, frame], 2)
        h = nn.functional.relu6(self.stem(seen))
        r = torch.relu(h + self.point(self.depth(h)))
        g = torch.sigmoid(self.gate(r))
        y = self.head((r * g).permute(0, 2, 1, 3).reshape(-1, 1, 6, 9))
        return y, g, seen[:, :, 1:]


class Ops(nn.Module):
    """Layers and constants for the forwards below; no state unless the forward takes one."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(8, 6)
        self.bare = nn.Linear(8, 6, bias=False)
        self.conv1d = nn.Conv1d(4, 4, 3, padding=1, groups=4)
        self.conv = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), bias=False)
        self.up = nn.ConvTranspose2d(4, 5, (1, 2), stride=(1, 2))
        self.layer_norm = nn.LayerNorm(8)
        self.group_norm = nn.GroupNorm(2, 4)
        self.prelu = nn.PReLU(4)
        self.register_buffer("bands", torch.rand(8) + 0.5)
        self.register_buffer("matrix", torch.randn(8, 6))
        self.register_buffer("tail", torch.randn(1, 4, 1, 2))
        self.gates = nn.Linear(8, 24)
        self.forward_of = forward

    def forward(self, *args: Tensor) -> Any:
        returned = self.forward_of(self, *args)
        return returned if isinstance(returned, tuple) else (returned,)


def step_program(
    module: nn.Module,
    inputs: Sequence[Sequence[int]],
    states: Sequence[Any] = (),
    time_dim: int | None = 2,
) -> StepProgram:
    """Trace ``module(inputs..., states...) -> (outputs..., states...)`` into a program.

    Args:
        module: one hop.
        inputs: shape of each input at batch 1.
        states: initial value (float or int array) of each state at batch 1.
        time_dim: time axis of every input and output.
    """
    module = module.eval()
    initial = [torch.as_tensor(s) for s in states]
    args = [torch.zeros(2, *shape[1:]) for shape in inputs]
    args += [s.expand(2, *s.shape[1:]).clone() for s in initial]
    shapes: tuple[Any, ...] = tuple({0: torch.export.Dim("batch")} for _ in args)
    if isinstance(module, Ops):
        shapes = (shapes,)  # forward(*args) is one argument that is a tuple
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, tuple(args), dynamic_shapes=shapes)
        graph_module = _flat(exported.run_decompositions({}).module())
        returned = graph_module(*(a[:1] for a in args))
    outputs = returned[: len(returned) - len(states)]
    return StepProgram(
        module=graph_module,
        inputs=tuple(
            TensorSpec(f"input{i}", tuple(shape), time_dim=time_dim)
            for i, shape in enumerate(inputs)
        ),
        outputs=tuple(
            TensorSpec(f"output{i}", tuple(o.shape), time_dim=time_dim)
            for i, o in enumerate(outputs)
        ),
        states=OrderedDict(
            (
                f"state{i}",
                StateSpec(tuple(s.shape), str(s.dtype).removeprefix("torch."), s.numpy()),
            )
            for i, s in enumerate(initial)
        ),
        output_kind="tuple",
    )


def _flat(module: Any) -> fx.GraphModule:
    """Take the tree-shaped calling convention and the guards off an exported module."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and "guards" in str(node.target):
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    output = next(iter(reversed(graph.nodes)))
    returned = output.args[0]
    if isinstance(returned, fx.Node):
        returned = (returned,)
    output.args = (tuple(returned),)
    return fx.GraphModule(module, graph)


def toy_program() -> StepProgram:
    """Return the program of :class:`ToyStep`."""
    return step_program(ToyStep(), [(1, 2, 1, 9)], [np.zeros((1, 2, 2, 9), np.float32)])


def noise(program: StepProgram, hops: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a random sequence for ``program``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for spec in program.inputs:
        shape = [batch, *spec.shape[1:]]
        if spec.time_dim is not None:
            shape[spec.time_dim] = hops * program.hop_multiple
        tensors.append(torch.randn(shape, generator=generator))
    return tuple(tensors)


def constant(module: nn.Module, node: fx.Node) -> Tensor:
    """Return the buffer of a get_attr node."""
    assert node.op == "get_attr", node
    return operator.attrgetter(str(node.target))(module)


def pair_of(node: fx.Node) -> QParams:
    """Return the qparams of the dequantize node ``node``; check its quantize node."""
    assert node.target is DEQUANTIZE, f"{node} is {node.target}, not dequantize"
    codes, scale, zero_point, *rest = node.args
    assert rest == [-128, 127, torch.int8]
    if codes.op != "get_attr":
        assert codes.target is QUANTIZE
        assert codes.args[1:] == node.args[1:]
    assert scale == float(np.float32(scale))
    return QParams(scale, zero_point)


def check_canonical(program: StepProgram) -> None:
    """Assert that a quantised program has exactly the form that the writers read."""
    module = program.module
    nodes = list(module.graph.nodes)
    placeholders = [n for n in nodes if n.op == "placeholder"]
    specs = [*program.inputs, *program.states.values()]
    for node, spec in zip(placeholders, specs, strict=True):
        if spec.qparams is not None:
            for user in node.users:
                assert user.target is QUANTIZE
                for dequantize in user.users:
                    assert pair_of(dequantize) == spec.qparams
    returned = nodes[-1].args[0]
    specs = [*program.outputs, *program.states.values()]
    for node, spec in zip(returned, specs, strict=True):
        if spec.qparams is not None:
            assert pair_of(node) == spec.qparams
    for node in nodes:
        assert node.op != "call_module"
        if node.target in WEIGHTED:
            _check_weighted(module, node)
        elif moves_codes(node) and node.target is not operator.getitem:
            _check_movement(node)


def _check_weighted(module: nn.Module, node: fx.Node) -> None:
    where = WEIGHTED[node.target]
    x, weight, bias = (node.args[i] for i in (where.x, where.weight, where.bias))
    assert weight.target is DEQUANTIZE_CHANNELS
    assert bias.target is DEQUANTIZE_CHANNELS
    codes, scales, zeros, _, low, high, dtype = weight.args
    assert (low, high, dtype) == (-127, 127, torch.int8)
    assert constant(module, codes).dtype == torch.int8
    assert not constant(module, zeros).any()
    bias_codes, bias_scales, bias_zeros, axis, *_ = bias.args
    assert axis == 0
    assert constant(module, bias_codes).dtype == torch.int32
    assert not constant(module, bias_zeros).any()
    input_scale = torch.tensor(pair_of(x).scale, dtype=torch.float32)
    expected = input_scale * constant(module, scales)
    groups = constant(module, bias_scales).numel() // expected.numel()
    expected = expected.repeat(groups)  # transposed convolution: channels of one group
    assert torch.equal(constant(module, bias_scales), expected)
    assert all(user.target is QUANTIZE or _is_clamp(user) for user in node.users)


def _is_clamp(node: fx.Node) -> bool:
    return any(word in str(node.target) for word in ("relu", "hardtanh"))


def _check_movement(node: fx.Node) -> None:
    tensors = [n for n in node.all_input_nodes if n.op != "get_attr"]
    if any(n.target is not DEQUANTIZE for n in tensors):
        return  # integers, conditions, exact states
    sources = {pair_of(n) for n in tensors}
    results = list(node.users)
    if all(u.target is operator.getitem for u in results):
        results = [u for user in results for u in user.users]
    for user in results:
        assert user.target is QUANTIZE
        sources.add(QParams(user.args[1], user.args[2]))
    assert len(sources) == 1, f"{node} moves codes between {sources}"


def onnxruntime_codes(program: StepProgram, steps: int, seed: int = 0) -> tuple[float, int]:
    """Run single steps on random codes in torch and ONNX Runtime.

    Returns:
        Share of equal int8 codes over all outputs and next states, and the largest difference.
    """
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(program.exported, dynamo=True, opset_version=21, verbose=False)
    stream = io.BytesIO(model.model_proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        stream.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    generator = torch.Generator().manual_seed(seed)
    equal = total = worst = 0
    entering = [*program.inputs, *program.states.values()]
    leaving = [*program.outputs, *program.states.values()]
    for _ in range(steps):
        feed = []
        for spec in entering:
            assert spec.qparams is not None
            low, high = spec.qparams.code_range
            codes = torch.randint(low, high + 1, spec.shape, generator=generator)
            feed.append(torch.from_numpy(spec.qparams.dequantize(codes.numpy())))
        with torch.no_grad():
            ours = program.module(*feed)
        theirs = session.run(None, {n: t.numpy() for n, t in zip(names, feed, strict=True)})
        for spec, a, b in zip(leaving, ours, theirs, strict=True):
            assert spec.qparams is not None
            difference = spec.qparams.quantize(a.numpy()).astype(int) - spec.qparams.quantize(b)
            equal += int((difference == 0).sum())
            worst = max(worst, int(abs(difference).max()))
            total += difference.size
    return equal / total, worst
