"""The settings of a small search."""

from __future__ import annotations

from typing import Any

from searchkit.core.space import Budget
from searchkit.search.settings import SearchSettings

BUDGET = Budget(trials=6, epochs=2, rungs=2, eta=2, least_rung_steps=1)


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**{"budget": BUDGET, "precision": "fp32", **changes})
