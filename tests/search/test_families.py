"""Several families in one search: one study, one budget, one front."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import search_driver
from small_search import BUDGET, settings

from searchkit.context import Context
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.serialization import freeze
from searchkit.core.space import Limits, Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search import entrants
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.search.coordinator import search
from searchkit.search.entrants import enter
from searchkit.search.recovery import recover
from searchkit.search.results import history, importances, winners
from searchkit.search.study import TrialStore
from searchkit.search.time_planning import TimePlan
from searchkit.search.trial_lifecycle import Flight, Lifecycle
from searchkit.tasks import registry


@pytest.fixture(scope="module")
def narrow() -> Space:
    return load_space(search_driver.NARROW)


@pytest.fixture
def both(tmp_path: Path, task: Task, tiny: Space, narrow: Space) -> Context:
    spaces = {"tiny": tiny, "narrow": narrow}
    return Context(Run.create(tmp_path, "run", {}), task, spaces.__getitem__, seed=1, echo=lambda line: None)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "grid"])
def test_two_families_share_a_budget_and_a_front(both: Context, tiny: Space, narrow: Space, sampler: str) -> None:
    search([tiny, narrow], both, settings(minimize="params", budget=replace(BUDGET, trials=9), sampler=sampler))
    rows = history(both.run)
    assert [row["number"] for row in rows] == list(range(len(rows))), "one study counts the trials of both"
    trained = [row for row in rows if row["status"] == "trained"]
    assert len(trained) == 9
    own = {name: [row for row in trained if row["space"] == name] for name in ("tiny", "narrow")}
    assert min(len(found) for found in own.values()) >= 2
    assert all({"depth", "train.optimizer"} <= set(row["params"]) for row in own["tiny"])
    assert all(set(row["params"]) == {"width0", "activation", "train.lr"} for row in own["narrow"])
    assert len({row["artifact"] for row in trained}) == 9
    assert {a.id: a.space for a in both.run.trials()} == {row["artifact"]: row["space"] for row in trained}
    front, losses = winners(both.run), [(-row["value"], row["cost"]["params"]) for row in trained]  # type: ignore[operator]
    undominated = [p for p in losses if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in losses)]
    assert {(-a.metrics["accuracy"], a.metrics["params"]) for a in front} == set(undominated)


def test_a_study_of_two_families_names_a_parameter_by_its_family(both: Context, tiny: Space, narrow: Space) -> None:
    """Both have "activation" with other choices, which a storage refuses under one name."""
    search([tiny, narrow], both, settings())
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{both.run.path / 'study.db'}")
    stored = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{both.run.path / 'study.db'}")
    names = {name for trial in stored.trials for name in trial.params}
    assert {"tiny.activation", "narrow.activation"} <= names
    assert all(name.startswith(f"{t.user_attrs['family']}.") for t in stored.trials for name in t.params)
    about = json.loads((both.run.path / "search.json").read_text())
    assert list(about) == ["tiny", "narrow"] and {entry["study"] for entry in about.values()} == {"run:narrow+tiny"}


def test_a_sampler_sees_the_trials_of_its_family_alone(both: Context, tmp_path: Path) -> None:
    run = search_driver.go(tmp_path / "seen", "inline", families=search_driver.BOTH)
    url = f"sqlite:///{run.path / 'study.db'}"
    store = TrialStore(url, "run:narrow+tiny", ("maximize", "minimize"), facts=_facts(url))
    whole, views = store.trials(), {name: store.of(name).trials() for name in ("tiny", "narrow")}
    assert sorted(t.number for view in views.values() for t in view) == [t.number for t in whole]
    for name, view in views.items():
        for trial in view:
            stored = whole[trial.number]
            assert stored.params == {f"{name}.{key}": value for key, value in trial.params.items()}
            assert set(stored.distributions) == {f"{name}.{key}" for key in trial.distributions}
            assert trial.values == stored.values
    assert store.of("tiny").trials()[0] == views["tiny"][0]


def test_of_several_families_none_trains_so_long_as_one_alone_may(
    both: Context, tiny: Space, narrow: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = {"tiny": 10.0, "narrow": 40.0}
    monkeypatch.setattr(entrants, "training_seconds", lambda space, *rest: middle[space.name])
    for name in middle:
        plan = TimePlan("fp32", False, 2, most_macs=1000, most_seconds=60.0, trials=9)
        known = both.run.read_json("pace.json") or {}
        both.run.write_json("pace.json", {**known, name: freeze(plan)})
    found = {e.space.name: e for e in enter([tiny, narrow], both, settings())}
    assert (found["tiny"].plan.most_seconds, found["tiny"].ctx.limits.macs) == (30.0, 500)
    assert found["narrow"].plan.most_seconds == 40.0, "a network of middling size may be trained"
    middle |= {"tiny": 50.0, "narrow": 1.0}
    assert [e.plan for e in enter([tiny, narrow], both, settings())] == [e.plan for e in found.values()], "kept"
    (alone,) = enter([tiny], both, settings())
    assert (alone.plan.most_seconds, alone.ctx.limits.macs) == (60.0, 1000)


def test_a_view_of_a_trial_is_made_anew_until_the_trial_has_ended(tmp_path: Path, task: Task, tiny: Space) -> None:
    store = TrialStore(f"sqlite:///{tmp_path / 'a.db'}", "study", ("maximize",), facts="f").of("tiny")
    candidate = draw(tiny, task.spec, at(0.5), epochs=1, way="middle")
    trial = store.start(candidate, {**candidate.plain, "key": candidate.key})
    assert trial.params == candidate.params
    (seen,) = store.trials()
    assert not seen.state.is_finished() and [t.number for t in store.unfinished()] == [0]
    store.finish(trial, [0.5], {"losses": [[-0.5]]})
    (seen,) = store.trials()
    assert seen.state.is_finished() and seen.values == [0.5] and store.unfinished() == []
    store.reject(candidate, {"reason": "too large"}, {"params": 0.5})
    assert [t.params for t in store.trials()] == [candidate.params] * 2
    assert store.of("narrow").trials() == []


def test_what_is_recovered_is_compared_at_the_rungs_of_its_family(
    both: Context, tiny: Space, narrow: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family with two rungs where another has three: its trials stand at the last two, also after a resume."""
    from searchkit.search import coordinator
    from searchkit.search.policy import Halving

    kept: list[Halving] = []

    def remembered(lifecycle: Lifecycle, halving: Halving) -> list[Flight]:
        kept.append(halving)
        return recover(lifecycle, halving)

    monkeypatch.setattr(coordinator, "recover", remembered)
    training = replace(narrow.training, default=replace(narrow.training.default, batch_size=512))
    budget = replace(BUDGET, trials=8, epochs=4, rungs=3, least_rung_steps=2)
    for _ in range(2):
        search([tiny, replace(narrow, training=training)], both, settings(budget=budget))
    assert kept[0].seen == kept[1].seen and kept[0] is not kept[1]
    short = {row["number"] for row in history(both.run) if row["space"] == "narrow"}
    assert short & set(kept[1].seen[1]) and not short & set(kept[1].seen[0])


def _facts(url: str) -> str:
    return str(optuna.load_study(study_name=None, storage=url).user_attrs["facts"])


def test_a_family_alone_is_stored_as_ever(both: Context, tiny: Space) -> None:
    search([tiny], both, settings(budget=replace(BUDGET, trials=2)))
    study = optuna.load_study(study_name="run:tiny", storage=f"sqlite:///{both.run.path / 'study.db'}")
    assert all("depth" in t.params and "family" not in t.user_attrs for t in study.trials)


def test_families_are_compared_at_the_same_share_of_their_trainings(both: Context, tiny: Space, narrow: Space) -> None:
    """Nobody chose the epochs, so each has its own; the one with a single rung meets the others at their last."""
    budget = replace(BUDGET, epochs=4, rungs=3)
    own = [
        replace(space, name=f"own-{epochs}", budget=replace(space.budget, epochs=epochs))
        for space, epochs in ((tiny, 40), (narrow, 30))
    ]
    entrants = enter(own, both, settings(budget=budget, plans_epochs=True))
    assert [e.course.rung_epochs for e in entrants] == [(10, 20, 40), (8, 15, 30)]
    chosen = enter([tiny, narrow], both, settings(budget=budget))
    assert [e.course.rung_epochs for e in chosen] == [(1, 2, 4)] * 2 and not any(e.course.rungs_below for e in chosen)
    training = replace(narrow.training, default=replace(narrow.training.default, batch_size=512))
    short = replace(narrow, name="short", training=training)
    few = settings(budget=replace(budget, least_rung_steps=2))
    mixed = enter([tiny, short], both, few)
    assert [(e.course.rung_epochs, e.course.rungs_below) for e in mixed] == [((1, 2, 4), 0), ((2, 4), 1)]


def test_rungs_of_a_family_with_fewer_meet_the_last_ones_of_the_others(
    both: Context, tiny: Space, narrow: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchkit.search.policy import Halving

    seen: dict[str, set[int]] = {"tiny": set(), "narrow": set()}
    real = Halving.record

    def record(self: Halving, number: int, rung: int, losses: tuple[float, ...]) -> None:
        family = next(row["space"] for row in both.run.lines("search.jsonl") if row.get("trial") == number)
        seen[family].add(rung)
        real(self, number, rung, losses)

    monkeypatch.setattr(Halving, "record", record)
    training = replace(narrow.training, default=replace(narrow.training.default, batch_size=512))
    budget = replace(BUDGET, trials=8, epochs=4, rungs=3, least_rung_steps=2)
    search([tiny, replace(narrow, training=training)], both, settings(budget=budget))
    assert seen["tiny"] == {0, 1, 2}
    assert min(seen["narrow"]) == 1


def test_a_family_over_the_limits_is_left_out_and_the_others_are_searched(
    both: Context, tiny: Space, narrow: Space
) -> None:
    said: list[str] = []
    ctx = replace(both, limits=Limits(params=100), echo=said.append)
    search([tiny, narrow], ctx, settings(budget=replace(BUDGET, trials=4)))
    assert {row["space"] for row in history(ctx.run)} == {"narrow"}
    about = json.loads((ctx.run.path / "search.json").read_text())
    assert "No candidate of 'tiny' can fit" in about["tiny"]["left_out"] and "profile" in about["narrow"]
    assert any(line.startswith("tiny: left out: No candidate of 'tiny'") for line in said)


def test_where_no_family_fits_the_search_says_so(both: Context, tiny: Space, narrow: Space) -> None:
    with pytest.raises(NothingFeasible, match="^None of the families tiny, narrow can be searched; .*'tiny' can fit"):
        search([tiny, narrow], replace(both, limits=Limits(params=10)), settings())


def test_a_family_that_is_used_up_leaves_the_rest_to_the_others(both: Context, tiny: Space, narrow: Space) -> None:
    """A grid of narrow has 5 × 2 leaves without its training."""
    said: list[str] = []
    few = replace(narrow, training=replace(narrow.training, ranges={}))
    ctx = replace(both, echo=said.append)
    search([few], ctx, settings(sampler="grid", budget=replace(BUDGET, trials=12, epochs=1)))
    assert len(history(ctx.run)) == 10 and any("every candidate that the sampler finds" in line for line in said)
    fresh = replace(ctx, run=Run.create(ctx.run.path.parent / "second", "run", {}))
    narrow_again = replace(few, name="again")
    search([few, narrow_again], fresh, settings(sampler="grid", budget=replace(BUDGET, trials=30, epochs=1)))
    assert len(history(fresh.run)) == 20
    assert sum("no more trials" in line for line in said) == 2 and said[-1].startswith("the search ends before 30")


def test_a_family_that_is_not_for_the_data_is_refused(tmp_path: Path, tiny: Space, narrow: Space) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    with pytest.raises(BadInput, match="'narrow' is not for the task 'digits'"):
        search([narrow, tiny], Context(Run.create(tmp_path, "run", {}), digits, lambda name: tiny), settings())


def test_coordinators_share_a_study_of_two_families(tmp_path: Path, task: Task, tiny: Space, narrow: Space) -> None:
    url, spaces = f"sqlite:///{tmp_path / 'shared.db'}", {"tiny": tiny, "narrow": narrow}
    for place, order, trials in (("one", (tiny, narrow), 4), ("two", (narrow, tiny), 7)):
        run = Run.create(tmp_path / place, "run", {})
        ctx = Context(run, task, spaces.__getitem__, echo=lambda line: None)
        search(order, ctx, settings(storage=url, budget=replace(BUDGET, trials=trials)))
        assert len(history(run)) == trials
        assert len(run.trials()) == (4 if place == "one" else 3), "the trials of both count"


def test_importances_are_of_each_family(both: Context, tiny: Space, narrow: Space) -> None:
    search([tiny, narrow], both, settings(budget=replace(BUDGET, trials=16, epochs=1, rungs=1), sampler="random"))
    counts = [sum(row["space"] == name for row in history(both.run)) for name in ("tiny", "narrow")]
    found = importances(both.run)
    assert max(counts) >= 6 and {name.split(".")[0] for name in found} <= {"tiny", "narrow"}
    assert sum(found.values()) == pytest.approx(sum(count >= 6 for count in counts))
