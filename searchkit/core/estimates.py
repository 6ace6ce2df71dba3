"""Estimates with their intervals, and comparisons of two files, as evidence.json keeps them and the report shows them.

`searchkit.evaluation.statistics` and `searchkit.onnx.measure` make them. They stand here, apart from both, so that what
only reads a run, such as `status`, loads neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from searchkit.core.typed import Count, NotNegative, Positive, Range, Share

Verdict = Literal["faster", "slower", "no difference"]

TIE = 0.10
"""Latency ratios within 1/1.1 … 1.1 are a tie even if the interval excludes 1: the machine alone varies that much."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
        value: The estimate.
        low: The interval's lower end.
        high: The interval's upper end.
        method: wilson, bca, percentile or bonett-price; "of groups" is added if whole groups were resampled.
        n: Examples.
    """

    value: float
    low: float
    high: float
    method: str
    n: Annotated[int, Range(1)]


@dataclass(frozen=True, slots=True)
class Difference:
    """`a` − `b` on the same examples.

    Attributes:
        value: The estimate.
        low: Of the 95 % interval.
        high: Of the 95 % interval.
        method: As in `Interval`.
        n: Examples.
        indistinguishable: Whether the interval holds 0.
        better: Whether `a` is better in the goal's direction; None if the interval does not say.
    """

    value: float
    low: float
    high: float
    method: str
    n: Annotated[int, Range(1)]
    indistinguishable: bool
    better: bool | None


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test (1947). only_a, only_b: examples that only the one got right; p: exact, two-sided; 1 if none."""

    only_a: Count
    only_b: Count
    p: Share


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one file compared with the first.

    Attributes:
        p50_ms: Median milliseconds per call, at batch size 1 on one thread.
        p95_ms: 95th percentile of the same.
        ratio: Median over rounds of this file's block median divided by the first file's. Below 1 is faster.
        low: Lower bound of the 95 % interval of the ratio.
        high: Upper bound.
        processes: Number of fresh processes; 0 for the current one.
        rounds: Rounds per process.
        verdict: "faster", "slower" or "no difference".
    """

    p50_ms: NotNegative
    p95_ms: NotNegative
    ratio: Positive
    low: Positive
    high: Positive
    processes: Count
    rounds: Count
    verdict: Verdict
