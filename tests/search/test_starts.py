"""Where first weights come from: a trained trial that is near, and the same ones after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial
from safetensors.torch import load
from small_search import BUDGET, settings

from searchkit.context import Context
from searchkit.core.space import Space
from searchkit.core.space_file import load_space, source_of
from searchkit.run import Run
from searchkit.search import starts
from searchkit.search.candidates import draw
from searchkit.search.choices import at, like
from searchkit.search.coordinator import search
from searchkit.search.jobs import Job, run_job
from searchkit.search.starts import FACT, Parents
from searchkit.tasks import registry

CNN = load_space(Path(__file__).parents[2] / "spaces" / "cnn.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run with two trained networks of one kind, the second of which started from the first."""
    run = Run.create(tmp_path_factory.mktemp("starts"), "run", {})
    context = Context(run, registry.load({"task": "digits"}), lambda name: CNN, seed=1, echo=lambda line: None)
    budget = replace(BUDGET, trials=3, epochs=1)
    search(CNN, context, settings(budget=budget, strategy="inherit", sampler=Near()))
    return context


def trials(context: Context) -> list[FrozenTrial]:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{context.run.path / 'study.db'}").trials


class Near:
    """Proposes the middle candidate, then ones that differ from it in one number."""

    name = "near"

    def propose(self, trials, ask, view):  # type: ignore[no-untyped-def]
        changes = [{}, {"depth_0": 3}, {"depth_1": 3}, {"squeeze_excite": True}, {"kernel": 3}]
        return view.draw(like(changes[min(ask.number + ask.attempt, 4)], at(0.5)), "near")


def test_a_trial_starts_from_a_trained_one_that_is_near(trained: Context) -> None:
    started = {a.made_by["number"]: a.notes.get(FACT) for a in trained.run.trials()}
    by_number = {a.made_by["number"]: a.id for a in trained.run.trials()}
    assert started[0] is None
    for number in (1, 2):
        start = started[number]
        assert start is not None
        assert start["parent"] in [by_number[n] for n in range(number)]
        assert 0.5 <= start["share"] <= 1


def test_the_weights_are_the_parents_and_the_same_each_time(trained: Context) -> None:
    trial = next(t for t in trials(trained) if FACT in t.user_attrs)
    parent = trained.run.load(trial.user_attrs[FACT]["parent"])
    parents = Parents(CNN, trained)
    before = torch.random.get_rng_state()
    first, second = (load(parents.weights(trial.user_attrs)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before), "other draws were disturbed"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["0.weight"], trained.run.weights(parent)["0.weight"])


def test_a_job_trains_from_the_weights_that_it_is_given(trained: Context) -> None:
    trial = next(t for t in trials(trained) if FACT in t.user_attrs)
    start = Parents(CNN, trained).weights(trial.user_attrs)
    still = {**trial.user_attrs["training"], "lr": 1e-12, "ema": 0.0}
    job = Job(0, 0, 1, source_of(CNN), trial.user_attrs["arch"], still, 5, start=start)
    weights = load(run_job(job, trained.task, CNN).weights)
    torch.testing.assert_close(weights["0.weight"], load(start)["0.weight"])


def test_no_parent_is_taken_that_has_less_than_half(trained: Context) -> None:
    spec, parents = trained.task.spec, Parents(CNN, trained)
    near = draw(CNN, spec, like({"depth_0": 1}, at(0.5)), epochs=1, way="")
    far = draw(CNN, spec, like({"width_by_4": 12, "block": "separable"}, at(1.0)), epochs=1, way="")
    assert parents.facts(near, trials(trained))
    assert not parents.facts(far, trials(trained))
    assert not parents.facts(near, [])


def test_a_family_that_says_nothing_takes_tensors_of_the_same_name_and_shape(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(strategy="inherit", budget=replace(BUDGET, trials=12), sampler="random"))
    found = [a.notes[FACT]["share"] for a in context.run.trials() if FACT in a.notes]
    assert all(0.5 <= share <= 1 for share in found)
    assert found


def test_each_of_several_families_starts_from_its_own_trials(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "LEAST_SHARE", 0.0)
    families = [replace(tiny, name=name) for name in ("one", "two")]
    context = replace(context, spaces={family.name: family for family in families}.__getitem__)
    search(families, context, settings(strategy="inherit", budget=replace(BUDGET, trials=8), sampler="random"))
    trials = {a.id: a for a in context.run.trials()}
    started = [(trials[a.notes[FACT]["parent"]].space, a.space) for a in trials.values() if FACT in a.notes]
    assert {child for _, child in started} == {"one", "two"}
    assert all(parent == child for parent, child in started)
