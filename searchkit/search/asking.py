"""Asking: candidates are proposed and checked until one may be trained, which becomes a trial of the study."""

from __future__ import annotations

from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import Infeasible
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.serialization import JSON, derive_seed
from searchkit.search import policy
from searchkit.search.candidates import Candidate
from searchkit.search.cost_model import CostModel
from searchkit.search.progress import Reporter
from searchkit.search.sampler import Proposer
from searchkit.search.starts import Scratch, Starts
from searchkit.search.study import REJECTED, TrialStore
from searchkit.search.time_planning import TimePlan, training_seconds


@dataclass
class Asker:
    """Proposes and checks.

    Attributes:
        ctx: Gives the limits, the deadline and the seed.
        proposer: Asks the sampler.
        costs: What a candidate would cost.
        store: The study that a trial is added to.
        plan: How long one training may take.
        reporter: Is told of what is refused, and knows how many trials the budget has left.
        starts: Where first weights come from.
        known: The keys of all candidates seen.
        exhausted: Whether there is nothing left to propose.
    """

    ctx: Context
    proposer: Proposer
    costs: CostModel
    store: TrialStore
    plan: TimePlan
    reporter: Reporter
    starts: Starts = field(default_factory=Scratch)
    known: set[str] = field(default_factory=set)
    exhausted: bool = False

    def next_trial(self) -> FrozenTrial | None:
        """A new trial, stored as running; None if the search is to end."""
        while not self.exhausted and self.reporter.n_open() > 0:
            raise_if_interrupted()
            trials = self.store.trials()
            n_rejected = sum(1 for t in trials if t.user_attrs.get("status") == REJECTED)
            if policy.is_hopeless(n_rejected, self.reporter.n_trials) or self.ctx.deadline.left() <= 0:
                self._give_up(f"{n_rejected} candidates were refused before training")
                break
            self.known |= {t.user_attrs["key"] for t in trials if "key" in t.user_attrs}  # others' too
            with timing.part("proposals"):
                candidate = self.proposer.propose(trials, self.known)
            if candidate is None:
                self._give_up("every candidate that the sampler finds has been seen")
                break
            self.known.add(candidate.key)  # whatever comes of it: what cannot be built is not proposed again
            trial = self._start(candidate)
            if trial is not None:
                return trial
        return None

    def _start(self, candidate: Candidate) -> FrozenTrial | None:
        """The candidate as a running trial; None if it was refused, or is another coordinator's."""
        facts = {**candidate.plain, "key": candidate.key, "minimized": self.reporter.minimized}
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
        seed = derive_seed(self.ctx.seed, self.proposer.view.space.name, candidate.key)
        start = self.starts.facts(candidate, self.store.trials())
        trial = self.store.start(candidate, {**facts, "cost": cost, "seed": seed, **start})
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
        key = trial.user_attrs["key"]
        return bool(self.store.owner) and any(
            t.number < trial.number and t.user_attrs.get("key") == key for t in self.store.trials()
        )

    def _give_up(self, why: str) -> None:
        self.exhausted = True
        self.ctx.echo(f"the search ends before {self.reporter.n_trials} trials: {why}")
