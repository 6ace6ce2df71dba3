"""Measure the cost of a network: parameters, multiply-accumulates, bytes, memory and latency.

Latency is compared, never stated alone: on a shared machine two runs of the same file differ by 13–97 %, but
interleaved medians of ratios by 4–23 % (measured). So files are timed in turns, in blocks, in fresh processes pinned to
one core with one thread, and the result is the ratio to the first file with its interval. `python -m
searchkit.onnx.measure` is the timing process; it does not import torch.
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
from searchkit.core.estimates import TIE, Latency, Verdict
from searchkit.core.scratch import scratch_folder
from searchkit.onnx.io import feed, is_weight_only, load, ports, session, session_options
from searchkit.onnx.random_inputs import draw_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

BLOCK_SECONDS = 0.004
"""Length of a block of calls of one file: long enough that the clock and the previous file's caches do not matter."""


# ── Counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def params(module: nn.Module) -> int:
    """Return the number of trainable parameters; shared ones count once, buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Return the multiply-accumulates of one forward pass, in matrix products and convolutions.

    Counted with torch.utils.flop_counter, halved. The module keeps its mode.

    Args:
        module: The network.
        inputs: One example with a batch axis of 1, on the module's device.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    counter = FlopCounterMode(display=False)
    # The counter has no formula for oneDNN's fused RNN and for fused attention on the CPU. Without them both decompose
    # into matrix products, which are counted. (mkldnn.flags() would warn about TF32 on Intel GPUs.)
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
    """Return the size of a file in bytes."""
    return path.stat().st_size


def peak_activation_bytes(path: Path, example: Arrays | None = None) -> int:
    """Return the peak memory of activations for one example, in bytes.

    Of the graph as ONNX Runtime's optimizer leaves it (int8 operators fused, weights folded). A value lives from the
    node that makes it to the last one that reads it, and reshapes share their input's memory. Weights, scratch memory
    of operators and reuse in place are not included.

    Args:
        path: The file.
        example: Inputs by name; the first example is used. By default zeros from `draw_inputs`.
    """
    given = draw_inputs(path, seed=None) if example is None else _first(session(path), example)
    model, values = _traced(path, given)
    sizes = {name: value.nbytes for name, value in values.items()}
    home: dict[str, str] = {}
    last: dict[str, int] = {}
    # First when each value is read last, seen through reshapes, which give another name to the same memory.
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
    """Return the graph as ONNX Runtime optimizes it, and the shape of every weight and activation by name."""
    model, values = _traced(path, example)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return model, shapes | {name: value.shape for name, value in values.items()}


def _traced(path: Path, example: Arrays) -> tuple[onnx.ModelProto, Arrays]:
    """The optimized graph, and the values of everything in it that depends on the inputs, inputs included."""
    with scratch_folder() as folder:
        options = session_options(1, weight_only=is_weight_only(load(path)))
        # "Extended" fuses like the default level, but without layouts that are specific to this machine's CPU.
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
    # Without optimization now: it would fuse away some of the values that are asked for.
    options = session_options(1, weight_only=False)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = feed(opened, example)
    return model, taken | dict(zip(names, opened.run(names, taken), strict=True))


def _first(opened: ort.InferenceSession, examples: Arrays) -> Arrays:
    """The inputs of a session for the first of the examples."""
    return batching.take(ports(opened), feed(opened, examples), slice(0, 1))


# ── Timing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict(ratio: float, low: float, high: float) -> Verdict:
    """Return "faster" or "slower" if the interval excludes 1 and the ratio exceeds `TIE`, else "no difference"."""
    if high < 1 and ratio < 1 / (1 + TIE):
        return "faster"
    if low > 1 and ratio > 1 + TIE:
        return "slower"
    return "no difference"


@dataclass(frozen=True)
class Timings:
    """Timings of one process.

    Attributes:
        blocks_ms: Median call of each block in milliseconds, (rounds, files).
        calls_ms: Milliseconds of all calls, one array per file.
    """

    blocks_ms: np.ndarray
    calls_ms: tuple[np.ndarray, ...]


def latency(
    paths: Mapping[str, Path], example: Arrays, *, processes: int = 5, rounds: int = 24, seed: int = 0
) -> dict[str, Latency]:
    """Compare the latency of files with the first one, at batch size 1 on one thread.

    Args:
        paths: Files by name.
        example: Inputs by name; the first example is used.
        processes: Number of fresh processes, one after the other, for evidence. With 0 the current process is used, in
            about rounds × files × 4 ms, for decisions during a search or stage.
        rounds: Rounds per process; each round times one block of each file.
        seed: Seed of the bootstrap.
    """
    return _compare(paths, [example] * len(paths), processes=processes, rounds=rounds, seed=seed)


def bench(paths: Sequence[Path], *, processes: int = 5, rounds: int = 24, seed: int = 0) -> dict[str, Latency]:
    """Compare the latency of any ONNX files with the first one, on random inputs.

    Args:
        paths: The files.
        processes: Number of fresh processes; 0 for the current one.
        rounds: Rounds per process.
        seed: Seed of the inputs and of the bootstrap.

    Returns:
        Latencies by path.

    Raises:
        BadInput: If a file is missing, damaged, keeps data in another file, or is named twice.
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
    # Microseconds of two runs are never compared: only ratios within one round, where both files met the same machine.
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
    """Return the 95 % bootstrap interval of the median ratio.

    Processes are resampled first, then rounds within each: rounds of one process share its memory layout and are not
    independent.

    Args:
        ratios: Ratios of the rounds, one array per process.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.
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
    """Time files in turns, in this process, on the first example of each.

    Each round has one block of calls per file, in rotating order.

    Args:
        files: The files.
        feeds: Inputs of each file, by name.
        rounds: Number of rounds.
    """
    sessions = [session(path) for path in files]
    inputs = [_first(opened, given) for opened, given in zip(sessions, feeds, strict=True)]
    blocks = np.empty((rounds, len(files)))
    calls: list[list[np.ndarray]] = [[] for _ in files]
    with _one_core():
        counts = [_calls_a_block(opened, given) for opened, given in zip(sessions, inputs, strict=True)]
        for turn in range(rounds):
            for step in range(len(files)):
                i = (turn + step) % len(files)  # rotating, so that no file always follows the same one
                taken = _time_calls(sessions[i], inputs[i], counts[i])
                blocks[turn, i] = np.median(taken)
                calls[i].append(taken)
    return Timings(blocks, tuple(np.concatenate(one) for one in calls))


def _time_calls(opened: ort.InferenceSession, given: Arrays, n_calls: int) -> np.ndarray:
    """Milliseconds of each call, (n_calls,). The first call, on cold caches, is not counted."""
    opened.run(None, given)
    taken = np.empty(n_calls)
    for i in range(n_calls):
        start = time.perf_counter_ns()
        opened.run(None, given)
        taken[i] = (time.perf_counter_ns() - start) / 1e6
    return taken


def _calls_a_block(opened: ort.InferenceSession, given: Arrays) -> int:
    _time_calls(opened, given, 3)  # warm up: the first calls allocate memory
    one_ms = float(np.median(_time_calls(opened, given, 5)))
    return int(np.clip(BLOCK_SECONDS * 1e3 / one_ms, 1, 200))


@contextmanager
def _one_core() -> Iterator[None]:
    """Pin this thread to one core inside the block; only on Linux."""
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
        (folder / "wanted.json").write_text(json.dumps({"files": names, "rounds": rounds}), encoding="utf-8")
        done = subprocess.run(
            # -P: a file named like a module in the user's folder must not be imported instead of it.
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
    wanted = json.loads((folder / "wanted.json").read_text(encoding="utf-8"))
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
