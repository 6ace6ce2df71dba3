"""Compare two predictors: an exported file with its network, or a file with its compressed version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import GateFailed
from searchkit.core.goal import Predict
from searchkit.core.task import Task
from searchkit.onnx.io import MEMORY, PAST, feed, session


@dataclass(frozen=True, slots=True)
class Parity:
    """The result of comparing two predictors on the same examples.

    Attributes:
        max_abs: Largest absolute difference, in the unit of the outputs.
        max_rel: The same relative to the largest output of the second predictor.
        argmax: Share of examples with the same argmax over the last axis; 1 if there is only one output value.
        n: Number of examples.
        worst: Index of the example with the largest difference.
        agrees: Whether every difference is within the tolerance.
    """

    max_abs: float
    max_rel: float
    argmax: float
    n: int
    worst: int
    agrees: bool


COMPARED_AT_ONCE = 64
"""Examples whose outputs are in memory at once."""


def parity(
    a: Predict,
    b: Predict,
    arrays: Arrays,
    *,
    ports: tuple[TensorSpec, ...] = (),
    atol: float = 1e-4,
    rtol: float = 1e-3,
) -> Parity:
    """Compare two predictors on every example.

    They agree if |a − b| ≤ atol · max(1, RMS of b) + rtol · |b| everywhere, and all values are finite. fp32 sums in
    another order stay two orders of magnitude below this (measured: 6e-7 on probabilities, over 19 families), and a
    wrong operator is three above. The RMS adapts the tolerance to outputs in a large unit (diabetes: about 150).

    Args:
        a: The predictor to check.
        b: The reference.
        arrays: Inputs by name.
        ports: Specs of the inputs. With them, examples are compared in batches, which keeps memory low for outputs with
            a large vocabulary at each step; without, all at once.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
    """
    whole: Parity | None = None
    for part in batching.batches(ports, arrays, COMPARED_AT_ONCE) if ports else (arrays,):
        found = _parity(a(part), b(part), atol, rtol)
        whole = found if whole is None else _joined(whole, found)
    assert whole is not None, "there are no examples"
    return whole


def require_parity(a: Predict, b: Predict, task: Task, *, otherwise: str) -> Parity:
    """Compare two predictors on every example of val, and refuse what disagrees.

    Args:
        a: The file, or the network, that is to be used.
        b: What it must answer like.
        task: Gives val and how its examples lie.
        otherwise: A sentence: what follows from a disagreement.

    Raises:
        GateFailed: They disagree.
    """
    proof = parity(a, b, task.raw("val"), ports=task.inputs)
    if not proof.agrees:
        raise GateFailed(
            f"The exported file disagrees with the network: the answers differ by up to {proof.max_abs:.3g} (example "
            f"{proof.worst} of {proof.n} of val). {otherwise}"
        )
    return proof


def _joined(a: Parity, b: Parity) -> Parity:
    """The comparison of the examples of a, followed by those of b."""
    n = a.n + b.n
    share = (a.argmax * a.n + b.argmax * b.n) / n
    worst = a.worst if a.max_rel >= b.max_rel else a.n + b.worst
    return Parity(max(a.max_abs, b.max_abs), max(a.max_rel, b.max_rel), share, n, worst, a.agrees and b.agrees)


def _parity(answers_a: Arrays, answers_b: Arrays, atol: float, rtol: float) -> Parity:
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
    """Compare one call of a file with a cache with two calls, the second of which continues from the first.

    Args:
        path: The file.
        arrays: Inputs by name; the second axis of inputs and outputs counts the steps.
    """
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
    # In float64, and relative to the outputs' own size: a fixed tolerance would fail targets in the hundreds.
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
