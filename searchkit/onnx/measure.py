"""What a network costs: parameters, multiply-accumulates, bytes, memory and time, each by one protocol in one place.

Time is compared, never stated alone: on a shared machine two runs of the same file differ by 13–97 %, the interleaved
median of ratios by 4–23 % (measured). So all files are timed in turns, in blocks, in fresh processes pinned to one core
with one thread, and what is read is the ratio to the first file with its interval. `python -m searchkit.onnx.measure`
is the process that times; it imports no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort

from searchkit.core import batching
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.scratch import scratch_folder
from searchkit.onnx.io import PAST, feed, is_weight_only, load, ports, session, session_options

if TYPE_CHECKING:
    from torch import Tensor, nn

TIE = 0.10
"""A ratio within 1/1.1 … 1.1 is a tie even where its interval leaves 1 out: the machine alone gives that much."""

BLOCK_SECONDS = 0.004
"""One block of one file: long enough that the clock and the caches of the file before do not matter."""


# ── Counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def params(module: nn.Module) -> int:
    """Trainable numbers, shared ones once; buffers are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of one forward pass in matrix products and convolutions (torch.utils.flop_counter, halved).

    inputs: one example, batch axis 1, on the module's device. The module keeps its mode.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    counter = FlopCounterMode(display=False)
    # oneDNN's fused RNN and the fused attention of the CPU are single operators without a formula: without them both
    # come apart into the matrix products that are counted. (mkldnn.flags() would warn of TF32 on Intel GPUs.)
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(*inputs)
    finally:
        torch.backends.mkldnn.enabled = enabled
        for part, training in modes:
            part.training = training
    return int(counter.get_total_flops()) // 2


def size_bytes(path: Path) -> int:
    """Bytes of the file on disk."""
    return path.stat().st_size


def peak_activation_bytes(path: Path, example: Arrays | None = None) -> int:
    """The most bytes of activations that are alive at once while one example passes, in the graph as ONNX Runtime's
    optimizer leaves it (int8 operators fused, weights folded).

    A value lives from the node that makes it to the last that reads it; reshapes share their input's memory; weights,
    scratch memory of the operators and reuse in place are left out. example: the first one of it passes; by default
    zeros, as `draw_inputs` draws them.
    """
    given = draw_inputs(path, seed=None) if example is None else _first(session(path), example)
    model, values = _traced(path, given)
    sizes = {name: value.nbytes for name, value in values.items()}
    home: dict[str, str] = {}
    last: dict[str, int] = {}
    for step, node in enumerate(model.graph.node):
        for name in node.input:
            last[home.get(name, name)] = step
        if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"):
            home[node.output[0]] = home.get(node.input[0], node.input[0])
    last |= {home.get(value.name, value.name): len(model.graph.node) for value in model.graph.output}
    alive = {value.name: sizes[value.name] for value in model.graph.input if value.name in last}
    peak = sum(alive.values())
    for step, node in enumerate(model.graph.node):
        alive |= {name: sizes[name] for name in node.output if name in sizes and name not in home}
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > step}
    return peak


def trace(path: Path, example: Arrays) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    """The graph as ONNX Runtime's optimizer leaves it, and the shape of every weight and activation in it."""
    model, values = _traced(path, example)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return model, shapes | {name: value.shape for name, value in values.items()}


def _traced(path: Path, example: Arrays) -> tuple[onnx.ModelProto, Arrays]:
    """The optimized graph and the value of everything in it that depends on the input, the inputs included."""
    with scratch_folder() as folder:
        options = session_options(1, weight_only=is_weight_only(load(path)))
        # "extended" fuses as the default level does, but keeps to operators that a file can hold on every machine.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(folder / "optimized.onnx")
    varying = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if varying.intersection(node.input):
            varying.update(name for name in node.output if name)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {value.name for value in shown.graph.output}
    names = [name for node in shown.graph.node for name in node.output if name in varying]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    # The graph as it is, every value kept: optimizing once more would fold some away.
    options = session_options(1, weight_only=False)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = feed(opened, example)
    return model, taken | dict(zip(names, opened.run(names, taken), strict=True))


def _first(opened: ort.InferenceSession, examples: Arrays) -> Arrays:
    """What the session takes of the first of the examples."""
    return batching.take(ports(opened), feed(opened, examples), slice(0, 1))


# ── Inputs for a file that says nothing of its data ──────────────────────────────────────────────────────────────────

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def draw_inputs(path: Path, *, seed: int | None = 0) -> Arrays:
    """One example of the right shapes and types: normal numbers, and ones for whole numbers, which may be lengths,
    tokens or numbers of other entries; zeros and ones where seed is None. Varying axes are 1, but 2 where they are
    counted by another input or all examples share them, so that there is an entry of number 1; and a past is empty.
    Raises BadInput on a type that cannot be drawn.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    opened = session(path)
    taken = ports(opened)
    counters = {port.counted_by for port in taken}
    for value, port in zip(opened.get_inputs(), taken, strict=True):
        if value.type not in _DTYPES:
            raise BadInput(f"{path} takes '{value.name}' as {value.type}; inputs are drawn for {', '.join(_DTYPES)}.")
        varying = 1 if port.batched and port.counted_by is None else 2
        shape = tuple(size if isinstance(size, int) else 0 if size == PAST else varying for size in value.shape)
        dtype = np.dtype(_DTYPES[value.type])
        if dtype.kind != "f":
            drawn[value.name] = np.full(shape, 2 if port.name in counters else 1).astype(dtype)
        else:
            drawn[value.name] = (np.zeros(shape) if seed is None else rng.standard_normal(shape)).astype(dtype)
    return drawn


# ── Timing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Latency:
    """One file beside the first. p50_ms and p95_ms: milliseconds a call at batch 1 on one thread. ratio: median over
    rounds of (block median of this file / of the first); low, high: its 95 % interval. Below 1 is faster.
    verdict: "faster", "slower" or "no difference".
    """

    p50_ms: float
    p95_ms: float
    ratio: float
    low: float
    high: float
    processes: int
    rounds: int
    verdict: str


def verdict(ratio: float, low: float, high: float) -> str:
    """ "faster" or "slower" where the interval leaves out 1 and the ratio is beyond the tie, else "no difference"."""
    if high < 1 and ratio < 1 / (1 + TIE):
        return "faster"
    if low > 1 and ratio > 1 + TIE:
        return "slower"
    return "no difference"


@dataclass(frozen=True)
class Timings:
    """What one process measured. blocks_ms: (rounds, files), the median call of each block; calls_ms: by file."""

    blocks_ms: np.ndarray
    calls_ms: tuple[np.ndarray, ...]


def latency(
    paths: Mapping[str, Path], example: Arrays, *, processes: int = 5, rounds: int = 24, seed: int = 0
) -> dict[str, Latency]:
    """Time the files against the first of them, at batch 1 on one thread.

    example: inputs by name; the first of their examples is used. processes: fresh ones, one after the other, for
    evidence; 0 times in this process (about rounds × files × 4 ms), for decisions within a search or a stage.
    """
    return _compare(paths, [example] * len(paths), processes=processes, rounds=rounds, seed=seed)


def bench(paths: Sequence[Path], *, processes: int = 5, rounds: int = 24, seed: int = 0) -> dict[str, Latency]:
    """Time any ONNX files against the first, on random inputs with every varying axis at 1; by path.

    Raises BadInput on a file that is missing, corrupt, or keeps data outside itself, and on one that is named twice.
    """
    named = {str(path): path for path in paths}
    if len(named) < len(paths):
        raise BadInput("The same file is named twice; give two different ONNX files.")
    feeds = [draw_inputs(path, seed=seed) for path in paths]
    return _compare(named, feeds, processes=processes, rounds=rounds, seed=seed)


def _compare(
    paths: Mapping[str, Path], feeds: list[Arrays], *, processes: int, rounds: int, seed: int
) -> dict[str, Latency]:
    files = list(paths.values())
    if processes == 0:
        runs = [time_blocks(files, feeds, rounds=rounds)]
    else:
        runs = [_in_fresh_process(files, feeds, rounds) for _ in range(processes)]
    found = {}
    for column, name in enumerate(paths):
        ratios = [run.blocks_ms[:, column] / run.blocks_ms[:, 0] for run in runs]
        calls = np.concatenate([run.calls_ms[column] for run in runs])
        low, high = interval(ratios, seed=seed)
        p50, p95 = np.percentile(calls, [50, 95])
        middle = float(np.median(np.concatenate(ratios)))
        found[name] = Latency(
            float(p50), float(p95), middle, low, high, processes, rounds, verdict=verdict(middle, low, high)
        )
    return found


def interval(ratios: Sequence[np.ndarray], *, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median ratio. Processes are drawn first, then rounds within each: rounds of one
    process share its memory layout and are not independent.
    """
    rng = np.random.default_rng(seed)
    table = np.stack(ratios)  # (processes, rounds)
    n, rounds = table.shape
    drawn = rng.integers(n, size=(resamples, n))
    within = rng.integers(rounds, size=(resamples, n, rounds))
    medians = np.median(table[drawn[:, :, None], within].reshape(resamples, -1), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def time_blocks(files: Sequence[Path], feeds: Sequence[Arrays], *, rounds: int) -> Timings:
    """Time the files in turns, in this process, on the first example of what each is fed: each round has one block of
    calls of every file, in rotating order.
    """
    sessions = [session(path) for path in files]
    inputs = [_first(opened, given) for opened, given in zip(sessions, feeds, strict=True)]
    blocks = np.empty((rounds, len(files)))
    calls: list[list[np.ndarray]] = [[] for _ in files]
    with _one_core():
        counts = [_calls_a_block(opened, given) for opened, given in zip(sessions, inputs, strict=True)]
        for turn in range(rounds):
            for step in range(len(files)):
                i = (turn + step) % len(files)
                taken = _time_calls(sessions[i], inputs[i], counts[i])
                blocks[turn, i] = np.median(taken)
                calls[i].append(taken)
    return Timings(blocks, tuple(np.concatenate(one) for one in calls))


def _time_calls(opened: ort.InferenceSession, given: Arrays, n_calls: int) -> np.ndarray:
    """Milliseconds of each call: (n_calls,). The first call of a block, on cold caches, is made and not counted."""
    opened.run(None, given)
    taken = np.empty(n_calls)
    for i in range(n_calls):
        start = time.perf_counter_ns()
        opened.run(None, given)
        taken[i] = (time.perf_counter_ns() - start) / 1e6
    return taken


def _calls_a_block(opened: ort.InferenceSession, given: Arrays) -> int:
    _time_calls(opened, given, 3)
    one_ms = float(np.median(_time_calls(opened, given, 5)))
    return int(np.clip(BLOCK_SECONDS * 1e3 / one_ms, 1, 200))


@contextmanager
def _one_core() -> Iterator[None]:
    """This thread on one core while it is timed. Only Linux can."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _in_fresh_process(files: list[Path], feeds: list[Arrays], rounds: int) -> Timings:
    with scratch_folder() as folder:
        _store(folder / "feeds.npz", {f"{i}:{k}": v for i, given in enumerate(feeds) for k, v in given.items()})
        names = [str(path.resolve()) for path in files]
        (folder / "wanted.json").write_text(json.dumps({"files": names, "rounds": rounds}))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "searchkit.onnx.measure", folder],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise BadInput(f"Timing {', '.join(names)} failed in its own process: {reason}")
        with np.load(folder / "timings.npz", allow_pickle=False) as stored:
            return Timings(stored["blocks"], tuple(stored[f"calls{i}"] for i in range(len(files))))


def _worker(folder: Path) -> None:
    wanted = json.loads((folder / "wanted.json").read_text())
    feeds: list[Arrays] = [{} for _ in wanted["files"]]
    with np.load(folder / "feeds.npz", allow_pickle=False) as stored:
        for key in stored.files:
            index, name = key.split(":", 1)
            feeds[int(index)][name] = stored[key]
    timings = time_blocks([Path(name) for name in wanted["files"]], feeds, rounds=wanted["rounds"])
    calls = {f"calls{i}": taken for i, taken in enumerate(timings.calls_ms)}
    _store(folder / "timings.npz", {"blocks": timings.blocks_ms, **calls})


def _store(path: Path, arrays: Arrays) -> None:
    np.savez(path, allow_pickle=False, **arrays)


if __name__ == "__main__":
    _worker(Path(sys.argv[1]))
