"""What a line of a run's logs holds, field by field: of the search, and of a training's curve.

As in `searchkit.core.run_files`, only fields that some reader needs are required.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from searchkit.core.typed import Count, NotNegative


class CostRow(TypedDict):
    """A line of the search log: the measured cost of a candidate."""

    event: str
    space: str
    arch: str
    cost: dict[str, NotNegative]
    exported: bool
    seconds: NotNegative


class TrialRow(TypedDict):
    """A trial that was handed out, lost, cut off, failed."""

    event: str
    space: str
    trial: Count
    rung: Count
    at: NotRequired[NotNegative]
    reason: NotRequired[str]
    failure: NotRequired[str]


class RungRow(TrialRow):
    """A line of the search log: a trial reached a rung."""

    seconds: NotNegative
    epochs: Count
    loss: float


class Spendable(TypedDict):
    """The budget of a search, as a line of its log states it."""

    trials: Count
    seconds: NotNegative | None


class EndRow(TypedDict):
    """The last line of a search's log."""

    event: str
    space: str
    budget: Spendable


class Logged(TypedDict):
    """What every line of the search log has."""

    event: str


SEARCH_LOG = "search.jsonl"

EVENTS: dict[str, Any] = {
    "cost": CostRow, "dispatch": TrialRow, "lost": TrialRow, "cut off": TrialRow, "failed": TrialRow, "rung": RungRow,
    "trained": RungRow, "end": EndRow,
}  # fmt: skip


class Epoch(TypedDict):
    """A row of a learning curve."""

    epoch: Count
    loss: NotRequired[float]
    seconds: NotRequired[NotNegative]
    thread_seconds: NotRequired[NotNegative]
    steps: NotRequired[Count]
    val: NotRequired[float | None]
    candidate: NotRequired[str]
    step: NotRequired[Count]
