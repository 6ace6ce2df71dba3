"""The parts of report.json that figures are drawn from, as plain dicts: what the file holds, typed for who reads it."""

from __future__ import annotations

from typing import TypedDict

from searchkit.report.formatting import Comparison, Timing


class PointRow(TypedDict):
    """See `searchkit.report.records.FrontPoint`."""

    space: str
    number: int
    value: float
    cost: float
    on_front: bool
    chosen: bool


class StepRow(TypedDict):
    """See `searchkit.report.records.FrontStep`."""

    stage: str
    value: float
    cost: float


class FrontRows(TypedDict):
    """See `searchkit.report.records.Front`."""

    cost: str
    points: list[PointRow]
    line: list[StepRow]
    minimized: str | None


class SearchedRow(TypedDict):
    """What a figure needs of a `searchkit.report.records.TrialRow`."""

    space: str
    number: int
    way: str
    value: float | None
    whole: bool


class HistoryRows(TypedDict):
    """What a figure needs of `searchkit.report.records.SearchRows`."""

    trials: list[SearchedRow]
    best_so_far: list[tuple[int, float]]
    random_so_far: list[tuple[int, float]]


class CurveRow(TypedDict):
    """See `searchkit.report.records.Curve`."""

    name: str
    named: bool
    points: list[dict[str, float]]
    metric: str


class FileRow(TypedDict):
    """What a figure needs of a `searchkit.report.records.StageRow`."""

    name: str
    is_reference: bool
    difference: Comparison
    latency: Timing


class PictureRows(TypedDict):
    """Pictures by the name of their row, base64. shape: (n, height, width, channels)."""

    shape: tuple[int, int, int, int]
    rows: dict[str, str]


class LayerRow(TypedDict):
    """A layer before and after pruning."""

    name: str
    params_before: int
    params_after: int
