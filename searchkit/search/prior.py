"""What a search takes from an earlier run of the same kind of task: its best trials are proposed first.

The middle of a space, or the largest network that fits, is a guess that knows nothing; what was best on one data set is
a better start on another of its kind (Feurer et al. 2015, Initializing Bayesian hyperparameter optimization via
meta-learning). Only parameters are taken, and no values: a metric of other data says nothing of this one's scale. They
are kept in run.json when a run begins, so a resumed run does without the earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from searchkit.config import naming
from searchkit.core.errors import BadInput
from searchkit.core.run_files import RunFile
from searchkit.core.serialization import thaw
from searchkit.core.space import Space
from searchkit.core.start_files import PriorFacts
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search import successive_halving
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at, like
from searchkit.search.results import HistoryRow, history, searches
from searchkit.search.sampler import Ask, Sampler, SearchView
from searchkit.search.tally import TRAINED

KEY = "prior"
"""The key of run.json that holds what was learned."""

MOST = 5
"""Trials that are taken from a family of the earlier run."""

SHARE = 4
"""One in so many trials of a family is taken from the earlier run at most: the rest searches."""


def learn(earlier: Run, task: Task, families: Sequence[Space]) -> PriorFacts:
    """The best trials of an earlier run, by family.

    Args:
        earlier: The run.
        task: Of the new search.
        families: Of the new search.

    Raises:
        BadInput: The earlier run is of another kind of task, has none of the families, or has no trained trial of them.
    """
    thaw(RunFile, earlier.config, file=earlier.named("run.json"))
    then, now = earlier.config["task"]["summary"], task.summary()
    kinds = [(str(facts["modality"]), str(facts["kind"])) for facts in (then, now)]
    asked = naming.given("prior", earlier.name)
    if kinds[0] != kinds[1]:
        was, wanted = (f"{kind} of {modality} data" for modality, kind in kinds)
        raise BadInput(f"{asked} is of another task: {was}, and this search is {wanted}; name a run of the same kind.")
    known, names = searches(earlier), [family.name for family in families]
    shared = [family for family in families if family.name in known]
    if not shared:
        raise BadInput(
            f"{asked} searched {', '.join(known)}, and this search has {', '.join(names)}; name a run that shares a "
            "family."
        )
    rows = history(earlier)
    found = {
        family.name: _best([row for row in rows if row["space"] == family.name], known[family.name])
        for family in shared
    }
    if not any(found.values()):
        raise BadInput(f"{asked} has no trained trial to start from; go on with it first, or leave it out.")
    kept = {family.name: found[family.name] for family in shared if _has_a_name_of(family, task, found[family.name])}
    if not kept:
        raise BadInput(
            f"{asked} has no parameter that the families {', '.join(found)} still have; they have changed since, so "
            "leave it out."
        )
    return {"run": earlier.name, "families": kept}


def _has_a_name_of(family: Space, task: Task, best: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some parameter of the best trials is one that the family asks for when it is drawn so."""
    drawn = (draw(family, task.spec, like(params, at(0.5)), epochs=1, way="prior") for params in best)
    return any(set(candidate.params) & set(params) for candidate, params in zip(drawn, best, strict=True))


def _best(rows: Sequence[HistoryRow], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters of the best trials of a family, in the order by which successive halving promotes."""
    sign, cost = (-1.0 if about["direction"] == "maximize" else 1.0), about["cost"]
    trained = {row["number"]: row for row in rows if row["status"] == TRAINED and row["value"] is not None}
    losses = {
        number: (sign * float(row["value"] or 0.0), *((row["cost"][cost],) if cost else ()))
        for number, row in trained.items()
    }
    return [trained[number]["params"] for number in successive_halving.order(losses)[:MOST]]


@dataclass(frozen=True)
class Primed:
    """A sampler whose first proposals are what was best in an earlier run.

    A parameter that the earlier run did not have, or whose value is no longer among the choices, is in the middle.

    Attributes:
        sampler: Proposes the others.
        run: The name of the earlier run.
        best: The parameters of its trials, best first.
    """

    sampler: Sampler
    run: str
    best: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        """The sampler's own."""
        return self.sampler.name

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        index = ask.number + ask.attempt
        if index < min(len(self.best), max(1, view.trials // SHARE)):
            return view.draw(like(self.best[index], at(0.5)), f"as in {self.run}")
        return self.sampler.propose(trials, ask, view)


def primed(sampler: Sampler, run: Run, family: str) -> Sampler:
    """The sampler of a family, primed with what its run keeps of an earlier one; the sampler itself without any."""
    facts = run.config.get(KEY)
    if facts is None:
        return sampler
    kept: PriorFacts = thaw(PriorFacts, facts, file=run.named("run.json", KEY))
    best = kept["families"].get(family)
    return sampler if not best else Primed(sampler, kept["run"], tuple(best))
