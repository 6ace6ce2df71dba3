"""Asking where several families share one search: a bandit says whose turn it is, that family's sampler proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from searchkit.search.asking import Asker
from searchkit.search.bandit import Pull, Rule, choose
from searchkit.search.fidelity import data_epochs
from searchkit.search.fronts import losses_of
from searchkit.search.progress import Reporter
from searchkit.search.sampler import Directions
from searchkit.search.study import FAMILY, TrialStore
from searchkit.search.tally import FAILED, TRAINED, UNTOLD
from searchkit.search.trial_lifecycle import Course


@dataclass
class FamilyAsker:
    """Asks one family after another, as the bandit says.

    Attributes:
        echo: Tells the user a line.
        seconds_left: Of the search.
        askers: By family.
        courses: How the trials of each family are trained.
        store: The study that they share, all trials in it.
        reporter: Knows how many trials the budget has left.
        directions: Of the objectives.
        rule: How the trials are shared out.
    """

    echo: Callable[[str], None]
    seconds_left: Callable[[], float]
    askers: Mapping[str, Asker]
    courses: Mapping[str, Course]
    store: TrialStore
    reporter: Reporter
    directions: Directions
    rule: Rule

    def next_trial(self) -> FrozenTrial | None:
        """A new trial of the family whose turn it is, stored as running; None if the search is to end."""
        while self.reporter.n_open() > 0 and self.seconds_left() > 0:
            families = [name for name, asker in self.askers.items() if not asker.exhausted]
            if not families:
                self.echo(f"the search ends before {self.reporter.n_trials} trials: no family has another network")
                return None
            trials = self.store.trials()
            pulls = [self._pull(t) for t in trials if t.user_attrs.get("status") in (TRAINED, FAILED, UNTOLD)]
            asker = self.askers[choose(families, pulls, self.rule, call=len(trials))]
            trial = asker.next_trial()
            if trial is not None or not asker.exhausted:
                return trial
        return None

    def _pull(self, trial: FrozenTrial) -> Pull:
        """A trial that was trained, could not be, or is running."""
        facts = trial.user_attrs
        if facts["status"] != TRAINED:
            return Pull(facts[FAMILY], None, facts["status"] == FAILED)
        return Pull(facts[FAMILY], losses_of(trial, self.directions), True, self._whole_seconds(trial))

    def _whole_seconds(self, trial: FrozenTrial) -> float:
        """What a trained trial would have taken if it had gone to the last rung: stopped ones only look cheap."""
        facts, course = trial.user_attrs, self.courses[trial.user_attrs[FAMILY]]
        work = data_epochs(course.rung_epochs, course.seen)
        return float(facts["seconds"] * sum(work) / sum(work[: facts["rung"] + 1]))
