"""Quantize an exported file to int8, static (QDQ) or dynamic, and measure how much of it runs in int8.

`searchkit.stages.quantize` decides which result is shipped; int8 weights with fp32 arithmetic are in
`searchkit.onnx.weight_only`. Jacob et al. 2018, arXiv:1712.05877.

U8 activations and S8 weights, since that is what ONNX Runtime runs fast: measured, S8 activations break its fusions (up
to 4 times slower), and U8 weights make convolutions up to 1.9 times slower.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic
from onnxruntime.quantization import quantize_static as ort_quantize_static

from searchkit.core.data_spec import Arrays
from searchkit.core.scratch import redirected, scratch_folder
from searchkit.onnx import io as onnx_io
from searchkit.onnx import minify, passes
from searchkit.onnx.editing import feeding, keep_initializers_, makers, readers
from searchkit.onnx.weight_only import weight_only

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
"""Operators with weights, which do the work."""

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
"""The operators that ONNX Runtime's optimizer replaces them with if it has int8 arithmetic for them."""


def static(source: Path, target: Path, batches: Iterable[Arrays]) -> int:
    """Quantize weights (S8, one scale per channel) and activations (U8, calibrated on `batches`).

    The graph before the first and after the last weighted operator stays fp32; it scales inputs and outputs.

    Args:
        source: The exported file.
        target: The file to write.
        batches: Raw inputs for calibration, read one batch at a time, so that memory does not grow with their number.

    Returns:
        Size of `target` in bytes.
    """
    # QDQ, U8 activations, S8 weights per channel, MinMax: within 0.2 points of fp32 on every family tried. 16-bit
    # activations never ran as int8 (1.5 to 4.9 times slower).
    model = _named(onnx_io.load(source))
    _finite(model)
    excluded = [*_outside(model), *_joining_the_past(model), *_with_infinities(model), *_by_stacks(model)]
    opened = onnx_io.session(source)
    hidden = _hide_grouped_biases(model)
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
            nodes_to_exclude=[*excluded, *hidden],
        )
    )
    _unhide(raw, hidden)
    # In this order: which biases become floats depends on which results do, and constants that nothing reads any more
    # are removed before the remaining vectors are joined.
    _float_biases(raw, but_of=_float_tail(raw))
    _drop_zero_points(raw)
    keep_initializers_(raw.graph, readers(raw.graph))
    passes.join_vectors(raw, exact=minify.PREPROCESSOR)
    return onnx_io.save(minify.shrink(raw), target)


def dynamic(source: Path, target: Path) -> int:
    """Quantize matrix products and LSTMs, with the range of activations (U8) found in each call.

    The other weights are stored as int8 with fp32 arithmetic, since ONNX Runtime has no good dynamic kernel for them
    (convolutions: 5–18 times slower; GRU: none).

    Args:
        source: The exported file.
        target: The file to write.

    Returns:
        Size of `target` in bytes.
    """
    model = _named(onnx_io.load(source))
    raw = _quantized(
        lambda folder: ort_quantize_dynamic(
            model,
            folder / "q.onnx",
            # Measured latency ratios: Transformers .37 to .73, LSTM of 512 units .14; convolutions 5 to 18.
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_by_vectors(model), *_by_stacks(model), *_of_preprocessor(model)],
        )
    )
    with scratch_folder() as folder:
        between = folder / "dynamic.onnx"
        onnx_io.save(minify.shrink(raw), between)
        return weight_only(between, target)


def _hide_grouped_biases(model: onnx.ModelProto) -> list[str]:
    """Put an Identity before the bias of each transposed convolution of several groups; the names of these nodes.

    The weight of one has an axis for the channels of one group only, so that there are fewer scales than numbers in the
    bias, which the quantizer multiplies (ONNX Runtime 1.31). It passes over a bias that a node makes. There is no int8
    kernel for these operators, and `_float_biases` would make the bias floats again.
    """
    values = {tensor.name for tensor in model.graph.initializer}
    hidden = []
    for node in list(model.graph.node):
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "ConvTranspose" and groups > 1 and len(node.input) == 3 and node.input[2] in values:
            name = f"{node.name}:bias"
            model.graph.node.insert(0, onnx.helper.make_node("Identity", [node.input[2]], [name], name=name))
            node.input[2] = name
            hidden.append(name)
    return hidden


def _unhide(model: onnx.ModelProto, hidden: list[str]) -> None:
    found = {node.name: node for node in model.graph.node if node.name in hidden}
    for node in model.graph.node:
        node.input[:] = [found[name].input[0] if name in found else name for name in node.input]
    for node in found.values():
        model.graph.node.remove(node)


def _by_vectors(model: onnx.ModelProto) -> list[str]:
    """Names of matrix products with a vector, such as the scores of attention pooling.

    The quantizer gives a vector one scale per number, and then multiplies them with an output that has no such axis.
    """
    vectors = {w.name for w in model.graph.initializer if len(w.dims) == 1}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and vectors.intersection(n.input)]


def _by_stacks(model: onnx.ModelProto) -> list[str]:
    """Names of matrix products with a stack of matrices, one per head.

    ONNX Runtime 1.31 takes one scale for the whole stack, or fails at run time.
    """
    stacks = {w.name for w in model.graph.initializer if len(w.dims) > 2}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and stacks.intersection(n.input)]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[Arrays]) -> None:
        self._batches: Iterator[Arrays] = iter(batches)

    def get_next(self) -> Arrays | None:
        return next(self._batches, None)


def _quantized(quantize) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    with redirected() as folder, _silent():
        quantize(folder)
        return onnx.load(folder / "q.onnx")


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the quantizer, which logs to the root logger and adds a handler to it."""
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
    # The quantizer warns unless a file is marked as optimized and folded; the export has done both.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def _outside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first or after the last weighted operator of the network.

    Matrix products of the preprocessor (the mel bands of a spectrogram) do not count: 8 bits cannot hold the range of a
    power spectrum.
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
    """Names of the nodes that read a constant of the preprocessor."""
    its = {tensor.name for tensor in model.graph.initializer if tensor.name.startswith(minify.PREPROCESSOR)}
    return {node.name for node in model.graph.node if its.intersection(node.input)}


def _joining_the_past(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that concatenate the cache of earlier calls with this call's steps.

    Calibration runs with an empty cache and would see no range for it. After the concatenation the range is that of the
    current steps.
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
    """Replace infinite constants by the largest finite number, which masks as well.

    The quantizer computes the range of every tensor, even of excluded nodes, and fails if one is infinite.
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
"""Operators that pass a masking constant on to their output."""


def _with_infinities(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read a masking constant, up to the softmax or maximum in which it vanishes.

    An 8-bit range that includes it has one value left for all other numbers, and the attention of a masked softmax
    becomes the mean of the visible steps (measured on gpt: 55 % of the answers as in fp32, 100 % with these nodes in
    fp32).
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
"""Absolute values above this are masks."""


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """Remove zero points that are 0, which is the default.

    Except those of a Gemm: without them ONNX Runtime 1.31 leaves it in fp32 (measured: latency ratio 1.64 instead of
    1.37).
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    of_gemm = {name for node in model.graph.node if node.op_type == "Gemm" for name in node.input}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in values:
            zero_point = numpy_helper.to_array(values[node.input[2]])
            if zero_point.dtype != np.uint8 and not zero_point.any() and node.output[0] not in of_gemm:
                del node.input[2]


def _float_biases(model: onnx.ModelProto, *, but_of: set[str]) -> None:
    """Store biases as fp32, 4 bytes each, instead of int32 with a 4-byte scale.

    ONNX Runtime converts them to int32 itself when it opens the file, for operators with a quantized result. but_of:
    results of the other operators.
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
    """Let the last matrix product give floats; returns the names of these results.

    With 8 bits for the range of a regression target, the resolution would be the error of the answer.
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
