"""What a search came to, read from the run: the front, the history, the failures, the importances.

Pure functions of the run on disk; nothing here trains or writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, TypedDict

import optuna
from optuna.trial import FrozenTrial, TrialState

from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.run_files import SearchFile
from searchkit.core.serialization import JSON
from searchkit.run import Run
from searchkit.search import successive_halving
from searchkit.search.fronts import feasible
from searchkit.search.storage import open_storage
from searchkit.search.study import FAMILY, own_names
from searchkit.search.tally import FAILED, REJECTED, TRAINED

FILE = "search.json"
"""What was searched for: by family, its goal, cost, study, profile and numeric setting."""


class HistoryRow(TypedDict):
    """A trial, as `history` tells it."""

    space: str
    number: int
    status: str  # trained, rejected, failed, cut off, running
    way: str  # how it was chosen
    value: float | None  # the goal on val; None unless trained
    cost: dict[str, float]
    rung: int | None  # the last that it finished, from 0
    epochs: int | None
    seconds: float | None  # of training
    artifact: str | None  # its id
    rejected: dict[str, float] | None  # by how much it breaks each limit
    failure: str | None
    reason: str | None
    params: dict[str, JSON]


def searches(run: Run) -> dict[str, dict[str, JSON]]:
    """The searches of a run by family, as `FILE` has them. Raises BadInput if there is none."""
    found = run.read_json(FILE, SearchFile)
    if not found:
        raise BadInput(f"The run '{run.name}' has no search in it yet; start or resume it with search.")
    return dict(found)


def winners(run: Run) -> list[Artifact]:
    """The Pareto front: the trials that no other beats in both the goal and the cost, over every family of the run.

    Returns:
        Best goal first, the cheaper of equals first; with no cost to minimize, the best alone. Empty if no trial has
        finished.

    Raises:
        BadInput: The run has no search.
    """
    about = next(iter(searches(run).values()))
    sign = -1.0 if about["direction"] == "maximize" else 1.0
    trials = run.trials()
    names = [about["goal"], about["cost"]] if about["cost"] else [about["goal"]]
    losses = {n: (sign * a.metrics[names[0]], *(a.metrics[c] for c in names[1:])) for n, a in enumerate(trials)}
    rank = successive_halving.ranks([losses[n] for n in sorted(losses)]) if losses else []
    front = [n for n in losses if rank[n] == 0]

    def preference(n: int) -> tuple[successive_halving.Losses, float, str]:
        return losses[n], trials[n].metrics.get("params", 0.0), trials[n].id

    ordered = [trials[n] for n in sorted(front, key=preference)]
    return ordered if about["cost"] else ordered[:1]


def history(run: Run) -> list[HistoryRow]:
    """Every trial of a run, in order.

    Raises:
        BadInput: The run has no search, or its study is gone.
    """
    rows: list[HistoryRow] = []
    found = searches(run)
    for family, trials in _trials_by_family(run).items():
        for trial in trials:
            facts = trial.user_attrs
            trained = facts["status"] == TRAINED
            rows.append(
                {
                    "space": family,
                    "number": trial.number,
                    "status": facts["status"],
                    "way": facts["way"],
                    "value": trial.values[0] if trained else None,
                    "cost": facts.get("cost", {}),
                    "rung": facts.get("rung"),
                    "epochs": facts.get("epochs"),
                    "seconds": facts.get("seconds"),
                    "artifact": facts.get("artifact"),
                    "rejected": facts.get("rejected"),
                    "failure": facts.get("failure"),
                    "reason": facts.get("reason"),
                    "params": trial.params,
                }
            )
    studies = list(dict.fromkeys(about["study"] for about in found.values()))
    return sorted(rows, key=lambda row: (studies.index(found[row["space"]]["study"]), row["number"]))


def failures(run: Run) -> list[HistoryRow]:
    """The rows of `history` that were rejected before training or failed in it."""
    return [row for row in history(run) if row["status"] in (REJECTED, FAILED)]


def importances(run: Run) -> dict[str, float]:
    """The share of the goal's variance that each parameter explains, by fANOVA (Hutter et al. 2014).

    Returns:
        Parameter to share, 0 to 1, largest first: of the parameters that every trial has, as fANOVA needs. Empty if
        fewer than 6 trials were trained.
    """
    found: dict[str, float] = {}
    by_family = _trials_by_family(run)
    for family, its_trials in by_family.items():
        trials = feasible(its_trials)
        # fewer give shares that are noise; with one value there is no variance to share out
        if len(trials) < 6 or len({t.values[0] for t in trials}) < 2:
            continue
        # In memory, and of the feasible trials alone: the others have a stand-in for a value (`study.WORST`).
        copy = optuna.create_study(directions=searches(run)[family]["directions"])
        copy.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # fANOVA fits a random forest, which is seeded so that a report says the same each time. With two objectives
            # Optuna raises ValueError unless it is given a target.
            shares = optuna.importance.get_param_importances(
                copy,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial: trial.values[0],
            )
        prefix = f"{family}." if len(by_family) > 1 else ""
        found |= {prefix + name: float(share) for name, share in shares.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def random_so_far(values: Sequence[float], direction: Literal["maximize", "minimize"]) -> list[float]:
    """What trials in random order would have had so far, to hold the search's own best so far against.

    Args:
        values: Of n trials.
        direction: Which way is better.

    Returns:
        The expected best of k draws without replacement, for k = 1 … n.
    """
    ordered = sorted(values, reverse=direction == "maximize")
    n = len(ordered)
    expected = []
    for k in range(1, n + 1):
        # P(the best of k draws is the i-th of n) = C(n-1-i, k-1) / C(n, k), as a product that cannot overflow
        chance, total = k / n, 0.0
        for i, value in enumerate(ordered):
            total += chance * value
            chance *= max(0, n - i - k) / max(1, n - 1 - i)
        expected.append(total)
    return expected


def _trials_by_family(run: Run) -> dict[str, list[FrozenTrial]]:
    """The trials of each family, their parameters by its own names. A study that families share is read once."""
    found, studies = searches(run), {}
    for about in found.values():
        if about["study"] not in studies:
            studies[about["study"]] = _trials(run, about)
    return {
        family: [own_names(t, family) for t in studies[about["study"]] if t.user_attrs.get(FAMILY, family) == family]
        for family, about in found.items()
    }


def _trials(run: Run, about: dict[str, JSON]) -> list[FrozenTrial]:
    url = about["url"] or default_url(run)
    try:
        study = optuna.load_study(study_name=about["study"], storage=open_storage(url))
    except KeyError as error:
        where = url if about["url"] is None else "the storage"
        raise BadInput(
            f"The study '{about['study']}' of the run '{run.name}' is not in {where}; put the database back, or start "
            "a new run."
        ) from error
    return [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING and "status" in t.user_attrs]


def default_url(run: Run) -> str:
    """The run's own study, wherever the run was moved to."""
    return f"sqlite:///{run.path / 'study.db'}"
