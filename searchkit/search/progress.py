"""Where a search stands, told to whoever watches it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from searchkit.context import Context
from searchkit.search.settings import Progress, SearchSettings, Status
from searchkit.search.study import FAILED, REJECTED, TRAINED, UNTOLD, TrialStore


@dataclass
class Reporter:
    """Tells the progress callback, from the study.

    Attributes:
        ctx: Gives the goal and the deadline.
        settings: Gives the budget.
        store: The study.
        progress: Is called with each `Status`.
        n_running: Rungs in flight; the loop keeps it up to date.
    """

    ctx: Context
    settings: SearchSettings
    store: TrialStore
    progress: Progress
    n_running: int = 0

    @property
    def n_trials(self) -> int:
        """Trials of the budget."""
        return self.settings.budget.trials

    @property
    def minimized(self) -> str | None:
        """The name of the cost that is minimized."""
        return self.settings.cost

    def n_open(self) -> int:
        """Trials of the budget that have not been started."""
        return self.n_trials - sum(1 for status in self.statuses() if status in (TRAINED, FAILED, UNTOLD))

    def statuses(self) -> list[str | None]:
        """Of all trials, in order of their numbers."""
        return [t.user_attrs.get("status") for t in self.store.trials()]

    def report(self, note: str = "") -> None:
        """Tell where the search stands.

        Args:
            note: One line worth a look, or empty.
        """
        trials, goal = self.store.trials(), self.ctx.task.goal
        statuses = [t.user_attrs.get("status") for t in trials]
        trained = [t for t in trials if t.user_attrs.get("status") == TRAINED]
        values = [t.values[0] for t in trained if t.values]
        best = (max if goal.direction == "maximize" else min)(values) if values else None
        spent = [t.user_attrs["seconds"] for t in trained]
        done = len(trained) + statuses.count(FAILED)
        to_go = max(0, self.n_trials - done)
        self.progress(
            Status(
                done=done,
                trials=self.n_trials,
                running=self.n_running,
                rejected=statuses.count(REJECTED),
                failed=statuses.count(FAILED),
                best=best,
                seconds_left=self.ctx.deadline.left(),
                seconds_to_go=statistics.median(spent) * to_go / self.settings.workers if spent else None,
                note=note,
            )
        )
