"""Read, run and write ONNX files: one graph from raw inputs to outputs, checked, with the same bytes each time.

`searchkit.onnx.minify` makes files small; `searchkit.onnx.predictor` runs them on data. Format:
https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import functools
import gc
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

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.files import write_atomically
from searchkit.core.network import HasKVCache
from searchkit.onnx import passes
from searchkit.onnx.editing import graphs
from searchkit.onnx.minify import MARK, shrink, tensors

if TYPE_CHECKING:
    import torch


OPSET = 20
"""The newest opset that torch's exporter writes without a conversion."""

PAST, MEMORY = "past", "memory"
"""Additional input and output of a file with a cache (see `HasKVCache`).

The axis of the earlier steps is also named "past"; it may have length 0.
"""


# ── Reading and running ──────────────────────────────────────────────────────────────────────────────────────────────


def load(path: Path) -> onnx.ModelProto:
    """Load a model that passes the ONNX checker and holds all of its data.

    Raises:
        BadInput: If the file is missing, is not an ONNX model, or keeps data in another file. The last would be a way
            to read any file of the machine (CVE-2024-27318, CVE-2025-51480).
    """
    if not path.is_file():
        raise BadInput(f"No file at {path}; give the path of an ONNX model.")
    # From bytes, not from a path: onnx.load would follow references to other files before anything is checked. Of 1,300
    # randomly damaged models, none crashed the parser or ONNX Runtime.
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise BadInput(f"{path} is not a complete ONNX model ({error}); export it again.") from error
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
    """Return whether the file stores int8 weights for fp32 arithmetic."""
    return any(entry.key == MARK and entry.value == "weight-only" for entry in model.metadata_props)


def needed_options(path: Path) -> dict[str, str]:
    """Return the session options that a file needs to be as fast as it was measured."""
    return {"session.disable_quant_qdq": "1"} if is_weight_only(load(path)) else {}


def has_float_arithmetic(path: Path) -> bool:
    """Return whether no activation is quantized.

    If so, machines agree up to fp32 rounding, else up to int8 rounding.
    """
    return not {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM"}.intersection(op_counts(path))


def session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """Open a file with ONNX Runtime; the one place where sessions for inference are made.

    Raises:
        BadInput: If ONNX Runtime cannot open the file.
    """
    model = load(path)
    try:
        return ort.InferenceSession(
            str(path), session_options(threads, weight_only=is_weight_only(model)), providers=["CPUExecutionProvider"]
        )
    except _ORT_ERRORS as error:
        raise BadInput(f"ONNX Runtime cannot open {path}: {str(error).splitlines()[0]}") from error


def is_resumable(opened: ort.InferenceSession) -> bool:
    """Return whether the file takes the cache of earlier steps."""
    return any(value.shape[1:2] == [PAST] for value in opened.get_inputs())


def feed(opened: ort.InferenceSession, arrays: Arrays) -> Arrays:
    """Select what a session takes; the cache is empty if none is given.

    Args:
        opened: The session.
        arrays: Arrays by name; others than the inputs are ignored.
    """
    values = opened.get_inputs()
    begun = {value.name for value in values if value.shape[1:2] == [PAST] and value.name not in arrays}
    taken: Arrays = {value.name: arrays[value.name] for value in values if value.name not in begun}
    if begun:
        rows = batching.count([port for port in ports(opened) if port.name in taken], taken) or 1
        taken |= {v.name: np.zeros((rows, 0, *v.shape[2:]), np.float32) for v in values if v.name in begun}
    return taken


def session_options(threads: int, *, weight_only: bool) -> ort.SessionOptions:
    """Return session options for inference.

    Args:
        threads: Threads of an operator.
        weight_only: Whether the file stores int8 weights for fp32 arithmetic.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings of the optimizer would go over the progress display
    # Spinning threads take the cores of other processes (measured: a training step of 28 ms took 128 ms).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if weight_only:
        # Weights are then dequantized once, when the file is opened; else in every call, up to 2.7 times slower.
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
"""The errors of ONNX Runtime; they share no class but Exception."""


def ports(opened: ort.InferenceSession) -> tuple[TensorSpec, ...]:
    """Return the specs of a file's inputs, read from the names of its axes (see `_name_axes`).

    In files of other tools, an input is batched if its first axis is named "batch".
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
    """Count the operators of a file, including subgraphs, most frequent first."""
    counts = Counter(node.op_type for graph in graphs(load(path).graph) for node in graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(model: onnx.ModelProto, path: Path) -> int:
    """Check a model and write it; the file appears whole or not at all.

    Returns:
        Size in bytes.

    Raises:
        onnx.checker.ValidationError: If the model is not valid.
    """
    onnx.checker.check_model(model, full_check=True)  # with shape inference
    data = model.SerializeToString(deterministic=True)  # the order of maps is otherwise not fixed
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
    """Export a module from raw inputs to outputs.

    The axis of the examples is dynamic, and so is every axis that a spec leaves None. A `HasKVCache` module is exported
    with its cache as an additional input and output.

    Args:
        module: The module, usually from `searchkit.onnx.predictor.deploy`.
        inputs: Specs of the inputs, in the order of `forward`.
        answers: Specs of the outputs.
        path: The file.
        example: Inputs by name, at least one example; only shapes and dtypes matter.

    Returns:
        Size in bytes.

    Raises:
        torch.onnx.OnnxExporterError: If the exporter does not support an operator.
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
    # The dynamo exporter, 0.7 to 3.4 s a network: files of 19 test networks agree with torch within 6e-7 at batches of
    # 1, 3 and 7, and have the same bytes each time. LSTM and GRU become single operators.
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
            external_data=False,  # one file: `load` refuses others
            verbose=False,
        )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
    # In this order: folding adds initializers, which `shrink` then renames and merges.
    _name_axes(model, inputs, answers)
    passes.before_joins(model)
    return save(shrink(model), path)


def _resuming(module: HasKVCache) -> torch.nn.Module:
    """A module whose `forward` is the other's `resume`."""
    import torch

    class Resuming(torch.nn.Module):
        def __init__(self, inner: HasKVCache) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *raw_and_past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inner.resume(*raw_and_past)

    return Resuming(module)


def _two_examples(ports: tuple[TensorSpec, ...], example: Arrays) -> Arrays:
    # torch.export treats an axis of size 1 as a constant, so the axis of the examples gets two.
    n = batching.count(ports, example) or 1
    two = batching.take(ports, example, np.arange(2) % n)
    return {name: np.ascontiguousarray(array) for name, array in two.items()}


def _axes(port: TensorSpec) -> list[int | None]:
    """The sizes of all axes, including the axis of the examples; None for dynamic ones."""
    return [*port.shape[: port.axis], None, *port.shape[port.axis :]] if port.batched else list(port.shape)


def _dynamic_axes(port: TensorSpec) -> dict[int, Any]:
    from torch.export import Dim

    return {axis: Dim.DYNAMIC for axis, size in enumerate(_axes(port)) if size is None}


def _name_axes(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], answers: tuple[TensorSpec, ...]) -> None:
    """Name the dynamic axes, so that the file says how examples are laid out; `ports` reads the names.

    The exporter calls them s77 and the like. The axis of the examples becomes "batch" or the name of the input that
    counts its entries, others "length". Fixed axes keep their sizes.
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
    # The steps of batched inputs and outputs have one length; shared tensors have lengths of their own.
    is_steps = port.batched and port.shape.count(None) == 1
    return port.steps if is_steps or axis == n_axes - 1 else f"length{axis}"


@contextmanager
def _at_rest(module: torch.nn.Module) -> Iterator[None]:
    """Put the module in eval mode on the CPU inside the block, and restore it afterwards.

    Not a deep copy: that fails for a VAE that holds its KL term.
    """
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
    """Silence the exporter, and cache its table of operator translations between calls.

    The exporter parses about 500 translations from source in each call: measured, 0.9 of 1.5 s. The table is always the
    same, so each call gets a copy. Garbage is collected afterwards: the exporter makes many objects that live until it
    ends, and looking through them again and again took an eighth of an export (measured, 1.15 against 1.02 s).
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns four times per call that torchvision is not installed
    table = _torchlib()

    def copy_of_table(cls: type[ONNXRegistry], opset_version: int = OPSET) -> ONNXRegistry:
        assert opset_version == OPSET
        registry = cls()
        registry._opset_version = opset_version
        registry.functions = {target: list(found) for target, found in table.items()}
        return registry

    collects = gc.isenabled()
    gc.disable()
    original = ONNXRegistry.__dict__["from_torchlib"]
    ONNXRegistry.from_torchlib = classmethod(copy_of_table)  # type: ignore
    try:
        with warnings.catch_warnings():
            # What torch says of itself: what it deprecates and uses, that a recurrent layer lists its weights twice.
            # Whether the file is right is for the parity gate, which holds it against the network.
            warnings.simplefilter("ignore")
            yield
    finally:
        if collects:
            gc.enable()
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]
        logger.setLevel(level)


@functools.cache
def _torchlib() -> dict[Any, list[Any]]:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(OPSET).functions
