"""The plan of a search's time: how it trains, and what one candidate may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from searchkit.core.typed import OneOf, Range
from searchkit.search.fidelity import Reduced


@dataclass(frozen=True)
class TimePlan:
    """How a search trains, and what one candidate may take of its time.

    Attributes:
        precision: "fp32" or "bf16".
        channels_last: Whether pictures and volumes lie in memory with their channels last.
        epochs: Of a trial that reaches the last rung.
        most_macs: Multiply-accumulates above which a candidate is refused untimed; None if time is no limit.
        most_seconds: Of a candidate's whole training; None if time is no limit.
        trials: About how many the time holds; None if time is no limit.
        own_work: Seconds of an example that the task's own training takes beside a step of the loss, for a critic or an
            environment, whatever the candidate.
        middle_trials: How many trials of the middle candidate the time holds, if those are fewer than `FEWEST` and
            fewer than the budget asks for; else None.
        enough_seconds: What the search would need for `FEWEST` of them; None beside a `middle_trials` of None.
        data_parts: The part of the training data that each rung trains on; None is all of it at each.
        sides: Of the length of a picture's sides, at each rung; None is all of it at each.
    """

    precision: Annotated[str, OneOf(("fp32", "bf16"))]
    channels_last: bool
    epochs: Annotated[int, Range(1)]
    most_macs: Annotated[int | None, Range(0)] = None
    most_seconds: Annotated[float | None, Range(0, open=True)] = None
    trials: Annotated[int | None, Range(1)] = None
    own_work: Annotated[float, Range(0)] = 0.0
    middle_trials: Annotated[int | None, Range(0)] = None
    enough_seconds: Annotated[float | None, Range(0, open=True)] = None
    data_parts: tuple[Annotated[float, Range(0, 1)], ...] | None = None
    sides: tuple[Annotated[float, Range(0, 1)], ...] | None = None

    @property
    def seen(self) -> Reduced | None:
        """What each rung sees of the data; None is all."""
        if self.data_parts is None or self.sides is None:
            return None
        return Reduced(self.data_parts, self.sides)
