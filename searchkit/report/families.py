"""The families of a search beside each other: what each got of the budget, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchkit.core.goal import Goal
from searchkit.core.serialization import JSON
from searchkit.report.records import FamilyRow, Front
from searchkit.search.results import HistoryRow


def family_rows(
    searches: Mapping[str, Mapping[str, JSON]], trials: Sequence[HistoryRow], goal: Goal, front: Front
) -> tuple[FamilyRow, ...]:
    """A row a family, the best first; empty if the search has one family alone.

    Args:
        searches: As `results.searches` gives them: the families, and why one was left out.
        trials: As `results.history` gives them.
        goal: Of the search.
        front: Says which trials are on the front.
    """
    if len(searches) < 2:
        return ()
    seconds = sum(trial["seconds"] or 0.0 for trial in trials)
    on_front = {(point.space, point.number) for point in front.points if point.on_front}
    rows = []
    for name, about in searches.items():
        own = [trial for trial in trials if trial["space"] == name]
        scored = [(goal.loss(value), t["number"], t) for t in own if (value := t["value"]) is not None]
        best = min(scored, key=lambda row: row[:2])[2] if scored else None
        spent = sum(trial["seconds"] or 0.0 for trial in own)
        rows.append(
            FamilyRow(
                name=name,
                n_trained=len(scored),
                n_failed=sum(trial["status"] == "failed" for trial in own),
                n_rejected=sum(trial["status"] == "rejected" for trial in own),
                n_on_front=sum((name, trial["number"]) in on_front for trial in own),
                best=None if best is None else best["value"],
                trial=None if best is None else best["number"],
                cost={} if best is None else best["cost"],
                seconds=spent,
                share=spent / seconds if seconds else 0.0,
                left_out=about.get("left_out"),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.best is None, 0.0 if row.best is None else goal.loss(row.best))))
