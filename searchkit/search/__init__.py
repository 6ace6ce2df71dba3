"""Search: one coordinator, a study, rungs as jobs, and executors that train them. Imports no torch."""

from searchkit.interrupt import Interrupted
from searchkit.search.coordinator import search
from searchkit.search.results import failures, history, importances, random_so_far, searches, winners
from searchkit.search.settings import (
    EXECUTORS,
    SAMPLERS,
    Progress,
    SearchSettings,
    SearchStopped,
    Status,
)

__all__ = [
    "EXECUTORS",
    "SAMPLERS",
    "Interrupted",
    "Progress",
    "SearchSettings",
    "SearchStopped",
    "Status",
    "failures",
    "history",
    "importances",
    "random_so_far",
    "search",
    "searches",
    "winners",
]
