"""What share of a file's multiply-accumulates runs in int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from searchkit.core.data_spec import Arrays
from searchkit.onnx.int8 import INT8, WEIGHTED
from searchkit.onnx.measure import trace


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How the multiply-accumulates of a file run after ONNX Runtime's optimizations.

    Attributes:
        int8_share: Share of the multiply-accumulates in int8, 0 to 1.
        fp32: Number of weighted operators that stay in fp32, by type.
    """

    int8_share: float
    fp32: dict[str, int]


def arithmetic(path: Path, example: Arrays) -> Arithmetic:
    """Measure how much of a file runs in int8.

    Args:
        path: The file.
        example: One example, by input name.
    """
    # In the graph that ONNX Runtime runs: a QDQ file says nothing of which operators have an int8 kernel.
    model, shapes = trace(path, example)
    in_int8 = total = 0
    stayed: dict[str, int] = {}
    for node in model.graph.node:
        kind = next((name for name in WEIGHTED if name in node.op_type or node.op_type == "FusedGemm"), None)
        if node.op_type not in INT8 and kind is None:
            continue
        count = _macs(node, shapes)
        total += count
        if node.op_type in INT8:
            in_int8 += count
        else:
            stayed[node.op_type] = stayed.get(node.op_type, 0) + 1
    return Arithmetic(in_int8 / total if total else 0.0, stayed)


def _macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of a weighted operator, int8 or not, from the shapes of its inputs and outputs."""
    inputs = [shapes.get(name, ()) for name in node.input]
    out = shapes.get(node.output[0], ())
    size = int(np.prod(out))
    if any(kind in node.op_type for kind in ("LSTM", "GRU", "RNN")):
        return inputs[0][0] * int(np.prod(inputs[1]) + np.prod(inputs[2]))  # steps × (W and R)
    # The quantized operators put scale and zero point of the input before the weight.
    weight = inputs[3] if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm") else inputs[1]
    if "ConvTranspose" in node.op_type:
        return int(np.prod(inputs[0])) * int(np.prod(weight[1:]))
    if "Conv" in node.op_type:
        return size * int(np.prod(weight[1:]))
    return size * inputs[0][-1]  # a matrix product: each output is a sum over the last axis of the first
