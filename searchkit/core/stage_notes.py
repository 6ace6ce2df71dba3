"""What stages note in their artifacts for the report, field by field: the types by which the notes are read.

See `searchkit.core.run_files`, which has the other files of a run.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from searchkit.core.typed import Count, NotNegative, OneOf, Share


class FinalNotes(TypedDict):
    """What the final training notes: the winner's val metric before and after it, and which weights were kept."""

    epochs: Count
    before: float
    after: float
    kept: Annotated[str, OneOf(("before", "after"))]


class DistillNotes(TypedDict):
    """What Distill notes: the candidates' val metric, and which one was kept."""

    candidates: dict[str, float]
    kept: str
    teachers: Count


class PruneStep(TypedDict):
    """One step of Prune."""

    params: Count | NotNegative
    raw: float
    val: float


class LayerFacts(TypedDict):
    """A layer before and after pruning."""

    name: str
    kind: str
    before: list[Count]
    after: list[Count]
    params_before: Count
    params_after: Count


class PruneNotes(TypedDict):
    """What Prune notes: the cost before and after, its steps and layers."""

    by: str
    before: NotNegative
    after: NotNegative
    target: NotNegative
    steps: list[PruneStep]
    layers: list[LayerFacts]


class FileFacts(TypedDict):
    """A candidate of int8, or fp32 beside them."""

    method: str
    metric: float
    size_bytes: Count
    latency_ms: NotNegative
    latency_ratio: NotNegative
    latency_low: NotNegative
    latency_high: NotNegative
    latency_verdict: str
    agreement: Share
    int8_share: Share
    stayed_fp32: dict[str, Count]


class QuantizeNotes(TypedDict):
    """What Quantize notes: every int8 file that was tried, and the fp32 file."""

    candidates: list[FileFacts]
    fp32: FileFacts
    chosen: str
    reason: str
    slower_because: str | None


NOTES: dict[str, Any] = {
    "Final": FinalNotes,
    "Distill": DistillNotes,
    "Prune": PruneNotes,
    "Quantize": QuantizeNotes,
}
"""What the report reads of a stage's notes."""
