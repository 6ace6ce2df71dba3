"""The exported file: one ONNX graph from raw features to answers, small, checked, the same bytes each time it is made.

This is about files, which `searchkit.onnx.minify` makes small; what runs them is `searchkit.onnx.predictor`. Format: https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.files import write_atomically
from searchkit.core.network import HasKVCache
from searchkit.onnx import passes
from searchkit.onnx.editing import graphs, prepend_nodes_
from searchkit.onnx.minify import MARK, NODE_BYTES, PREPROCESSOR, shrink, tensors

if TYPE_CHECKING:
    import torch


OPSET = 20
"""The newest that the exporter writes without converting."""

PAST, MEMORY = "past", "memory"
"""What a resumable file takes and gives beside its inputs and answers (types.Resumable). The axis of the steps that are
past is called past too; it may be empty."""


# ── Reading and running ──────────────────────────────────────────────────────────────────────────────────────────────


def load(path: Path) -> onnx.ModelProto:
    """The model of a file that passes the checker and holds all of its data.

    Raises BadInput where the file is missing, is no ONNX model, or keeps data outside itself (a way to read any file of
    the machine: CVE-2024-27318, CVE-2025-51480).
    """
    if not path.is_file():
        raise BadInput(f"No file at {path}; give the path of an ONNX model.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise BadInput(f"{path} is not a whole ONNX model ({error}); export it again.") from error
    if not model.graph.node:
        raise BadInput(f"{path} holds no ONNX graph; give the path of an ONNX model.")
    for tensor in tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BadInput(
                f"{path} keeps the data of '{tensor.name}' in another file, which is refused; save it as a single file."
            )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise BadInput(f"{path} fails the ONNX checker: {str(error).splitlines()[0]}") from error
    return model


def is_weight_only(model: onnx.ModelProto) -> bool:
    return any(entry.key == MARK and entry.value == "weight-only" for entry in model.metadata_props)


def needed_options(path: Path) -> dict[str, str]:
    """Session options that whoever opens the file has to set for it to be as quick as was measured."""
    return {"session.disable_quant_qdq": "1"} if is_weight_only(load(path)) else {}


def has_float_arithmetic(path: Path) -> bool:
    """Whether no activation is quantized: then machines agree to fp32 rounding, else to int8 rounding."""
    return not {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM"}.intersection(op_counts(path))


def session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """The one place where session options are set. Raises BadInput where ONNX Runtime cannot run the file."""
    model = load(path)
    try:
        return ort.InferenceSession(
            str(path), session_options(threads, weight_only=is_weight_only(model)), providers=["CPUExecutionProvider"]
        )
    except _ORT_ERRORS as error:
        raise BadInput(f"ONNX Runtime cannot open {path}: {str(error).splitlines()[0]}") from error


def is_resumable(opened: ort.InferenceSession) -> bool:
    return any(value.shape[1:2] == [PAST] for value in opened.get_inputs())


def feed(opened: ort.InferenceSession, arrays: Arrays) -> Arrays:
    """What the session takes of `arrays`; where it can go on from a past and none is given, an empty one."""
    values = opened.get_inputs()
    begun = {value.name for value in values if value.shape[1:2] == [PAST] and value.name not in arrays}
    taken: Arrays = {value.name: arrays[value.name] for value in values if value.name not in begun}
    if begun:
        rows = batching.count([port for port in ports(opened) if port.name in taken], taken) or 1
        taken |= {v.name: np.zeros((rows, 0, *v.shape[2:]), np.float32) for v in values if v.name in begun}
    return taken


def session_options(threads: int, *, weight_only: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning pool takes the core from whoever else works on the machine (measured: a 28 ms step became 128 ms).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if weight_only:
        # Dequantized once, when the file is opened; without it in every call: up to 2.7 times as slow.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


_ORT_ERRORS: tuple[type[Exception], ...] = (
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
)


def ports(opened: ort.InferenceSession) -> tuple[TensorSpec, ...]:
    """The inputs of a file, and how examples lie in them, from the names of its axes: see `_name_axes`. In a file of
    another maker, an input is batched where its first axis is called batch.
    """
    counters = {value.name for value in opened.get_inputs() if value.shape == ["batch"]}
    found = []
    for value in opened.get_inputs():
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        port = TensorSpec(value.name, shape, batched=False)
        for axis, size in enumerate(value.shape):
            if size == "batch" or size in counters:
                rest = shape[:axis] + shape[axis + 1 :]
                port = TensorSpec(value.name, rest, axis=axis, counted_by=None if size == "batch" else size)
        found.append(port)
    return tuple(found)


def op_counts(path: Path) -> dict[str, int]:
    """Operators of the graph, its subgraphs included, most frequent first."""
    counts = Counter(node.op_type for graph in graphs(load(path).graph) for node in graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(model: onnx.ModelProto, path: Path) -> int:
    """Check the model, write it in one step and return its size in bytes."""
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, data)
    return len(data)


def export(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    answers: tuple[TensorSpec, ...],
    path: Path,
    *,
    example: Arrays,
) -> int:
    """Write `module` (raw features in, answers out) to `path`; the size in bytes.

    example: by port name, at least one example; only shapes and dtypes matter. The axis of the examples is dynamic, and
    so is every axis that a port leaves None. A HasKVCache module is exported with its past and its memory. What the
    exporter cannot express raises torch.onnx.OnnxExporterError.
    """
    import torch

    from searchkit.nn.recurrent import onnx_translations

    two = _two_examples(inputs, example)
    if isinstance(module, HasKVCache):
        two[PAST] = np.zeros((2, 3, module.memory), np.float32)
        inputs = (*inputs, TensorSpec(PAST, (None, module.memory)))
        answers = (*answers, TensorSpec(MEMORY, (None, module.memory)))
        module = _resuming(module)
    arguments = tuple(torch.from_numpy(two[port.name]) for port in inputs)
    with _at_rest(module), _quick_and_quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in answers],
            # The one argument of forward is *raw: a tuple of one axis map for each input.
            dynamic_shapes=(tuple(_dynamic_axes(port) for port in inputs),),
            custom_translation_table=onnx_translations(),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
    _name_axes(model, inputs, answers)
    passes.before_joins(model)
    return save(shrink(model), path)


def _resuming(module: HasKVCache) -> torch.nn.Module:
    """A module whose forward is the other's `resume`."""
    import torch

    class Resuming(torch.nn.Module):
        def __init__(self, inner: HasKVCache) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *raw_and_past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inner.resume(*raw_and_past)

    return Resuming(module)


def _two_examples(ports: tuple[TensorSpec, ...], example: Arrays) -> Arrays:
    # torch.export takes an axis of one for a constant.
    n = batching.count(ports, example) or 1
    two = batching.take(ports, example, np.arange(2) % n)
    return {name: np.ascontiguousarray(array) for name, array in two.items()}


def _axes(port: TensorSpec) -> list[int | None]:
    """The sizes of all axes, that of the examples included."""
    return [*port.shape[: port.axis], None, *port.shape[port.axis :]] if port.batched else list(port.shape)


def _dynamic_axes(port: TensorSpec) -> dict[int, Any]:
    from torch.export import Dim

    return {axis: Dim.DYNAMIC for axis, size in enumerate(_axes(port)) if size is None}


def _name_axes(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], answers: tuple[TensorSpec, ...]) -> None:
    """Call the dynamic axes by what they are instead of s77: batch, or the name of the input that counts them, so that
    the file tells how examples lie in it (`ports` reads it); else length. The numbers of axes that are fixed stay.
    """
    values = {value.name: value for value in [*model.graph.input, *model.graph.output]}
    for port in [*inputs, *answers]:
        dims = values[port.name].type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_param") or not dim.HasField("dim_value"):
                dim.dim_param = _axis_name(port, axis, len(dims))


def _axis_name(port: TensorSpec, axis: int, n_axes: int) -> str:
    if port.batched and axis == port.axis:
        return port.counted_by or "batch"
    if port.name == PAST:
        return PAST
    # What each example has of one length, its steps, is so of input and answers; what all share has lengths of its own.
    is_steps = port.batched and port.shape.count(None) == 1
    return port.steps if is_steps or axis == n_axes - 1 else f"length{axis}"


@contextmanager
def _at_rest(module: torch.nn.Module) -> Iterator[None]:
    """The module in eval mode on the CPU; as it was afterwards. (A deep copy fails on a VAE that holds its penalty.)"""
    modes = {part: part.training for part in module.modules()}
    device = next((tensor.device for tensor in module.parameters()), None)
    module.eval().to("cpu")
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
        if device is not None:
            module.to(device)


@contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """Silence what the exporter says of itself, and keep the exporter's own table of translations between calls.

    It parses some 500 translations from their source text at each call: .9 of 1.5 s, measured. The table is the same
    each time, so each call gets a copy of it.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed. Skipping torchvision::nms", four times a call
    table = _torchlib()

    def copy_of_table(cls: type[ONNXRegistry], opset_version: int = OPSET) -> ONNXRegistry:
        assert opset_version == OPSET
        registry = cls()
        registry._opset_version = opset_version
        registry.functions = {target: list(found) for target, found in table.items()}
        return registry

    original = ONNXRegistry.__dict__["from_torchlib"]
    ONNXRegistry.from_torchlib = classmethod(copy_of_table)  # type: ignore
    try:
        with warnings.catch_warnings():
            # torch's own use of what it deprecates, from copyreg
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]
        logger.setLevel(level)


@functools.cache
def _torchlib() -> dict[Any, list[Any]]:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(OPSET).functions


# ── Weights in int8 ──────────────────────────────────────────────────────────────────────────────────────────────────


def weight_only(source: Path, target: Path) -> int:
    """Store the large weights as int8 with one scale a channel (symmetric, ±127) behind DequantizeLinear: free of data,
    for any operator; of a preprocessor only what int8 holds exactly. Arithmetic stays fp32. The size of `target` in
    bytes.
    """
    model = load(source)
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, int] = {}
    work = passes.feeding_work(graph)
    for node in graph.node:
        within = bool(work.intersection(node.output))
        for position, name in enumerate(node.input):
            if name not in initializers:
                continue
            axis = _channel_axis(node, position, initializers[name])
            if axis is None and within:
                axis = _table_axis(node, position, initializers[name])
            if axis is not None:
                axes.setdefault(name, axis)
    nodes = []
    for name, axis in axes.items():
        tensor = initializers[name]
        weight = numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or 3 * weight.size < 4 * weight.shape[axis] + NODE_BYTES:
            continue
        quantized, scale = _symmetric(weight, axis)
        shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
        if name.startswith(PREPROCESSOR) and not np.array_equal(quantized * scale.reshape(shape), weight):
            continue
        tensor.CopyFrom(numpy_helper.from_array(quantized, f"{name}:q"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}:s"))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}:q", f"{name}:s"], [name], axis=axis))
    prepend_nodes_(graph, nodes)
    passes.join_vectors(model, exact=PREPROCESSOR)
    onnx.helper.set_model_props(model, {MARK: "weight-only"})
    return save(shrink(model), target)


def _channel_axis(node: onnx.NodeProto, position: int, tensor: onnx.TensorProto) -> int | None:
    """The axis of the output channels where input `position` of `node` is a weight worth storing in int8."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    match node.op_type, position:
        case "Conv", 1:
            return 0
        case "ConvTranspose", 1:
            return 1
        case "Gemm", 1:
            return 0 if attributes.get("transB", 0) else 1
        case "MatMul", (0 | 1) if len(tensor.dims) > 1:
            return len(tensor.dims) - (1 if position == 1 else 2)
        case (("LSTM" | "GRU" | "RNN"), (1 | 2)):
            return 1  # (directions, gates × hidden, …)
        case "Gather", 0 if len(tensor.dims) == 2:
            return 0  # an embedding's rows
    return None


def _table_axis(node: onnx.NodeProto, position: int, tensor: onnx.TensorProto) -> int | None:
    """The axis of the rows where input `position` of `node` is a table that is added to steps: their positions."""
    if len(tensor.dims) >= 2 and (node.op_type == "Add" or (node.op_type == "Slice" and position == 0)):
        return len(tensor.dims) - 2
    return None


def _symmetric(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(axis=others)
    scale = passes.held_by_half(np.where(largest > 0, largest / 127, 1).astype(np.float32))
    shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8), scale
