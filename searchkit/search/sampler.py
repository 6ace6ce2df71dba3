"""Samplers propose candidates: each proposal is a pure function of the trials so far, the trial's number and a seed.

So a resumed search proposes what the uninterrupted one would have. Here is what a sampler is; those with a name are in
`searchkit.search.named_samplers`, the default in `searchkit.search.gp_sampler`.

The life of a trial, and who calls what:

```
coordinator                        sampler              worker
propose(trials, ask, view) ──────► Candidate
    a candidate seen before: asked again, with another seed
limits and costs
    refused: stored with its constraints, and the next propose sees it among `trials`
stored as running ─────────────────────────────────────► rung 0
rungs compared (halving)                        ◄─────── losses
    goes on ───────────────────────────────────────────► rung 1, …
stored as complete, failed or cut off; the next propose sees it among `trials`
```

Nothing tells a sampler of a result and nothing asks it to remember: all that it may know is in `trials`. With one
worker `trials` holds finished trials alone; with several, running ones too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from searchkit.core.data_spec import DataSpec
from searchkit.core.serialization import derive_seed
from searchkit.core.space import Space
from searchkit.search.candidates import Candidate, Draft, draw, sketch
from searchkit.search.choices import Choose, grid_leaves

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Directions = tuple[Literal["maximize", "minimize"], ...]
"""One an objective: the goal's, then "minimize" if a cost is minimized too."""

MOST_LEAVES = 20_000
"""A grid of more leaves than this is drawn from at random; walking this many takes seconds."""


class Exhausted(Exception):
    """A sampler has nothing left to propose: the search ends with what it has."""


@dataclass(frozen=True)
class Ask:
    """One call of a sampler.

    Attributes:
        number: The number that the trial will have: how many trials there are, the refused ones included.
        attempt: 0 for the first proposal of this number, higher after proposals that had been seen before.
        seed: Of this call alone; it depends on the run's seed, the number and the attempt.
        known: The keys (`Candidate.key`) of the candidates that have been seen.
    """

    number: int
    attempt: int
    seed: int
    known: AbstractSet[str]


@dataclass(frozen=True)
class SearchView:
    """What a sampler may know of the search; the same at every call.

    Attributes:
        space: The family.
        spec: The data's description, which `Space.sample` takes.
        directions: Of the objectives, the goal's first.
        seed: The search's own.
        trials: How many trials the budget has, or about how many its time holds.
        epochs: Of a trial that reaches the last rung.
        weigh: The number of parameters of a candidate, and whether it may fit the limits, found without export or
            training; None if it cannot be built.
        limited: Whether there are hard limits at all.
    """

    space: Space
    spec: DataSpec
    directions: Directions
    seed: int
    trials: int
    epochs: int
    weigh: Callable[[Candidate], tuple[float, bool] | None]
    limited: bool

    def draw(self, choose: Choose, way: str) -> Candidate:
        """Make a candidate, each of its values given by `choose`.

        Args:
            choose: Called with a parameter's name and its Optuna distribution; `searchkit.search.choices` has several.
            way: How it was chosen, in a word or two, for the report.
        """
        return draw(self.space, self.spec, choose, epochs=self.epochs, way=way)

    def sketch(self, choose: Choose) -> Draft:
        """The parameters of the candidate that `draw` would make, in a third of the time: to rank many.

        Args:
            choose: See `draw`, which makes the candidate of `like(sketch.params, ...)`.
        """
        return sketch(self.space, self.spec, choose)

    @cached_property
    def leaves(self) -> list[Candidate] | None:
        """Every point of the discretized space in an order shuffled by the seed; None if there are too many."""
        found = grid_leaves(lambda choose: self.draw(choose, "grid"), at_most=MOST_LEAVES)
        if found is not None:
            random.Random(derive_seed(self.seed, "leaves")).shuffle(found)
        return found


class Sampler(Protocol):
    """Proposes the candidate of the next trial. The module's docstring draws when it is called and by whom.

    A sampler is pure: it keeps nothing between calls, and draws from `random.Random(ask.seed)` alone. Then a search
    that was killed and resumed equals the one that was not, bit for bit. Two instances are one as far as a run knows:
    it keeps the name only, so resuming a run takes the same sampler again.
    """

    @property
    def name(self) -> str:
        """What the run's record and the report call it."""

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """Propose a candidate; the coordinator calls it, once for each trial and again after a repeat.

        Args:
            trials: All trials so far in order of their numbers: `values` (the goal, then the cost), `params`, and
                `constraints`, of which a trial that was refused or failed has one above 0. Not to be changed.
            ask: Which proposal this is, and its seed.
            view: The search; `view.draw` makes the candidate.

        Returns:
            A candidate. One whose key is in `ask.known` is not trained: the sampler is asked again, with another seed.
            None asks to be asked again.

        Raises:
            Exhausted: Nothing is left to propose.
        """


def ask_optuna(sampler: BaseSampler, trials: Sequence[FrozenTrial], view: SearchView, way: str) -> Candidate:
    """Propose what one of Optuna's samplers does, for a sampler of your own that is built on one.

    It is asked by a copy of the study in memory: the real study is then given the whole trial at once, and a kill in
    between leaves nothing half-suggested (a stored trial would be suggested its rest from another place of the stream).

    Args:
        sampler: Of Optuna, made for this call with a seed from `Ask.seed`.
        trials: As `Sampler.propose` gets them.
        view: As `Sampler.propose` gets it.
        way: See `SearchView.draw`.
    """
    # A new sampler and a new study each call: a sampler with one seed repeats its first proposal after every restart.
    # Running trials count as bad ones (`constant_liar`, on by default in Optuna 5), so workers keep apart.
    study = optuna.create_study(directions=list(view.directions), sampler=sampler)  # in memory, for this call alone
    study.add_trials(trials)
    asked = study.ask()

    def choose(name: str, distribution: BaseDistribution) -> Any:
        match distribution:
            case IntDistribution(low=low, high=high, step=step, log=log):
                return asked.suggest_int(name, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return asked.suggest_float(name, low, high, step=step, log=log)
            case CategoricalDistribution(choices=choices):
                return asked.suggest_categorical(name, choices)
        raise TypeError(f"no way to suggest {name} from {distribution}")

    candidate = view.draw(choose, way)
    # NSGA-II keeps a trial's generation in its system attributes
    return replace(candidate, system_attrs=dict(study.get_trials(deepcopy=False)[-1].system_attrs))
