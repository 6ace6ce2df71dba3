"""What a search counts of all its trials, kept up to date without looking at a finished trial twice.

A study of 10,000 trials is asked some times for each new trial: how many are open, which candidates are known. Counting
them all each time took longer than proposing.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

REJECTED, FAILED, TRAINED, UNTOLD, CUT_OFF = "rejected", "failed", "trained", "running", "cut off"
"""The statuses of a trial."""


@dataclass
class Tally:
    """Counts of the trials of one study.

    Attributes:
        trials: All of them, in order of their numbers, when they were last looked at.
        first: The number of the first trial of each candidate, by the candidate's key.
        seconds: Of training, of each trained trial, in ascending order.
        values: The least and the greatest value of the goal among trained trials; None before the first.
    """

    trials: Sequence[FrozenTrial] = ()
    first: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    values: tuple[float, float] | None = None
    _closed: Counter[str | None] = field(default_factory=Counter)
    _open: list[tuple[int, FrozenTrial]] = field(default_factory=list)
    _n_seen: int = 0

    def count(self, *statuses: str) -> int:
        """How many trials have one of these statuses."""
        return sum(self._closed[status] for status in statuses) + sum(
            1 for _, t in self._open if t.user_attrs.get("status") in statuses
        )

    def update_(self, trials: Sequence[FrozenTrial]) -> None:
        """Look at the trials that are new, and again at those that were running.

        Args:
            trials: All of the study, or of one of its families, in order of their numbers; other coordinators' too.
        """
        # By their places, which are not their numbers among the trials of one family.
        looked_at = [*(place for place, _ in self._open), *range(self._n_seen, len(trials))]
        self.trials, self._n_seen, self._open = trials, len(trials), []
        for place in looked_at:
            trial = trials[place]
            facts = trial.user_attrs
            if "key" in facts:
                self.first.setdefault(facts["key"], trial.number)
            if trial.state.is_finished():
                self._close_(trial)
            else:
                self._open.append((place, trial))

    def _close_(self, trial: FrozenTrial) -> None:
        status = trial.user_attrs.get("status")
        self._closed[status] += 1
        if status == TRAINED:
            insort(self.seconds, trial.user_attrs["seconds"])
            least, greatest = self.values or (trial.values[0],) * 2
            self.values = min(least, trial.values[0]), max(greatest, trial.values[0])
