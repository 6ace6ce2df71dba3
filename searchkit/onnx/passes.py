"""Rewrites of an ONNX graph, in place, that keep its outputs and make it faster or smaller.

Normalizations and activations after a concatenation move into its inputs; attributes with default values are dropped;
constants that count up are computed; the short vectors of an int8 file (scales, biases) are stored together in half
precision. ONNX Runtime undoes the last two when it opens the file. `searchkit.onnx.minify`, `searchkit.onnx.int8` and
the export decide which rewrite a file gets.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from searchkit.onnx.editing import feeding, keep_initializers_, makers, prepend_nodes_, readers, times_read

# ── After a concatenation ────────────────────────────────────────────────────────────────────────────────────────────

ALONE = ("Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu")
"""Activations that are elementwise and have no second input."""


def before_joins(model: onnx.ModelProto) -> None:
    """Move a normalization or activation that follows a concatenation of convolutions before it.

    A normalization is folded into the weights (Jacob et al. 2018, arXiv:1712.05877, section 3.2), and an activation is
    repeated after each convolution. Otherwise the normalization would stay a separate operator, fp32 in an int8 file,
    with four numbers per channel.
    """
    # One at a time: a normalization that moves may leave an activation next to the concatenation.
    graph = model.graph
    while (found := _join(graph)) is not None:
        join, reader = found
        if reader.op_type == "BatchNormalization":
            _fold(graph, join, reader)
        else:
            _repeat(graph, join, reader)


def _join(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """A Concat of channels whose inputs are convolutions read by nothing else, and its only reader."""
    made, read, by_name = makers(graph), times_read(graph), readers(graph)
    values = {tensor.name for tensor in graph.initializer}
    for join in graph.node:
        if join.op_type != "Concat" or _number(join, "axis") != 1 or read[join.output[0]] != 1:
            continue
        convs = [made[name] for name in join.input if name in made and read[name] == 1]
        if join.output[0] not in by_name:  # an answer of the graph reads it
            continue
        reader = by_name[join.output[0]][0]
        if len(convs) < len(join.input) or {conv.op_type for conv in convs} != {"Conv"}:
            continue
        if reader.op_type in ALONE:
            return join, reader
        weights = [name for conv in convs for name in conv.input[1:]]
        if reader.op_type == "BatchNormalization" and values.issuperset([*weights, *reader.input[1:]]):
            return join, reader
    return None


def _fold(graph: onnx.GraphProto, join: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    made = makers(graph)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:])
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    # In float64, so that folding adds no rounding of its own before the cast at the end.
    factor = scale / np.sqrt(variance + epsilon)
    first = 0
    for name in join.input:
        conv = made[name]
        weight = values[conv.input[1]]
        its = slice(first, first := first + len(weight))
        bias = values[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
        folded = weight * factor[its].reshape(-1, *[1] * (weight.ndim - 1))
        moved = (bias - mean[its]) * factor[its] + shift[its]
        # Under new names: another convolution may share the weights.
        conv.input[:] = [conv.input[0], f"{name}:weight", f"{name}:bias"]
        for kind, array in (("weight", folded), ("bias", moved)):
            graph.initializer.append(numpy_helper.from_array(array.astype(weight.dtype), f"{name}:{kind}"))
    join.output[0] = norm.output[0]
    graph.node.remove(norm)
    read = times_read(graph)
    keep_initializers_(graph, {tensor.name for tensor in graph.initializer if read[tensor.name]})


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


# ── Default attributes ───────────────────────────────────────────────────────────────────────────────────────────────

_WINDOWS = {"strides": 1, "dilations": 1, "pads": 0}
"""Default values of the attributes of convolutions and poolings.

The ONNX standard gives them in its text; its schema cannot, since the lists are as long as the window has axes.
"""


def drop_defaults(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Remove attributes that have their default value.

    Args:
        model: The model, for its opset.
        graph: Its graph or a subgraph.
    """
    opset = _opset(model)
    shapes = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    whole = {tensor.name for tensor in shapes if 0 not in numpy_helper.to_array(tensor)}
    for node in graph.node:
        if node.domain or not onnx.defs.has(node.op_type, opset):
            continue
        known = onnx.defs.get_schema(node.op_type, opset).attributes
        said = [attribute for attribute in node.attribute if not _by_default(node, attribute, known)]
        if node.op_type == "Reshape" and node.input[1] in whole:  # allowzero matters only if the shape has a 0
            said = [attribute for attribute in said if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(said)


def _by_default(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, known: dict[str, onnx.defs.OpSchema.Attribute]
) -> bool:
    if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool") and attribute.name in _WINDOWS:
        return set(attribute.ints) == {_WINDOWS[attribute.name]}
    default = known[attribute.name].default_value if attribute.name in known else None
    if default is None or default.type != attribute.type:
        return False
    return bool(onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute))


# ── Constants that count up ──────────────────────────────────────────────────────────────────────────────────────────

_COUNTED = 32
"""Shortest constant worth replacing: a Range and its three scalars take about 120 bytes."""


def count_up(graph: onnx.GraphProto) -> None:
    """Replace evenly spaced integer constants by a Range, which ONNX Runtime folds when it opens the file.

    The exporter stores the steps that a row's length is compared with, 8 bytes each. Measured on spoken digits: 146 of
    198 KB of a file.
    """
    answers = {value.name for value in graph.output}
    made, gone = list[onnx.NodeProto](), set[str]()
    for tensor in list(graph.initializer):
        if len(tensor.dims) != 1 or tensor.dims[0] < _COUNTED or tensor.name in answers:
            continue
        row = numpy_helper.to_array(tensor)
        if row.dtype not in (np.int32, np.int64) or len(set(np.diff(row).tolist())) != 1 or row[0] == row[1]:
            continue
        step = row[1] - row[0]
        scalars = {"start": row[0], "limit": row[-1] + step, "delta": step}
        names = [f"{tensor.name}:{word}" for word in scalars]
        for name, value in zip(names, scalars.values(), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, row.dtype), name))
        made.append(onnx.helper.make_node("Range", names, [tensor.name]))
        gone.add(tensor.name)
    keep_initializers_(graph, {tensor.name for tensor in graph.initializer} - gone)
    prepend_nodes_(graph, made)


# ── Short vectors in half precision ──────────────────────────────────────────────────────────────────────────────────

_SHORTEST = 8
"""Shortest vector that is stored in half precision."""
_ERROR = 2.0**-10
"""Largest relative error of half precision: of each scale, and of the largest entry of other vectors.

The weights have 8 bits, a step of 2**-8.
"""

_SAVED, _COST = 9, 70
"""Bytes saved per initializer besides its numbers, and the cost of the two nodes and their tensor."""

_PLACES = {
    "DequantizeLinear": (1,), "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LayerNormalization": (1, 2),
    "Add": (0, 1), "Mul": (0, 1),
}  # fmt: skip
"""Input positions at which an operator takes a scale, bias or gain."""


def join_vectors(model: onnx.ModelProto, *, exact: str) -> None:
    """Store the scales, biases and gains of an int8 file in half precision, joined by length.

    All vectors of one length become one tensor that is cast and split, which ONNX Runtime folds when it opens the file.
    Vectors after the last weighted operator, in the unit of the outputs, stay fp32.

    Args:
        model: The model; unchanged if its opset is below 18.
        exact: Prefix of names of vectors that stay fp32.
    """
    graph = model.graph
    if _opset(model) < 18:  # older opsets have no num_outputs of Split
        return
    halved: dict[int, dict[str, np.ndarray]] = {}
    vectors = {t.name: numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 1}
    for name, is_scale in _inner_vectors(graph).items():
        vector = vectors.get(name)
        if vector is None or vector.dtype != np.float32 or len(vector) < _SHORTEST or name.startswith(exact):
            continue
        with np.errstate(over="ignore"):
            half = vector.astype(np.float16)
        allowed = _ERROR * (np.abs(vector) if is_scale else np.abs(vector).max())
        if np.all(np.abs(half.astype(np.float32) - vector) <= allowed):
            halved.setdefault(len(vector), {})[name] = half
    made: list[onnx.NodeProto] = []
    gone: set[str] = set()
    for length, found in halved.items():
        if len(found) * (2 * length + _SAVED) < _COST:
            continue  # two more nodes would cost more bytes than half precision saves
        gone |= found.keys()
        packed, whole = f"{length}:packed", f"{length}:whole"
        graph.initializer.append(numpy_helper.from_array(np.concatenate(list(found.values())), packed))
        made.append(onnx.helper.make_node("Cast", [packed], [whole], to=onnx.TensorProto.FLOAT))
        made.append(onnx.helper.make_node("Split", [whole], list(found), num_outputs=len(found)))
    keep_initializers_(graph, {tensor.name for tensor in graph.initializer} - gone)
    prepend_nodes_(graph, made)


def held_by_half(scales: np.ndarray) -> np.ndarray:
    """Round scales up to half precision; those outside its normal range stay.

    Up, so that no weight exceeds ±127 steps.

    Args:
        scales: Positive scales, fp32.

    Returns:
        The rounded scales, as fp32.
    """
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    # Rounded up: with a smaller scale the largest weight would be clipped at ±127.
    half = np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half)
    held = (scales >= np.finfo(np.float16).tiny) & np.isfinite(half)
    return np.where(held, half, scales).astype(np.float32)


def _inner_vectors(graph: onnx.GraphProto) -> dict[str, bool]:
    """Vectors that are read only as scale, bias or gain before the last weighted operator; True for scales."""
    work, places, scales = feeding_work(graph), dict[str, bool](), set()
    for node in graph.node:
        within = bool(work.intersection(node.output))
        for position, name in enumerate(node.input):
            places[name] = places.get(name, True) and within and position in _PLACES.get(node.op_type, ())
            if node.op_type in ("DequantizeLinear", "Mul"):
                scales.add(name)
    return {name: name in scales for name, ok in places.items() if ok}


# ── Reading a graph ──────────────────────────────────────────────────────────────────────────────────────────────────


def feeding_work(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the values that an operator with weights depends on."""
    return feeding(graph, lambda node: any(kind in node.op_type for kind in _WORK))


_WORK = ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if not entry.domain), 0)


def _number(node: onnx.NodeProto, name: str) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)
