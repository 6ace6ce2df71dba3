"""The default sampler: what it proposes and when, and that it proposes the same from the same trials."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from golden_space import SPACE, proposals, proposer, told, weigh
from optuna.trial import FrozenTrial, TrialState

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import NotInstalled
from searchkit.core.serialization import derive_seed
from searchkit.core.space import Trial
from searchkit.core.space_file import load_space
from searchkit.search import gp_sampler
from searchkit.search.candidates import Candidate
from searchkit.search.fronts import sort_out
from searchkit.search.gp_sampler import PATIENCE, WINDOW, _Model
from searchkit.search.named_samplers import Proposer, sampler_of
from searchkit.search.sampler import Directions, SearchView
from searchkit.tasks import registry

FOLDER = Path(__file__).parents[2] / "spaces"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def test_first_the_middle_then_three_at_random_then_the_process() -> None:
    found, _ = proposals(proposer("gp"), 8)
    assert [c.way for c in found] == ["middle"] + ["random"] * 3 + ["gp"] * 4
    few, _ = proposals(proposer("gp", trials=6), 4)
    assert [c.way for c in few] == ["middle", "random", "gp", "gp"], "a third of a small budget"


def test_a_proposal_is_a_function_of_the_trials_and_the_seed() -> None:
    """So a search that is resumed at any trial proposes what the uninterrupted one did."""
    found, trials = proposals(proposer("gp"), 12)
    for number in (1, 5, 11):
        resumed = proposer("gp").propose(copy.deepcopy(trials[:number]), {c.key for c in found[:number]})
        assert resumed == found[number]
    other = proposer("gp", seed=6).propose(trials[:3], {c.key for c in found[:3]})
    assert other is not None and other.params != found[3].params


@pytest.mark.parametrize(("directions", "more"), [(("maximize",), 2.0), (("maximize", "minimize"), 0.5)])
def test_it_learns_from_what_is_told(directions: Directions, more: float) -> None:
    def best(name: str) -> float:
        _, trials = proposals(proposer(name, trials=40, directions=directions), 40)
        scores = [t.values[0] - (t.values[1] / 1000 if len(t.values) > 1 else 0) for t in trials]
        return sum(sorted(scores)[-15:])

    assert best("gp") > best("random") + more


def test_under_limits_the_largest_first_and_then_what_may_fit() -> None:
    given = proposer("gp", limited=True, trials=30)
    trials: list[FrozenTrial] = []
    found: list[Candidate] = []
    for number in range(30):
        candidate = given.propose(trials, {c.key for c in found})
        assert candidate is not None
        found.append(candidate)
        fits = weigh(candidate)[1]
        trials.append(told(candidate, number, ("maximize",), None if fits else {"params": 0.5}))
    assert [c.way for c in found[:5]] == ["largest that fits"] * 2 + ["random"] * 2 + ["gp"]
    assert sum(weigh(c)[1] for c in found) >= 27, "what is built to be looked at is not proposed if it is too large"


def test_refusals_lower_the_chance_of_what_is_like_them() -> None:
    """A check that only the coordinator makes: it refuses every candidate of the kind that scores best."""
    given = proposer("gp", trials=40)
    trials: list[FrozenTrial] = []
    known: set[str] = set()
    for number in range(40):
        candidate = given.propose(trials, known)
        assert candidate is not None
        known.add(candidate.key)
        refused = candidate.arch.kind == "b"
        trials.append(told(candidate, number, ("maximize",), {"latency_ms": 0.4} if refused else None))
    late = [t.params["kind"] for t in trials[-20:]]
    assert late.count("b") <= 8 and late.count("c") > late.count("a")


def test_workers_keep_apart() -> None:
    given = proposer("gp", trials=40)
    found, trials = proposals(given, 15)
    first = given.propose(trials, {c.key for c in found})
    assert first is not None
    running = told(first, len(trials), ("maximize",))
    running.state, running.values = TrialState.RUNNING, None
    alone, beside = (_Model.of(sort_out(t), ("maximize",)) for t in (trials, [*trials, running]))
    sketched = given.view.sketch(lambda name, _: first.params[name])
    assert sketched.params == first.params
    assert beside.gains([sketched])[0] < 0.2 * alone.gains([sketched])[0]
    assert len(beside.rows) == len(alone.rows) + 1


def stalled(n_worse: int) -> tuple[list[FrozenTrial], _Model]:
    """Some good trials, then this many that are worse than any."""
    _, trials = proposals(proposer("random"), 12 + n_worse)
    for trial in trials:
        trial.values = [1.0 + trial.number if trial.number <= 10 else -float(trial.number)]
    return trials, _Model.of(sort_out(trials), ("maximize",))


def test_without_a_better_trial_every_second_proposal_looks_elsewhere() -> None:
    trials, model = stalled(PATIENCE)
    assert model.n_since_better == PATIENCE
    best = trials[10:5:-1]
    assert list(model.parents(random.Random(0), elsewhere=False)) == best
    elsewhere = model.parents(random.Random(0), elsewhere=True)
    assert len(elsewhere) == 5 and not {t.number for t in elsewhere} <= {t.number for t in best}
    assert 10 not in {t.number for t in elsewhere}
    earlier = stalled(PATIENCE - 1)[1]
    assert [t.number for t in earlier.parents(random.Random(0), elsewhere=True)] == [10, 9, 8, 7, 6]


def test_which_proposals_look_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    real = _Model.parents

    def watched(self: _Model, rng: random.Random, *, elsewhere: bool) -> Any:
        asked.append((len(self.best), elsewhere))
        return real(self, rng, elsewhere=elsewhere)

    monkeypatch.setattr(_Model, "parents", watched)
    proposals(proposer("gp"), 8)
    assert asked == [(4, False), (5, True), (6, False), (7, True)]


def test_a_large_study_is_neither_copied_nor_fitted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = proposer("gp", trials=2000)
    rng, trials = random.Random(0), []
    for number in range(600):
        arch = {"depth": rng.randint(1, 6), "width": rng.randint(4, 256), "rate": rng.random(), "kind": "b"}
        candidate = given.view.draw(lambda name, _, arch=arch: arch.get(name, 0.01), "test")  # type: ignore[misc]
        trials.append(told(candidate, number, ("maximize",)))
    fitted: list[int] = []
    real = gp_sampler.Process.fitted
    monkeypatch.setattr(gp_sampler.Process, "fitted", lambda d, v: fitted.append(len(v)) or real(d, v))
    for what in ("deepcopy", "copy"):
        monkeypatch.setattr(copy, what, lambda *_: pytest.fail("a trial is copied"))
    monkeypatch.setattr(optuna, "create_study", lambda **_: pytest.fail("a study is made"))
    candidate = given.propose(trials, set())
    assert candidate is not None and candidate.way == "gp" and fitted == [WINDOW]


def test_trials_that_are_all_equal_and_a_space_of_one_parameter() -> None:
    def sample(trial: Trial, spec: DataSpec) -> Any:
        return SPACE.arch(trial.suggest_int("depth", 1, 9), 4, 0.0, "a")

    given = proposer("gp", space=replace(SPACE, sample=sample, training=replace(SPACE.training, ranges={})))
    trials: list[FrozenTrial] = []
    known: set[str] = set()
    while (candidate := given.propose(trials, known)) is not None:
        known.add(candidate.key)
        trial = told(candidate, len(trials), ("maximize",))
        trial.values = [0.5]
        trials.append(trial)
    assert sorted(t.params["depth"] for t in trials) == list(range(1, 10)), "each once, to the last"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_candidates_that_can_be_built(name: str) -> None:
    space = load_space(FOLDER / f"{name}.py")
    try:
        spec = registry.load({"task": space.task}).spec
    except NotInstalled as error:
        pytest.skip(str(error))
    view = SearchView(space, spec, ("maximize", "minimize"), 3, 12, 2, weigh=lambda c: None, limited=False)
    given, trials = Proposer(sampler_of("gp"), view), list[FrozenTrial]()
    found: list[Candidate] = []
    for number in range(7):
        candidate = given.propose(trials, {c.key for c in found})
        assert candidate is not None and candidate.arch is not None
        found.append(candidate)
        values = random.Random(derive_seed(candidate.key)).random(), float(len(candidate.params))
        trial = optuna.trial.create_trial(values=values, params=candidate.params, distributions=candidate.distributions)
        trial.number = number
        trials.append(trial)
    assert [c.way for c in found] == ["middle"] + ["random"] * 3 + ["gp"] * 3
    space.build(found[-1].arch, spec)
    again = view.draw(lambda parameter, _: found[-1].params[parameter], "gp")
    assert again.key == found[-1].key


def test_the_last_digits_of_a_gain_decide_nothing() -> None:
    gains = np.array([0.3, 0.3 + 1e-13, 1e-60, 2e-60, 0.3 + 1e-6])
    assert gp_sampler._best_first(gains) == [4, 0, 1, 3, 2]
