"""Quantize: int8 in several ways, each measured on this machine, the best under the limits taken.

int8 does not make every network faster: what ONNX Runtime has no int8 kernel for stays fp32, and below some 100k
parameters the conversions cost more than they save. So nothing is assumed: each candidate is a file that is scored on
val, weighed and timed beside the fp32 file, and if int8 is slower the notes say by how much and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from searchkit.core import batching
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput, Inapplicable, NothingFeasible
from searchkit.core.estimates import TIE
from searchkit.core.goal import Evaluation, Tolerance
from searchkit.core.scratch import scratch_folder
from searchkit.core.space import Limits
from searchkit.core.stage import StageContext
from searchkit.onnx import int8, measure
from searchkit.onnx import io as onnx_io
from searchkit.onnx.arithmetic import arithmetic
from searchkit.onnx.predictor import OnnxPredictor
from searchkit.onnx.weight_only import weight_only
from searchkit.tasks.metrics import errors_to_nearest

METHODS = ("static", "dynamic", "weight-only")

CLEARLY = 1.25
"""A larger file is preferred for its speed when it is at least so much faster, and at most so much larger. Timing on a
shared machine cannot tell less (10–25 % are a tie)."""

ROWS_A_BATCH = 32


@dataclass(frozen=True)
class Quantize:
    """Make the file int8 in several ways, measure each, and take the best.

    Attributes:
        methods: The candidates, of METHODS.
        max_drop: Of a metric that is maximized, absolute: .005 is half a point of accuracy.
        max_rise: Of an error, relative: .02 is 2 % of it.
        calibration_rows: Rows of train that set the ranges of the static candidate.
    """

    methods: tuple[str, ...] = METHODS
    max_drop: float = 0.005
    max_rise: float = 0.02
    calibration_rows: int = 512

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise BadInput(f"No way to quantize named '{''.join(unknown[:1])}'; the ways are {', '.join(METHODS)}.")

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """The int8 file that `choose` takes.

        Raises:
            Inapplicable: No int8 file is smaller, or none meets limits that the fp32 file meets.
            NothingFeasible: No file meets the limits.
        """
        fp32 = ctx.model_path(artifact)
        example = batching.take(ctx.task.inputs, ctx.task.raw("val"), slice(0, 1))
        with scratch_folder() as folder:
            paths = {method: folder / f"{method}.onnx" for method in self.methods}
            for method, path in paths.items():
                self._write(method, fp32, path, ctx)
            reference, candidates = measured(fp32, paths, example, ctx)
            tolerance = Tolerance(ctx.task.goal, self.max_drop, self.max_rise)
            chosen, reason = choose(candidates, reference, tolerance, ctx.limits)
            notes = {
                "candidates": [asdict(candidate) for candidate in candidates],
                "fp32": asdict(reference),
                "chosen": chosen.method,
                "reason": reason,
                "slower_because": slower_because(chosen, reference),
                "op_counts": onnx_io.op_counts(paths[chosen.method]),
            }
            return ctx.save(ctx.child(artifact, self), None, model=paths[chosen.method], notes=notes)

    def _write(self, method: str, source: Path, target: Path, ctx: StageContext) -> None:
        if method == "static":
            arrays = calibration(ctx.task.inputs, ctx.task.raw("train"), self.calibration_rows)
            int8.static(source, target, arrays)
        elif method == "dynamic":
            int8.dynamic(source, target)
        else:
            weight_only(source, target)


def calibration(ports: Sequence[TensorSpec], arrays: Arrays, n_rows: int) -> Iterator[Arrays]:
    """Examples spread evenly over arrays, a batch at a time.

    Args:
        ports: How examples lie in the arrays.
        arrays: By the port's name.
        n_rows: Examples, at most.
    """
    total = batching.count(ports, arrays)
    # All examples share one graph, which cannot be cut into batches.
    if total is None:
        yield arrays
        return
    rows = np.unique(np.linspace(0, total - 1, min(n_rows, total)).astype(int))
    for start in range(0, len(rows), ROWS_A_BATCH):
        yield batching.take(ports, arrays, rows[start : start + ROWS_A_BATCH])


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Int8Variant:
    """A file as it would be shipped, on val and on this machine.

    Attributes:
        method: One of METHODS, or "fp32".
        metric: The goal's value.
        size_bytes: Of the file.
        latency_ms: The median at batch 1 on one thread.
        latency_ratio: To the fp32 file.
        latency_low: Of the ratio's 95 % interval.
        latency_high: Of the ratio's 95 % interval.
        latency_verdict: "faster", "slower" or "no difference".
        agreement: Share of the examples with the decision of the fp32 file.
        int8_share: Of the multiply-accumulates, those in int8.
        stayed_fp32: Weighted operators that did, by type, with their number.
        error: The standard error of the metric's difference to that of the fp32 file, in pairs.
    """

    method: str
    metric: float
    size_bytes: int
    latency_ms: float
    latency_ratio: float
    latency_low: float
    latency_high: float
    latency_verdict: str
    agreement: float
    int8_share: float
    stayed_fp32: dict[str, int]
    error: float = 0.0


def measured(
    fp32: Path, paths: dict[str, Path], example: Arrays, ctx: StageContext
) -> tuple[Int8Variant, list[Int8Variant]]:
    """The fp32 file and the candidates, timed together in one interleaved session in this process."""
    # The fp32 file comes first: ratios are to the first file, and agreement is with the first evaluation.
    files, spec = {"fp32": fp32, **paths}, ctx.task.spec
    latency = measure.latency(files, example, processes=0)
    own: Evaluation | None = None
    found = []
    for method, path in files.items():
        evaluation = ctx.task.evaluate(OnnxPredictor(path), "val")
        own = own or evaluation
        time, where = latency[method], arithmetic(path, example)
        found.append(
            Int8Variant(
                method=method,
                metric=evaluation.metrics[ctx.task.goal.metric],
                size_bytes=measure.size_bytes(path),
                latency_ms=time.p50_ms,
                latency_ratio=time.ratio,
                latency_low=time.low,
                latency_high=time.high,
                latency_verdict=time.verdict,
                agreement=agreement(
                    evaluation,
                    own,
                    pooled=spec.reconstructs or spec.generates,
                    by_step=spec.by_step,
                    paired=not spec.generates,
                ),
                int8_share=where.int8_share,
                stayed_fp32=where.fp32,
                error=ctx.task.goal.standard_error(evaluation.scores, own.scores),
            )
        )
    return found[0], found[1:]


def agreement(
    own: Evaluation, reference: Evaluation, *, pooled: bool, by_step: bool = False, paired: bool = True
) -> float:
    """The share of examples answered alike: the same classes, or values that differ by no more than the reference errs.

    Args:
        own: Of the file.
        reference: Of the fp32 file, on the same examples.
        pooled: Whether one error counts over all values of an example, which share a unit; else one each.
        by_step: Whether it is the share of steps instead, each a class; a target of −1 is no step.
        paired: Whether each example has a truth of its own; else it errs by its distance to the nearest target.
    """
    n, decisions = len(reference.decisions), reference.decisions
    if by_step:
        return float(np.mean((own.decisions == decisions)[reference.targets >= 0]))
    if decisions.dtype.kind in "iub":
        return float(np.mean((own.decisions == decisions).reshape(n, -1).all(axis=1)))
    gap = np.square(own.decisions - decisions, dtype=np.float64).reshape(n, -1)
    if paired:
        error = np.square(decisions - reference.targets, dtype=np.float64).reshape(n, -1)
    else:
        error = errors_to_nearest(decisions, reference.targets)
    # One number for all values of an example, or (d,), one each. 1e-100 stands for a reference without any error: only
    # equal answers agree with it, and 0/0 would be NaN.
    allowed = error.mean(axis=None if pooled else 0)
    return float(np.mean((gap / np.maximum(allowed, 1e-100)).mean(axis=1) <= 1))


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def choose(
    candidates: Sequence[Int8Variant], reference: Int8Variant, tolerance: Tolerance, limits: Limits
) -> tuple[Int8Variant, str]:
    """The candidate to ship and the reason in a sentence.

    The rule, all of it:

    1. It is smaller than the fp32 file; if none is, Inapplicable. It meets the hard limits, a latency that is a tie
       with its limit included; if none does, Inapplicable if the fp32 file does, else NothingFeasible.
    2. It is as good as the fp32 file within the tolerance, or by less than val can tell (`Tolerance.admits`); or no
       worse in the metric than one that is: noise of its own must not help a file.
       If none is, the best in the metric is taken; but if that is slower than fp32, the best of those that are
       not and that val cannot tell from it.
    3. Of those, the smallest file; but one at most CLEARLY times as large and CLEARLY times as fast goes first.

    Raises:
        Inapplicable: See rule 1.
        NothingFeasible: See rule 1.
    """
    smaller = [c for c in candidates if c.size_bytes < reference.size_bytes]
    if not smaller:
        least = min(candidates, key=lambda c: c.size_bytes)
        raise Inapplicable(
            f"int8 does not shrink this file: fp32 has {reference.size_bytes:,} bytes, the smallest int8 file "
            f"({least.method}) {least.size_bytes:,}"
        )
    fitting = [c for c in smaller if _fits(c, limits)]
    if not fitting:
        listed = "; ".join(f"{c.method} {c.size_bytes:,} bytes, {c.latency_ms:.3g} ms" for c in smaller)
        if _fits(reference, limits):
            raise Inapplicable(f"the fp32 file meets the limits and no int8 file does: {listed}")
        raise NothingFeasible(f"No int8 file meets the limits: {listed}. Loosen --max-size or --max-latency.")
    chosen, reason = _best(fitting, reference, tolerance)
    if limits.latency_ms is not None and chosen.latency_ms > limits.latency_ms:
        reason += f" Its {chosen.latency_ms:.3g} ms are a tie with the limit of {limits.latency_ms:.3g} ms."
    return chosen, reason


def _fits(candidate: Int8Variant, limits: Limits) -> bool:
    """The search has held the limits before; between its timing and this one the machine alone gives TIE."""
    measured = {"size_bytes": candidate.size_bytes, "latency_ms": candidate.latency_ms / (1 + TIE)}
    return not limits.breaches(measured)


def _best(fitting: Sequence[Int8Variant], reference: Int8Variant, tolerance: Tolerance) -> tuple[Int8Variant, str]:
    """Rules 2 and 3."""
    metric = tolerance.goal.metric
    loss = tolerance.goal.loss
    admitted = [loss(c.metric) for c in fitting if tolerance.admits(c.metric, reference.metric, error=c.error)]
    if not admitted:
        return _least_bad(fitting, reference, tolerance)
    good = [c for c in fitting if loss(c.metric) <= max(admitted)]
    # Of equally large files the better in the metric comes first, then weight-only before dynamic before static.
    by_size = sorted(good, key=lambda c: (c.size_bytes, loss(c.metric), -METHODS.index(c.method)))
    smallest = chosen = by_size[0]
    for other in by_size:
        if other.size_bytes <= CLEARLY * smallest.size_bytes and CLEARLY * other.latency_ratio <= chosen.latency_ratio:
            chosen = other
    if chosen is smallest:
        return smallest, (
            f"{smallest.method} is the smallest file that keeps {metric} within the tolerance: {smallest.metric:.4g} "
            f"(fp32 {reference.metric:.4g})."
        )
    return chosen, (
        f"{chosen.method} is {smallest.latency_ratio / chosen.latency_ratio:.2g} times as fast as the smallest file "
        f"({smallest.method}) and {chosen.size_bytes / smallest.size_bytes:.2f} times as large, with {metric} "
        f"{chosen.metric:.4g} (fp32 {reference.metric:.4g})."
    )


def _least_bad(fitting: Sequence[Int8Variant], reference: Int8Variant, tolerance: Tolerance) -> tuple[Int8Variant, str]:
    """Rule 2 if none is as good as the fp32 file."""
    metric = tolerance.goal.metric
    by_metric = sorted(fitting, key=lambda c: (tolerance.goal.loss(c.metric), c.size_bytes))
    best = by_metric[0]
    reason = (
        f"No candidate keeps {metric} within the tolerance of fp32 ({reference.metric:.4g}); {best.method} comes "
        f"closest with {best.metric:.4g}."
    )
    alike = [c for c in by_metric if tolerance.admits(c.metric, best.metric, error=c.error)]
    chosen = next((c for c in alike if c.latency_verdict != "slower"), best)
    if chosen is not best:
        reason += (
            f" {chosen.method} is taken, with {chosen.metric:.4g}: it keeps to that within what val can tell, and is "
            f"not slower than fp32, where {best.method} takes {best.latency_ratio:.3g} times as long."
        )
    return chosen, reason


def slower_because(chosen: Int8Variant, reference: Int8Variant) -> str | None:
    """Why the chosen file is slower than fp32 here, and by how much, in a sentence; None if it is not."""
    if chosen.latency_verdict != "slower":
        return None
    by = (
        f"{chosen.method} takes {chosen.latency_ratio:.2f} times as long as fp32 here "
        f"({chosen.latency_low:.2f} to {chosen.latency_high:.2f}; {chosen.latency_ms:.3g} ms a call)"
    )
    stayed = ", ".join(f"{n} {name}" for name, n in chosen.stayed_fp32.items())
    if chosen.method == "weight-only":
        return f"{by}: its arithmetic is fp32 by design, only the file is smaller."
    if chosen.int8_share >= 0.9:
        return (
            f"{by}: {chosen.int8_share:.0%} of its multiply-accumulates run in int8, but a network that takes "
            f"{reference.latency_ms:.3g} ms is too small to gain what converting its activations costs."
        )
    return (
        f"{by}: only {chosen.int8_share:.0%} of its multiply-accumulates run in int8 ({stayed} stayed fp32, for which "
        "ONNX Runtime has no int8 kernel in this form), and the conversions around them cost time."
    )
