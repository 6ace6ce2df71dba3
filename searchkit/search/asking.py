"""Asking: candidates are proposed and checked until one may be trained, which becomes a trial of the study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import Infeasible
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.serialization import JSON, derive_seed
from searchkit.search import policy
from searchkit.search.candidates import Candidate
from searchkit.search.cost_model import CostModel
from searchkit.search.named_samplers import Proposer
from searchkit.search.progress import Reporter
from searchkit.search.starts import Scratch, Starts
from searchkit.search.study import TrialStore
from searchkit.search.tally import REJECTED
from searchkit.search.time_plan import TimePlan
from searchkit.search.time_planning import training_seconds


@dataclass
class Asker:
    """Proposes and checks.

    Attributes:
        ctx: Gives the limits and the seed.
        proposer: Asks the sampler.
        costs: What a candidate would cost.
        store: The study that a trial is added to.
        plan: How long one training may take.
        seconds_left: Of the search.
        reporter: Is told of what is refused, and knows how many trials the budget has left.
        starts: Where first weights come from.
        exhausted: Whether there is nothing left to propose.
        family: Of several that share the search, the one whose candidates are proposed; `store` is its view.
    """

    ctx: Context
    proposer: Proposer
    costs: CostModel
    store: TrialStore
    plan: TimePlan
    reporter: Reporter
    seconds_left: Callable[[], float]
    starts: Starts = field(default_factory=Scratch)
    exhausted: bool = False
    family: str = ""

    def next_trial(self) -> FrozenTrial | None:
        """A new trial, stored as running; None if the search is to end."""
        while not self.exhausted and self.reporter.n_open() > 0:
            raise_if_interrupted()
            tally = self.store.tally()
            n_rejected = tally.count(REJECTED)
            if policy.is_hopeless(n_rejected, self._n_trials) or self.seconds_left() <= 0:
                self._give_up(f"{n_rejected} candidates were refused before training")
                break
            with timing.part("proposals"):
                # what was seen is in the study, whatever came of it, and what other coordinators have seen too
                candidate = self.proposer.propose(tally.trials, tally.first.keys())
            if candidate is None:
                self._give_up("every candidate that the sampler finds has been seen")
                break
            trial = self._start(candidate)
            if trial is not None:
                return trial
        return None

    def _start(self, candidate: Candidate) -> FrozenTrial | None:
        """The candidate as a running trial; None if it was refused, or is another coordinator's."""
        twin = {"from_scratch": True} if candidate.is_control else {}
        facts = {**candidate.plain, "key": candidate.key, "minimized": self.reporter.minimized, **twin}
        try:
            cost = self.costs.cost(candidate)
        except Infeasible as error:
            self.store.reject(candidate, {**facts, "reason": str(error)}, {"infeasible": 1.0})
            return None
        # the time last: it takes a few steps of training to know
        breaches = self.ctx.limits.breaches(cost) or self._too_long(candidate)
        if breaches:
            self._refuse(candidate, {**facts, "cost": cost}, breaches)
            return None
        # From what is trained and not from the trial's number: a candidate trains the same whenever it is proposed.
        seed = derive_seed(self.ctx.seed, self.proposer.view.space.name, replace(candidate, is_control=False).key)
        first = self.starts.facts(candidate, self.store.trials())
        trial = self.store.start(candidate, {**facts, "cost": cost, "seed": seed, **first})
        # Added first and compared afterwards: if both coordinators looked before they added, neither would see the
        # other.
        if self._is_anothers(trial):
            self.store.abandon(trial, "another coordinator trains it")
            return None
        return trial

    def _refuse(self, candidate: Candidate, facts: dict[str, JSON], breaches: dict[str, float]) -> None:
        reason = ", ".join(f"{name} over by {amount:.0%}" for name, amount in breaches.items())
        self.store.reject(candidate, {**facts, "reason": reason}, breaches)
        self.reporter.report(f"refused before training: {reason}")

    def _too_long(self, candidate: Candidate) -> dict[str, float]:
        """By how much the training would exceed its share of the time, as `Limits.breaches` says it."""
        if self.plan.most_seconds is None:
            return {}
        seconds = training_seconds(self.proposer.view.space, self.ctx, candidate, self.plan.own_work)
        over = seconds / self.plan.most_seconds - 1.0
        return {"training_seconds": over} if over > 0 else {}

    def _is_anothers(self, trial: FrozenTrial) -> bool:
        """Whether two coordinators proposed the same at once: the lower number, which was first, trains it."""
        return bool(self.store.owner) and self.store.tally().first[trial.user_attrs["key"]] < trial.number

    @property
    def _n_trials(self) -> int:
        """Trials of the budget; of a family that shares it, those that it would have if all got as many."""
        return self.proposer.view.trials if self.family else self.reporter.n_trials

    def _give_up(self, why: str) -> None:
        self.exhausted = True
        end = "no more trials" if self.family else f"the search ends before {self._n_trials} trials"
        self.ctx.echo(f"{end}: {why}")
