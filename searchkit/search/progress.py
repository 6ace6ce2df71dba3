"""Where a search stands, told to whoever watches it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from searchkit.context import Context
from searchkit.search.settings import Progress, SearchSettings, Status
from searchkit.search.study import TrialStore
from searchkit.search.tally import FAILED, REJECTED, TRAINED, UNTOLD


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
        return self.n_trials - self.store.tally().count(TRAINED, FAILED, UNTOLD)

    def statuses(self) -> list[str | None]:
        """Of all trials, in order of their numbers."""
        return [t.user_attrs.get("status") for t in self.store.trials()]

    def report(self, note: str = "") -> None:
        """Tell where the search stands.

        Args:
            note: One line worth a look, or empty.
        """
        tally, goal = self.store.tally(), self.ctx.task.goal
        best = None if tally.values is None else tally.values[goal.direction == "maximize"]
        n_failed = tally.count(FAILED)
        done = tally.count(TRAINED) + n_failed
        to_go = max(0, self.n_trials - done)
        spent = tally.seconds
        self.progress(
            Status(
                done=done,
                trials=self.n_trials,
                running=self.n_running,
                rejected=tally.count(REJECTED),
                failed=n_failed,
                best=best,
                seconds_left=self.ctx.deadline.left(),
                seconds_to_go=statistics.median(spent) * to_go / self.settings.workers if spent else None,
                note=note,
            )
        )
