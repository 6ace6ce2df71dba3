"""Rewrites of an ONNX graph that leave its answers as they are, for speed or for bytes; each in place.

What follows a join of channels goes before it, where it is part of each convolution. Which file is rewritten is for
`searchkit.onnxfile`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

# ── Before a join ────────────────────────────────────────────────────────────────────────────────────────────────────

ALONE = ("Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu")
"""Activations that treat each number by itself and have no second input."""


def before_joins(model: onnx.ModelProto) -> None:
    """A normalization and an activation that alone read a join of convolutions' channels go before it: the one into the
    weights (Jacob et al. 2018, section 3.2, arXiv:1712.05877), the other behind each convolution. Left where it is, a
    normalization is an operator of its own, fp32 in an int8 file, with four numbers a channel."""
    graph = model.graph
    while (found := _join(graph)) is not None:
        join, reader = found
        if reader.op_type == "BatchNormalization":
            _fold(graph, join, reader)
        else:
            _repeat(graph, join, reader)


def _join(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """A Concat of channels that convolutions alone make, each for it alone, and what alone reads it."""
    makers, read = _makers(graph), _times_read(graph)
    readers = {name: node for node in graph.node for name in node.input}
    values = {tensor.name for tensor in graph.initializer}
    for join in graph.node:
        if join.op_type != "Concat" or _number(join, "axis") != 1 or read[join.output[0]] != 1:
            continue
        convs = [makers[name] for name in join.input if name in makers and read[name] == 1]
        reader = readers.get(join.output[0])
        if reader is None or len(convs) < len(join.input) or {conv.op_type for conv in convs} != {"Conv"}:
            continue
        if reader.op_type in ALONE:
            return join, reader
        weights = [name for conv in convs for name in conv.input[1:]]
        if reader.op_type == "BatchNormalization" and values.issuperset([*weights, *reader.input[1:]]):
            return join, reader
    return None


def _fold(graph: onnx.GraphProto, join: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    makers = _makers(graph)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:])
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    first = 0
    for name in join.input:
        conv = makers[name]
        weight = values[conv.input[1]]
        its = slice(first, first := first + len(weight))
        bias = values[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
        folded = weight * factor[its].reshape(-1, *[1] * (weight.ndim - 1))
        moved = (bias - mean[its]) * factor[its] + shift[its]
        # under names of their own: another convolution may share the weights
        conv.input[:] = [conv.input[0], f"{name}:weight", f"{name}:bias"]
        for kind, array in (("weight", folded), ("bias", moved)):
            graph.initializer.append(numpy_helper.from_array(array.astype(weight.dtype), f"{name}:{kind}"))
    join.output[0] = norm.output[0]
    graph.node.remove(norm)
    read = _times_read(graph)
    _keep_initializers(graph, {tensor.name for tensor in graph.initializer if read[tensor.name]})


def _repeat(graph: onnx.GraphProto, join: onnx.NodeProto, activation: onnx.NodeProto) -> None:
    where = list(graph.node).index(join)
    for position, name in enumerate(join.input):
        one = onnx.NodeProto()
        one.CopyFrom(activation)
        one.input[:], one.output[:] = [name], [f"{name}:active"]
        join.input[position] = one.output[0]
        graph.node.insert(where + position, one)
    join.output[0] = activation.output[0]
    graph.node.remove(activation)


# ── Reading a graph ──────────────────────────────────────────────────────────────────────────────────────────────────


def _makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _times_read(graph: onnx.GraphProto) -> Counter[str]:
    """By name; as an answer of the graph once more."""
    return Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])


def _number(node: onnx.NodeProto, name: str) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)


def _keep_initializers(graph: onnx.GraphProto, names: set[str]) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
