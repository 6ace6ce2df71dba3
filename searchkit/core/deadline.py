"""A moment on the monotonic clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock; `Deadline.after(math.inf)` never comes."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self.at - time.monotonic())
