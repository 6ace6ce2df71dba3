"""Rewrites of an ONNX graph that leave its answers as they are, for speed or for bytes; each in place.

What follows a join of channels goes before it, where it is part of each convolution; what an attribute says by default
goes unsaid; numbers that count up are counted; the many short vectors of an int8 file (scales, biases) become one
tensor in half precision. ONNX Runtime undoes the last two when it opens the file. Which file is rewritten is for
`searchkit.onnx.minify` and `searchkit.onnx.int8`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from searchkit.onnx.editing import feeding, keep_initializers_, makers, prepend_nodes_, readers, times_read

# ── Before a join ────────────────────────────────────────────────────────────────────────────────────────────────────

ALONE = ("Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu")
"""Activations that treat each number by itself and have no second input."""


def before_joins(model: onnx.ModelProto) -> None:
    """A normalization and an activation that alone read a join of convolutions' channels go before it: the one into the
    weights (Jacob et al. 2018, section 3.2, arXiv:1712.05877), the other behind each convolution. Left where it is, a
    normalization is an operator of its own, fp32 in an int8 file, with four numbers a channel.
    """
    graph = model.graph
    while (found := _join(graph)) is not None:
        join, reader = found
        if reader.op_type == "BatchNormalization":
            _fold(graph, join, reader)
        else:
            _repeat(graph, join, reader)


def _join(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """A Concat of channels that convolutions alone make, each for it alone, and what alone reads it."""
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
    factor = scale / np.sqrt(variance + epsilon)
    first = 0
    for name in join.input:
        conv = made[name]
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


# ── What goes without saying ─────────────────────────────────────────────────────────────────────────────────────────

_WINDOWS = {"strides": 1, "dilations": 1, "pads": 0}
"""What these lists hold where a convolution or a pooling does not give them: the text of the standard says so, its
schema cannot, as the lists are as long as the window has axes."""


def drop_defaults(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Remove the attributes that say what the operator would do without them. graph: the model's, or one inside."""
    opset = _opset(model)
    shapes = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    whole = {tensor.name for tensor in shapes if 0 not in numpy_helper.to_array(tensor)}
    for node in graph.node:
        if node.domain or not onnx.defs.has(node.op_type, opset):
            continue
        known = onnx.defs.get_schema(node.op_type, opset).attributes
        said = [attribute for attribute in node.attribute if not _by_default(node, attribute, known)]
        if node.op_type == "Reshape" and node.input[1] in whole:  # it says what a 0 in the shape means
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


# ── Numbers that count up ────────────────────────────────────────────────────────────────────────────────────────────

_COUNTED = 32
"""Numbers: a Range and its three scalars take about 120 bytes."""


def count_up(graph: onnx.GraphProto) -> None:
    """Evenly spaced whole numbers (the steps that a row's length is compared with: of a sound 8 bytes a sample) are
    made when the file is opened, not stored.
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


# ── Short vectors together ───────────────────────────────────────────────────────────────────────────────────────────

_SHORTEST = 8
_ERROR = 2.0**-10
"""What half precision may cost: of a scale, of the largest number of any other vector. 8 bits of a weight are 2**-8."""

_SAVED, _COST = 9, 70
"""Bytes: what an initializer has beside its numbers, less its name; the two nodes with their tensor."""

_PLACES = {
    "DequantizeLinear": (1,), "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LayerNormalization": (1, 2),
    "Add": (0, 1), "Mul": (0, 1),
}  # fmt: skip


def join_vectors(model: onnx.ModelProto, *, exact: str) -> None:
    """Store the scales of weights, the biases and the norms' gains of an int8 file in half precision, those of one
    length as one tensor that is cast and split: constants, which ONNX Runtime folds when it opens the file. Vectors
    after the last operator with weights, in the unit of the answers, stay. exact: so do those whose names begin so.
    """
    graph = model.graph
    if _opset(model) < 18:  # Split has num_outputs from then on
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
            continue
        gone |= found.keys()
        packed, whole = f"{length}:packed", f"{length}:whole"
        graph.initializer.append(numpy_helper.from_array(np.concatenate(list(found.values())), packed))
        made.append(onnx.helper.make_node("Cast", [packed], [whole], to=onnx.TensorProto.FLOAT))
        made.append(onnx.helper.make_node("Split", [whole], list(found), num_outputs=len(found)))
    keep_initializers_(graph, {tensor.name for tensor in graph.initializer} - gone)
    prepend_nodes_(graph, made)


def held_by_half(scales: np.ndarray) -> np.ndarray:
    """The next larger numbers that half precision holds, as fp32; those stay that it has too few digits for."""
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    half = np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half)
    held = (scales >= np.finfo(np.float16).tiny) & np.isfinite(half)
    return np.where(held, half, scales).astype(np.float32)


def _inner_vectors(graph: onnx.GraphProto) -> dict[str, bool]:
    """Names of what is read as scale, bias or gain alone, before the last operator with weights; whether a scale of
    weights is among what it is.
    """
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
    """Names of the values that an operator with weights depends on."""
    return feeding(graph, lambda node: any(kind in node.op_type for kind in _WORK))


_WORK = ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if not entry.domain), 0)


def _number(node: onnx.NodeProto, name: str) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)
