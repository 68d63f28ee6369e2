"""Which engine runs which operator how: consulted before a bundle is written.

Levels: ``delegated`` (XNNPACK or fused integer kernels), ``optimised`` (the engine's own fast
kernels), ``reference`` (a plain loop, or cut out of the delegate's partition), ``missing``.
Measured with the versions in ``ENGINES`` on x86-64; operators that are not listed were not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COVERAGE", "ENGINES", "Delegation", "coverage", "coverage_warnings", "delegation"]

ENGINES = {"litert": "2.3.0", "tflite-runtime": "2.14.0", "onnxruntime": "1.31.1"}

_DELEGATED = {
    "int8": """ADD CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE FULLY_CONNECTED LEAKY_RELU
        LOGISTIC MAX_POOL_2D MEAN MUL QUANTIZE REDUCE_MAX RESHAPE SLICE SPLIT SUB SUM TANH
        TRANSPOSE""",
    "float32": """ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D COS DEPTHWISE_CONV_2D
        DIV ELU EXP FLOOR FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM
        MAX_POOL_2D MEAN MINIMUM MUL NEG PRELU QUANTIZE REDUCE_MAX RELU RELU6 RELU_N1_TO_1 RESHAPE
        RSQRT SLICE SOFTMAX SPLIT SQRT SQUARE SQUARED_DIFFERENCE SUB SUM TANH TRANSPOSE""",
}
_HOLES = {
    "int8": """ABS AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO EXP GATHER GELU HARD_SWISH MAXIMUM
        MINIMUM RELU RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SOFTMAX STRIDED_SLICE TILE""",
    "float32": "CUMSUM GATHER POW RESIZE_NEAREST_NEIGHBOR REVERSE_V2 STRIDED_SLICE",
}


def _table() -> dict[str, dict[str, dict[str, str]]]:
    litert: dict[str, dict[str, str]] = {}
    for level, lists in (("delegated", _DELEGATED), ("reference", _HOLES)):
        for dtype, names in lists.items():
            for name in names.split():
                litert.setdefault(name, {})[dtype] = level
    # 2.14 delegates float32 only; its int8 kernels are its own and 5 to 10 times slower
    old = {
        name: {d: level if d == "float32" else "optimised" for d, level in levels.items()}
        for name, levels in litert.items()
    }
    old["DIV"]["int8"] = "missing"
    return {"litert": litert, "tflite-runtime": old}


# engine -> operator -> dtype of its data -> level
COVERAGE = _table()


def coverage(engine: str, operator: str, dtype: str) -> str | None:
    """Level of an operator on an engine, None when it was not measured."""
    return COVERAGE.get(engine, {}).get(operator, {}).get(dtype)


def coverage_warnings(operators: Mapping[tuple[str, str], int], precision: str) -> list[str]:
    """Say what will be slow before a bundle is written.

    Args:
        operators: (operator code, dtype) -> how many, of the TFLite file.
        precision: precision of the program.
    """
    warnings = []
    if precision == "w8a16":
        warnings.append("int16 activations run on reference kernels: no CPU speed format")
    for (code, dtype), count in sorted(operators.items()):
        level = coverage("litert", code, dtype)
        if level == "reference":
            warnings.append(
                f"litert: {count} × {code} ({dtype}) is not delegated and cuts the partition"
            )
        if coverage("tflite-runtime", code, dtype) == "missing":
            warnings.append(f"tflite-runtime: {code} ({dtype}) is missing, the file will not load")
    transposes = sum(n for (code, _), n in operators.items() if code == "TRANSPOSE")
    if transposes:
        warnings.append(
            f"{transposes} × TRANSPOSE: a reshape or a product needs another order than "
            "channels-last; keep such axes last in the model"
        )
    islands = operators.get(("DEQUANTIZE", "int8"), 0)
    if precision == "w8a8" and islands:
        warnings.append(
            f"{islands} × DEQUANTIZE: parts of the step run in float32 because they have no exact "
            "int8 kernel"
        )
    return warnings


@dataclass(frozen=True)
class Delegation:
    """How LiteRT splits a file: partitions of the delegate, operators left outside."""

    partitions: int
    operators: int
    holes: tuple[str, ...]


def delegation(data: bytes) -> Delegation:
    """Load a TFLite file in LiteRT and report what XNNPACK took.

    The interpreter lists replaced operators and delegate nodes side by side; an operator still runs
    when a result is reached from the outputs without passing through a delegate node.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    nodes: list[dict[str, Any]] = interpreter._get_ops_details()
    producer: dict[int, dict[str, Any]] = {}
    for node in sorted(nodes, key=lambda n: n["op_name"] == "DELEGATE"):
        producer.update({int(t): node for t in node["outputs"]})
    running: dict[int, str] = {}
    queue = [int(d["index"]) for d in interpreter.get_output_details()]
    seen: set[int] = set()
    while queue:
        tensor = queue.pop()
        if tensor in seen or tensor not in producer:
            continue
        seen.add(tensor)
        node = producer[tensor]
        running[int(node["index"])] = node["op_name"]
        queue += [int(t) for t in node["inputs"] if t >= 0]
    holes = tuple(running[i] for i in sorted(running) if running[i] != "DELEGATE")
    partitions = sum(n["op_name"] == "DELEGATE" for n in nodes)
    return Delegation(partitions, len(nodes) - partitions, holes)
