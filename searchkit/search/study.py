"""The study as a ledger: every trial enters it whole, and leaves RUNNING in one last step.

Optuna's study on SQLite (or another database by URL), written by the coordinator alone. A trial is added in one
transaction with its parameters, architecture and seed, so a kill leaves it in the study or not at all; what a finished
trial needs is written before its state, so a kill in between is repaired by writing it again. Asking is not done here:
see `sampler`, which asks a copy in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.search.candidates import Candidate
from searchkit.search.sampler import Directions
from searchkit.search.storage import open_storage, without_password
from searchkit.search.tally import CUT_OFF, FAILED, REJECTED, TRAINED, UNTOLD, Tally
from searchkit.search.trial_rows import TrialRows, suits

FAMILY = "family"
"""A trial's attribute with the name of its family, in a study that several families share."""


class TrialStore:
    """The trials of one search, in a database.

    Attributes:
        owner: Who this coordinator is among several; empty if it is alone.
        study: Optuna's.
        family: Of a view (see `of`), the family whose trials it has; empty for all trials.
        rows: Writes trials at once; None for a database on a server, which Optuna's storage writes.

    Raises:
        BadInput: The database cannot be opened or read, or its study is of another task, objective or budget.
    """

    def __init__(self, url: str, name: str, directions: Directions, *, owner: str = "", facts: str = "") -> None:
        self.storage = open_storage(url)
        self.owner, self.family = owner, ""
        self._known: dict[int, FrozenTrial] = {}
        self._tally = Tally()
        try:
            self.study = optuna.create_study(
                storage=self.storage, study_name=name, directions=list(directions), load_if_exists=True
            )
        except optuna.exceptions.StorageInternalError as error:
            raise BadInput(
                f"The study at {without_password(url)} cannot be read: {str(error).splitlines()[0]}."
            ) from error
        wanted = [StudyDirection[d.upper()] for d in directions]
        known = self.study.user_attrs.get("facts", facts)
        if self.study.directions != wanted or known != facts:
            raise BadInput(
                f"The study '{name}' at {without_password(url)} was made for another task, objective or budget; "
                "resume with the same settings, or give the run another name."
            )
        # after the check: another coordinator's study is not given this one's facts
        if "facts" not in self.study.user_attrs:
            self.study.set_user_attr("facts", facts)
        self.rows = TrialRows(self.storage, self.study._study_id) if suits(self.storage) else None
        # A coordinator that is alone knows all trials: Optuna would read every running one from the database again at
        # each call, which was most of what 16 workers with trials of 1 s cost (61 ms a trial, and 16 without).
        self._all = None if owner else self.study.get_trials(deepcopy=False)

    def of(self, family: str) -> TrialStore:
        """A view of a study that several families share: one family's trials, its parameters by their own names.

        Stored they are named "family.parameter": two families may have a parameter of one name with other choices, and
        Optuna's storage refuses those in one study. A trial's number is the study's.
        """
        view = copy(self)
        view.family, view._known, view._tally = family, {}, Tally()
        return view

    def trials(self) -> list[FrozenTrial]:
        """All trials in order of their numbers, other coordinators' too. Not to be changed."""
        trials = self.study.get_trials(deepcopy=False) if self._all is None else self._all
        return [self._own(t) for t in trials if t.user_attrs.get(FAMILY) == self.family] if self.family else trials

    def tally(self) -> Tally:
        """Counts of all trials, as they are now. The same object at each call; not to be changed."""
        self._tally.update_(self.trials())
        return self._tally

    def unfinished(self) -> list[FrozenTrial]:
        """This coordinator's trials that a kill left RUNNING."""
        return [t for t in self.trials() if t.state == TrialState.RUNNING and t.user_attrs.get("owner") == self.owner]

    def start(self, candidate: Candidate, facts: Mapping[str, JSON]) -> FrozenTrial:
        """Add a RUNNING trial, in one transaction."""
        return self._add(candidate, {**facts, "status": UNTOLD}, state=TrialState.RUNNING)

    def reject(self, candidate: Candidate, facts: Mapping[str, JSON], breaches: Mapping[str, float]) -> FrozenTrial:
        """Add an infeasible trial with the amounts of its breaches, in one transaction. It is never trained."""
        told = {**facts, "status": REJECTED, "rejected": dict(breaches)}
        return self._add(
            candidate, told, state=TrialState.COMPLETE, values=self._worst(facts), constraints=dict(breaches)
        )

    def finish(self, trial: FrozenTrial, values: Sequence[float], facts: Mapping[str, JSON]) -> None:
        """Tell a trained trial its values. Repeating it after a kill changes nothing."""
        self._close(trial, {**facts, "status": TRAINED}, TrialState.COMPLETE, values)

    def fail(self, trial: FrozenTrial, kind: str, reason: str) -> None:
        """Close a trial whose training could not finish.

        It is told as infeasible by one whole unit: a bare FAIL carries no signal, and the sampler would propose the
        same again (optuna#2864).

        Args:
            trial: As `start` gave it.
            kind: As in `Outcome.failure`.
            reason: In a sentence.
        """
        # Optuna keeps constraints under private system attributes; a trial made for it says which, and what they hold
        told = create_trial(
            state=TrialState.COMPLETE, values=[0.0] * len(self.study.directions), constraints={kind: 1.0}
        )
        facts = {"failure": kind, "reason": reason, "status": FAILED}
        self._close(trial, facts, TrialState.COMPLETE, self._worst(trial.user_attrs), told.system_attrs)

    def abandon(self, trial: FrozenTrial, reason: str) -> None:
        """Close a trial that does not count, as the time ended: its candidate is not to blame and breaks no limit."""
        self._close(trial, {"reason": reason, "status": CUT_OFF}, TrialState.FAIL, None)

    def _add(
        self,
        candidate: Candidate,
        facts: Mapping[str, JSON],
        *,
        state: TrialState,
        values: Sequence[float] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        prefix, family = (f"{self.family}.", {FAMILY: self.family}) if self.family else ("", {})
        trial = create_trial(
            state=state,
            values=values,
            params={prefix + name: value for name, value in candidate.params.items()},
            distributions={prefix + name: among for name, among in candidate.distributions.items()},
            user_attrs={**facts, "owner": self.owner, "way": candidate.way, **family},
            system_attrs=dict(candidate.system_attrs),
            constraints=dict(constraints) if constraints else None,
        )
        # the storage, not `study.ask`: asking stores a trial parameter by parameter, and a kill would leave it in parts
        try:
            if self.rows:
                stored = self.rows.add(trial)
            else:
                stored = self.storage.get_trial(self.storage.create_new_trial(self.study._study_id, trial))
        except ValueError as error:  # e.g. one name with two sets of choices
            raise BadInput(f"The space's parameters do not fit together: {error}") from error
        if self._all is not None:
            self._all.append(stored)
        return self._own(stored)

    def _own(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial as the view has it; a finished one is made once."""
        if not self.family:
            return trial
        if trial.number not in self._known:
            found = own_names(trial, self.family)
            if not trial.state.is_finished():
                return found
            self._known[trial.number] = found
        return self._known[trial.number]

    def _close(
        self,
        trial: FrozenTrial,
        facts: Mapping[str, JSON],
        state: TrialState,
        values: Sequence[float] | None,
        system: Mapping[str, JSON] = MappingProxyType({}),
    ) -> None:
        if self.rows:
            self.rows.close(trial, state, values, facts=facts, system=system)
        else:
            # `_trial_id` is the key in the database; `number` counts within one study.
            for key, value in system.items():
                self.storage.set_trial_system_attr(trial._trial_id, key, value)
            # the state last: Optuna refuses changes to a finished trial, and what a kill leaves before it is written
            # again
            for key, value in facts.items():
                self.storage.set_trial_user_attr(trial._trial_id, key, value)
            self.storage.set_trial_state_values(trial._trial_id, state, values)
        if self._all is not None:
            self._all[trial.number] = self.storage.get_trial(trial._trial_id)

    def _worst(self, facts: Mapping[str, JSON]) -> list[float]:
        """The goal at its worst and the cost as it is, for a trial whose constraints are broken.

        No sampler orders infeasible trials by value, but all of them want one.
        """
        signs = [1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in self.study.directions]
        cost = facts.get("cost", {}).get(facts.get("minimized"))
        return [sign * WORST for sign in signs[:1]] + [WORST if cost is None else float(cost) for _ in signs[1:]]


def own_names(trial: FrozenTrial, family: str) -> FrozenTrial:
    """A trial of a study that several families share, its parameters by the family's own names; others as they are."""
    if FAMILY not in trial.user_attrs:
        return trial
    found, prefix = copy(trial), f"{family}."
    found.params = {name.removeprefix(prefix): value for name, value in trial.params.items()}
    found.distributions = {name.removeprefix(prefix): among for name, among in trial.distributions.items()}
    return found


WORST = 1e12
"""Stands for the worst value: a database takes no NaN, and infinity breaks importances and drawings."""
