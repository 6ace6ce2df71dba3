"""How few examples are too few."""

from __future__ import annotations

MIN_ROWS = 10
