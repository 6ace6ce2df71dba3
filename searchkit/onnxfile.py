"""The exported file: one ONNX graph from raw features to answers, small, checked, the same bytes each time it is made.

A network of a few thousand parameters is dominated by names and metadata: the exporter writes source paths, code lines
and long value names into the file. They are taken out here, once, for every file that searchkit writes. This is about
files; what runs them is `searchkit.runtime`. Format: https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import functools
import logging
import os
import string
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from searchkit import layout, rewrites
from searchkit.types import Arrays, BadInput, Port, Predict, Resumable

if TYPE_CHECKING:
    import torch


OPSET = 20
"""The newest that the exporter writes without converting."""

PAST, MEMORY = "past", "memory"
"""What a resumable file takes and gives beside its inputs and answers (types.Resumable). The axis of the steps that are
past is called past too; it may be empty."""

MARK = "searchkit.qdq"
"""Key in the model's metadata; the value "weight-only" asks for sessions with `session.disable_quant_qdq`."""


FRONTEND = "_"
"""What the names of a frontend's own numbers begin with: its features are of too wide a range for 8 bits."""


# ── Reading and running ──────────────────────────────────────────────────────────────────────────────────────────────


def load(path: Path) -> onnx.ModelProto:
    """The model of a file that passes the checker and holds all of its data.

    Raises BadInput where the file is missing, is no ONNX model, or keeps data outside itself (a way to read any file of
    the machine: CVE-2024-27318, CVE-2025-51480)."""
    if not path.is_file():
        raise BadInput(f"No file at {path}; give the path of an ONNX model.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise BadInput(f"{path} is not a whole ONNX model ({error}); export it again.") from error
    if not model.graph.node:
        raise BadInput(f"{path} holds no ONNX graph; give the path of an ONNX model.")
    for tensor in _tensors(model.graph):
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
        rows = layout.count([port for port in ports(opened) if port.name in taken], taken) or 1
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


def ports(opened: ort.InferenceSession) -> tuple[Port, ...]:
    """The inputs of a file, and how examples lie in them, from the names of its axes: see `_name_axes`. In a file of
    another maker, an input is batched where its first axis is called batch."""
    counters = {value.name for value in opened.get_inputs() if value.shape == ["batch"]}
    found = []
    for value in opened.get_inputs():
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        port = Port(value.name, shape, batched=False)
        for axis, size in enumerate(value.shape):
            if size == "batch" or size in counters:
                rest = shape[:axis] + shape[axis + 1 :]
                port = Port(value.name, rest, axis=axis, counted_by=None if size == "batch" else size)
        found.append(port)
    return tuple(found)


def op_counts(path: Path) -> dict[str, int]:
    """Operators of the graph, its subgraphs included, most frequent first."""
    counts = Counter(node.op_type for graph in _graphs(load(path).graph) for node in graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(model: onnx.ModelProto, path: Path) -> int:
    """Check the model, write it in one step and return its size in bytes."""
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return len(data)


def export(
    module: torch.nn.Module, inputs: tuple[Port, ...], answers: tuple[Port, ...], path: Path, *, example: Arrays
) -> int:
    """Write `module` (raw features in, answers out) to `path`; the size in bytes.

    example: by port name, at least one example; only shapes and dtypes matter. The axis of the examples is dynamic, and
    so is every axis that a port leaves None. A Resumable module is exported with its past and its memory. What the
    exporter cannot express raises torch.onnx.OnnxExporterError."""
    import torch

    from searchkit.layers import onnx_translations

    two = _two_examples(inputs, example)
    if isinstance(module, Resumable):
        two[PAST] = np.zeros((2, 3, module.memory), np.float32)
        inputs = (*inputs, Port(PAST, (None, module.memory)))
        answers = (*answers, Port(MEMORY, (None, module.memory)))
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
    rewrites.before_joins(model)
    return save(shrink(model), path)


def shrink(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation in fewer bytes: no metadata, documentation or inferred shapes, short names, no attributes
    that say the default, no twins among the initializers. Graph inputs and outputs keep their names; marks of our own
    in the metadata stay."""
    small = onnx.ModelProto()
    small.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
    kept = [(entry.key, entry.value) for entry in small.metadata_props if entry.key == MARK]
    for field in ("metadata_props", "doc_string", "producer_version", "domain", "functions"):
        small.ClearField(field)
    onnx.helper.set_model_props(small, dict(kept))
    small.producer_name = "searchkit"
    for graph in _graphs(small.graph):
        _scrub(graph)
        rewrites.drop_defaults(small, graph)
    _merge_twins(small.graph)
    _merge_transposed(small.graph)
    _shorten_names(small)
    small.graph.name = "g"
    used = {node.domain for graph in _graphs(small.graph) for node in graph.node}
    imports = [entry for entry in small.opset_import if entry.domain in used]
    del small.opset_import[:]
    small.opset_import.extend(imports)
    return small


def _resuming(module: Resumable) -> torch.nn.Module:
    """A module whose forward is the other's `resume`."""
    import torch

    class Resuming(torch.nn.Module):
        def __init__(self, inner: Resumable) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *raw_and_past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inner.resume(*raw_and_past)

    return Resuming(module)


def _two_examples(ports: tuple[Port, ...], example: Arrays) -> Arrays:
    # torch.export takes an axis of one for a constant.
    n = layout.count(ports, example) or 1
    two = layout.take(ports, example, np.arange(2) % n)
    return {name: np.ascontiguousarray(array) for name, array in two.items()}


def _axes(port: Port) -> list[int | None]:
    """The sizes of all axes, that of the examples included."""
    return [*port.shape[: port.axis], None, *port.shape[port.axis :]] if port.batched else list(port.shape)


def _dynamic_axes(port: Port) -> dict[int, Any]:
    from torch.export import Dim

    return {axis: Dim.DYNAMIC for axis, size in enumerate(_axes(port)) if size is None}


def _name_axes(model: onnx.ModelProto, inputs: tuple[Port, ...], answers: tuple[Port, ...]) -> None:
    """Call the dynamic axes by what they are instead of s77: batch, or the name of the input that counts them, so that
    the file tells how examples lie in it (`ports` reads it); else length. The numbers of axes that are fixed stay."""
    values = {value.name: value for value in [*model.graph.input, *model.graph.output]}
    for port in [*inputs, *answers]:
        dims = values[port.name].type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_param") or not dim.HasField("dim_value"):
                dim.dim_param = _axis_name(port, axis, len(dims))


def _axis_name(port: Port, axis: int, n_axes: int) -> str:
    if port.batched and axis == port.axis:
        return port.counted_by or "batch"
    if port.name == PAST:
        return PAST
    # What each example has of one length, its steps, is so of input and answers; what all share has lengths of its own.
    is_steps = port.batched and port.shape.count(None) == 1
    return "length" if is_steps or axis == n_axes - 1 else f"length{axis}"


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
    each time, so each call gets a copy of it."""
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


# ── Taking names and twins out ───────────────────────────────────────────────────────────────────────────────────────


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for part in _graphs(graph):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors


def _scrub(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    for value in [*graph.input, *graph.output]:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.ClearField("name")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")


def _merge_twins(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    twins: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if tensor.name in outputs or key not in first or not tensor.raw_data:
            first.setdefault(key, tensor.name)
            kept.append(tensor)
        else:
            twins[tensor.name] = first[key]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for part in _graphs(graph):
        for node in part.node:
            for position, name in enumerate(node.input):
                node.input[position] = twins.get(name, name)


def _merge_transposed(graph: onnx.GraphProto) -> None:
    """A matrix that is another one transposed (an embedding that is the last layer too) is stored once. ONNX Runtime
    transposes it when it opens the file."""
    outputs = {value.name for value in graph.output}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    kept, nodes = [], []
    for tensor in graph.initializer:
        if len(tensor.dims) != 2 or len(tensor.raw_data) < _NODE_BYTES or min(tensor.dims) == 1:
            kept.append(tensor)
            continue
        turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
        key = (tensor.data_type, turned.shape, turned.tobytes())
        if key in first and tensor.name not in outputs:
            nodes.append(onnx.helper.make_node("Transpose", [first[key]], [tensor.name], perm=[1, 0]))
        else:
            first[(tensor.data_type, tuple(tensor.dims), tensor.raw_data)] = tensor.name
            kept.append(tensor)
    if nodes:
        del graph.initializer[:]
        graph.initializer.extend(kept)
        nodes += graph.node
        del graph.node[:]
        graph.node.extend(nodes)


def _shorten_names(model: onnx.ModelProto) -> None:
    ports = {value.name for value in [*model.graph.input, *model.graph.output]}
    used: Counter[str] = Counter()
    for graph in _graphs(model.graph):
        used.update(tensor.name for tensor in graph.initializer)
        used.update(value.name for value in [*graph.input, *graph.output])
        for node in graph.node:
            used.update([*node.input, *node.output])
    fresh = ("".join(letters) for n in range(1, 5) for letters in product(string.ascii_letters, repeat=n))
    unused = (name for name in fresh if name not in ports)
    # The most used get the shortest; ties by order of appearance, which Counter keeps: the bytes stay deterministic.
    initializers = {tensor.name for tensor in model.graph.initializer}
    marked = {name for name in initializers if name.startswith(("frontend.", FRONTEND))}
    short = {
        name: (FRONTEND if name in marked else "") + next(unused)
        for name, _ in used.most_common()
        if name and name not in ports
    }
    for graph in _graphs(model.graph):
        for named in [*graph.initializer, *graph.input, *graph.output]:
            named.name = short.get(named.name, named.name)
        for node in graph.node:
            node.input[:] = [short.get(name, name) for name in node.input]
            node.output[:] = [short.get(name, name) for name in node.output]


# ── Weights in int8 ──────────────────────────────────────────────────────────────────────────────────────────────────


def weight_only(source: Path, target: Path) -> int:
    """Store the large weights as int8 with one scale a channel (symmetric, ±127) behind DequantizeLinear: free of data,
    for any operator; of a frontend only what int8 holds exactly. Arithmetic stays fp32. The size of `target` in
    bytes."""
    model = load(source)
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, int] = {}
    work = rewrites.feeding_work(graph)
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
        if weight.dtype != np.float32 or 3 * weight.size < 4 * weight.shape[axis] + _NODE_BYTES:
            continue
        quantized, scale = _symmetric(weight, axis)
        shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
        if name.startswith(FRONTEND) and not np.array_equal(quantized * scale.reshape(shape), weight):
            continue
        tensor.CopyFrom(numpy_helper.from_array(quantized, f"{name}:q"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}:s"))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}:q", f"{name}:s"], [name], axis=axis))
    graph_nodes = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(graph_nodes)
    rewrites.join_vectors(model, exact=FRONTEND)
    onnx.helper.set_model_props(model, {MARK: "weight-only"})
    return save(shrink(model), target)


_NODE_BYTES = 96
"""What a DequantizeLinear with its scale costs beside the scale's numbers: below it int8 would grow the file."""


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
    scale = rewrites.held_by_half(np.where(largest > 0, largest / 127, 1).astype(np.float32))
    shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8), scale


# ── Parity ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Parity:
    """Two predictors on the same examples.

    max_abs: the largest difference, in the unit of the answers. max_rel: the same over the largest answer of b.
    argmax: share of examples whose largest answer (over the last axis) is the same; 1 where there is one answer only.
    worst: index of the example that differs most. agrees: every difference is within the tolerance."""

    max_abs: float
    max_rel: float
    argmax: float
    n: int
    worst: int
    agrees: bool


def parity(a: Predict, b: Predict, arrays: Arrays, *, atol: float = 1e-4, rtol: float = 1e-3) -> Parity:
    """Compare on every example of `arrays`.

    Agreement is |a − b| ≤ atol · max(1, rms of b) + rtol · |b| everywhere, all finite: fp32 sums in another order stay
    two orders of magnitude below it (6e-7 on probabilities, over 19 families), a wrong operator three above. Answers
    in a large unit (diabetes: about 150) get the tolerance in their own scale."""
    answers_a, answers_b = a(arrays), b(arrays)
    assert set(answers_a) == set(answers_b), f"answers differ in name: {sorted(answers_a)} and {sorted(answers_b)}"
    found = [_compare(answers_a[name], answers_b[name], atol, rtol) for name in sorted(answers_b)]
    worst = max(found, key=lambda one: one.max_rel if np.isfinite(one.max_rel) else np.inf)
    return Parity(
        max_abs=max(one.max_abs for one in found),
        max_rel=worst.max_rel,
        argmax=min(one.argmax for one in found),
        n=worst.n,
        worst=worst.worst,
        agrees=all(one.agrees for one in found),
    )


def resumption(path: Path, arrays: Arrays) -> Parity:
    """A resumable file on some rows at once, against the same rows in two calls, the second of which goes on from the
    memory of the first. The steps are the second axis of every input and of the answers."""
    opened = session(path)
    names = [value.name for value in opened.get_outputs() if value.name != MEMORY]
    half = next(iter(arrays.values())).shape[1] // 2
    early, late = ({name: rows[:, part] for name, rows in arrays.items()} for part in (slice(half), slice(half, None)))
    *first, memory = opened.run([*names, MEMORY], feed(opened, early))
    second = opened.run(names, feed(opened, {**late, PAST: memory}))

    def whole(inputs: Arrays) -> Arrays:
        return dict(zip(names, opened.run(names, feed(opened, inputs)), strict=True))

    def in_two(inputs: Arrays) -> Arrays:
        parts = zip(first, second, strict=True)
        return {name: np.concatenate(both, 1) for name, both in zip(names, parts, strict=True)}

    return parity(in_two, whole, arrays)


def _compare(a: np.ndarray, b: np.ndarray, atol: float, rtol: float) -> Parity:
    n = len(b)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Parity(np.inf, np.inf, 0.0, n, 0, False)
    difference = np.abs(a.astype(np.float64) - b)
    allowed = atol * max(1.0, float(np.sqrt(np.mean(np.square(b, dtype=np.float64))))) + rtol * np.abs(b)
    excess = (difference / allowed).reshape(n, -1).max(axis=1)
    several = b.ndim > 1 and b.shape[-1] > 1
    return Parity(
        max_abs=float(difference.max()),
        max_rel=float(difference.max() / max(float(np.abs(b).max()), 1e-12)),
        argmax=float(np.mean(a.argmax(-1) == b.argmax(-1))) if several else 1.0,
        n=n,
        worst=int(excess.argmax()),
        agrees=bool(excess.max() <= 1.0),
    )
