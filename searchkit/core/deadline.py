"""A point in time by which work has to end."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A point in time on the monotonic clock, so that a change of the system's time does not move it.

    Attributes:
        at: Seconds of `time.monotonic()`; infinity never comes.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Make a deadline `seconds` from now; `math.inf` gives one that never comes."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self.at - time.monotonic())
