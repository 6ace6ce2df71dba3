"""Making an exported file int8, static (QDQ) or dynamic, by ONNX Runtime's quantizer; and what of it runs in int8.

Mechanism only; which of the candidates is shipped is for `searchkit.stages.quantize`. (Weight-only storage needs no
calibration and no quantizer: it is in `searchkit.onnx.io`.) Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic
from onnxruntime.quantization import quantize_static as ort_quantize_static

from searchkit.core.data_spec import Arrays
from searchkit.onnx import io as onnx_io
from searchkit.onnx import minify, passes
from searchkit.onnx.editing import feeding, keep_initializers_, makers, readers
from searchkit.onnx.measure import trace

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
"""The operators that do the work: all others are glue between them."""

INT8 = (
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "DynamicQuantizeLSTM",
    "QAttention",
    "FusedConvInteger",
)
"""What ONNX Runtime's optimizer turns them into where it has int8 arithmetic for them."""


def static(source: Path, target: Path, batches: Iterable[Arrays]) -> int:
    """Quantize weights (S8, one scale a channel) and activations (U8, the range seen in `batches`). The bytes of
    `target`.

    batches: raw inputs, read one at a time, so that memory does not grow with their number. The graph before the first
    and after the last weighted operator, which scales features and answers, stays fp32.
    """
    model = _named(onnx_io.load(source))
    _finite(model)
    excluded = [*_outside(model), *_joining_the_past(model), *_with_infinities(model), *_by_stacks(model)]
    opened = onnx_io.session(source)
    raw = _quantized(
        lambda folder: ort_quantize_static(
            model,
            folder / "q.onnx",
            _Batches(onnx_io.feed(opened, batch) for batch in batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=excluded,
        )
    )
    _float_biases(raw, but_of=_float_tail(raw))
    _drop_zero_points(raw)
    keep_initializers_(raw.graph, readers(raw.graph))
    passes.join_vectors(raw, exact=minify.PREPROCESSOR)
    return onnx_io.save(minify.shrink(raw), target)


def dynamic(source: Path, target: Path) -> int:
    """Quantize matrix products and LSTMs, their activations call by call (U8), and store the weights of what has no
    such kernel worth having (convolutions: 5–18× slower; GRU: none) in int8 too. The bytes of `target`.
    """
    model = _named(onnx_io.load(source))
    raw = _quantized(
        lambda folder: ort_quantize_dynamic(
            model,
            folder / "q.onnx",
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_by_vectors(model), *_by_stacks(model), *_of_preprocessor(model)],
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "dynamic.onnx"
        onnx_io.save(minify.shrink(raw), between)
        return onnx_io.weight_only(between, target)


def _by_vectors(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a vector (the scores of attention pooling): the quantizer gives a vector a scale for
    each of its numbers, and then multiplies them with an output that has no such axis.
    """
    vectors = {w.name for w in model.graph.initializer if len(w.dims) == 1}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and vectors.intersection(n.input)]


def _by_stacks(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a stack of matrices, one a head: ONNX Runtime 1.31 takes one scale for all of it, or
    fails when it runs.
    """
    stacks = {w.name for w in model.graph.initializer if len(w.dims) > 2}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and stacks.intersection(n.input)]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[Arrays]) -> None:
        self._batches: Iterator[Arrays] = iter(batches)

    def get_next(self) -> Arrays | None:
        return next(self._batches, None)


def _quantized(quantize) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder, _silent():
        quantize(Path(folder))
        return onnx.load(Path(folder) / "q.onnx")


@contextmanager
def _silent() -> Iterator[None]:
    """The quantizer writes to the root logger by the functions of `logging`, which also give it a handler."""
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    # The optimizing and folding that the quantizer asks for was done by the export.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def _outside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that no weighted operator of the network feeds, or that feed none, those themselves left out.
    A preprocessor's own products (a spectrogram's bands) are not the network's: 8 bits do not hold a power's range.
    """
    nodes = list(model.graph.node)
    works = {node.name for node in nodes if node.op_type in WEIGHTED} - _of_preprocessor(model)
    after: set[str] = set()
    for node in nodes:
        if node.name in works or after.intersection(node.input):
            after.update(node.output)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.name in works or before.intersection(node.output):
            before.update(node.input)
    return [
        node.name
        for node in nodes
        if node.name not in works and not (after.intersection(node.input) and before.intersection(node.output))
    ]


def _of_preprocessor(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that read a number of the preprocessor."""
    its = {tensor.name for tensor in model.graph.initializer if tensor.name.startswith(minify.PREPROCESSOR)}
    return {node.name for node in model.graph.node if its.intersection(node.input)}


def _joining_the_past(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that join what earlier calls left behind to what this one has. Calibration begins without a
    past and sees no range of it; after the join it has that of what is joined to it.
    """
    past = {onnx_io.PAST}.intersection(value.name for value in model.graph.input)
    joining = []
    for node in model.graph.node:
        if node.op_type == "Shape" or not past.intersection(node.input):
            continue
        if node.op_type == "Concat":
            joining.append(node.name)
        else:
            past.update(node.output)
    return joining


def _finite(model: onnx.ModelProto) -> None:
    """Infinite constants become the largest finite number, which masks as well: the quantizer takes the range of every
    tensor, of those that it is to leave alone too, and fails where one has no end.
    """
    most = np.finfo(np.float32).max
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if np.isinf(values).any():
                tensor.CopyFrom(numpy_helper.from_array(values.clip(-most, most), tensor.name))


_CARRIES = (
    "Add", "Sub", "Mul", "Where", "Concat", "Expand", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Cast",
)  # fmt: skip


def _with_infinities(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read a number that stands for infinity: a mask's, up to the softmax or maximum in which
    it vanishes. In 8 bits, a range that holds it has one value for all other numbers: the attention of a masked softmax
    is then the mean of the steps that it sees.
    """
    carried = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and (np.abs(numpy_helper.to_array(tensor)) > _INFINITE).any()
    }
    found = []
    for node in model.graph.node:
        if carried.intersection(node.input):
            found.append(node.name)
            if node.op_type in _CARRIES:
                carried.update(node.output)
    return found


_INFINITE = 1e30


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """A symmetric tensor's zero points are all 0, which is what leaving them out means. Not those of a Gemm: ONNX
    Runtime 1.31 then leaves it in fp32 (measured: 1.64 for 1.37 of the latency).
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    of_gemm = {name for node in model.graph.node if node.op_type == "Gemm" for name in node.input}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in values:
            zero_point = numpy_helper.to_array(values[node.input[2]])
            if zero_point.dtype != np.uint8 and not zero_point.any() and node.output[0] not in of_gemm:
                del node.input[2]


def _float_biases(model: onnx.ModelProto, *, but_of: set[str]) -> None:
    """Biases as 4 bytes instead of 4 and a scale of 4: ONNX Runtime makes them int32 itself when it opens the file, for
    operators whose result is quantized. but_of: results of operators where it is not.
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = {name for node in model.graph.node if but_of.intersection(node.output) for name in node.input}
    for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        stored = values.get(node.input[0])
        if stored is None or stored.data_type != onnx.TensorProto.INT32 or node.output[0] in kept:
            continue
        bias = numpy_helper.to_array(stored) * numpy_helper.to_array(values[node.input[1]])
        model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)


def _float_tail(model: onnx.ModelProto) -> set[str]:
    """Let the last matrix product give floats: 8 bits of a regression's range would be the answer's own error. Returns
    the names of the results that are float now.
    """
    made, read_by = makers(model.graph), readers(model.graph)
    ports = {value.name for value in model.graph.output}
    feeds_work = feeding(model.graph, lambda node: node.op_type in WEIGHTED)
    found = set()
    for quantize in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        source = made.get(quantize.input[0])
        if source is None or source.op_type not in ("Gemm", "MatMul"):
            continue
        (dequantize,) = read_by[quantize.output[0]]
        end = dequantize.output[0]
        if end in feeds_work or len(read_by[quantize.input[0]]) > 1:
            continue
        model.graph.node.remove(quantize)
        model.graph.node.remove(dequantize)
        if end in ports:
            source.output[0] = end
        for reader in read_by.get(end, []):
            reader.input[:] = [source.output[0] if name == end else name for name in reader.input]
        found.add(source.output[0])
    return found


# ── What runs in int8 ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Where the multiply-accumulates of a file happen once ONNX Runtime has optimized it.

    int8_share: of the MACs, 0 to 1. fp32: weighted operators that stayed fp32, with their number.
    """

    int8_share: float
    fp32: dict[str, int]


def arithmetic(path: Path, example: Arrays) -> Arithmetic:
    """example: one row of each input."""
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
    weight = inputs[3] if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm") else inputs[1]
    if "ConvTranspose" in node.op_type:
        return int(np.prod(inputs[0])) * int(np.prod(weight[1:]))
    if "Conv" in node.op_type:
        return size * int(np.prod(weight[1:]))
    return size * inputs[0][-1]  # a matrix product: each output is a sum over the last axis of the first
