"""Every field of limits, tolerances, budgets and search settings does something: what is observed must change with it.

A dataclass that gains a field fails here until the field has a row, and a field that the code ignores fails its row.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from configuration_rows import TINY, require_a_row_for_each_field, task

from searchkit.config.run import RunConfig
from searchkit.context import Context
from searchkit.core.errors import SearchkitError
from searchkit.core.goal import Goal, Tolerance
from searchkit.core.space import Budget, Limits
from searchkit.run import Run
from searchkit.search import coordinator
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.search.coordinator import search
from searchkit.search.cost_model import CostModel
from searchkit.search.jobs import Outcome
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.search.time_planning import make_time_plan
from searchkit.workflow import context

# ── limits and tolerances ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(Run.create(tmp_path, "run", {}), task("iris"), lambda name: TINY, seed=1, echo=lambda line: None)


@pytest.mark.parametrize("field", [f.name for f in fields(Limits)])
def test_each_limit_is_measured_for_a_candidate_and_refuses_it(ctx: Context, field: str) -> None:
    limited = replace(ctx, limits=Limits(**{field: 10**9}))
    candidate = draw(TINY, ctx.task.spec, at(0.5), epochs=1, way="test")
    cost = CostModel(TINY, limited, cost=None, ship_int8=False).cost(candidate)
    assert limited.limits.breaches(cost) == {}
    tight = Limits(**{field: cost[field] / 2})  # type: ignore[arg-type]
    assert tight.breaches(cost) == {field: pytest.approx(1.0)}
    assert Limits(**{field: cost[field]}).breaches(cost) == {}, "what is just met is met"  # type: ignore[arg-type]


def test_each_field_of_a_tolerance_decides() -> None:
    plain = Tolerance(Goal("accuracy", "maximize"))
    error = replace(plain, goal=Goal("rmse", "minimize"))
    require_a_row_for_each_field(Tolerance, {"goal": 0, "max_drop": 0, "max_rise": 0})
    assert plain.admits(0.9951, 1.0) and not plain.admits(0.9949, 1.0)
    assert replace(plain, max_drop=0.02).admits(0.981, 1.0) and not replace(plain, max_drop=0.02).admits(0.979, 1.0)
    assert error.admits(1.019, 1.0) and not error.admits(1.021, 1.0)
    assert replace(error, max_rise=0.1).admits(1.09, 1.0) and not replace(error, max_rise=0.1).admits(1.11, 1.0)
    assert not plain.admits(0.9, 1.0) and error.admits(0.9, 1.0), "the goal says which way is worse"
    assert (plain.shown, replace(plain, max_drop=0.1).shown) == ("0.005", "0.1")
    assert (error.shown, replace(error, max_rise=0.1).shown) == ("0.02 of it", "0.1 of it")
    wide = replace(plain, goal=Goal("return", "maximize", span=450.0))
    assert wide.admits(400.0, 402.2) and not wide.admits(400.0, 402.3) and wide.shown == "2.25"
    assert plain.admits(0.9, 1.0, error=0.11) and not plain.admits(0.9, 1.0, error=0.09)


# ── a search ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = Budget(trials=2, epochs=1, rungs=1, eta=2, least_rung_steps=1)


def searched(ctx: Context, **changes: Any) -> list[dict[str, Any]]:
    search(TINY, ctx, SearchSettings(**{"budget": SMALL, "precision": "fp32", **changes}))
    return history(ctx.run)


BUDGET_ROWS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "epochs": (9, (1, 3, 9)),
    "rungs": (2, (6, 18)),
    "eta": (2, (4, 9, 18)),
    "least_rung_steps": (31, (6, 18)),
}


def test_each_field_of_a_budget_has_a_row() -> None:
    require_a_row_for_each_field(Budget, {**BUDGET_ROWS, "trials": None, "seconds": None})


@pytest.mark.parametrize("field", BUDGET_ROWS)
def test_each_field_of_a_budget_moves_the_rungs(field: str) -> None:
    plain = Budget(epochs=18, least_rung_steps=5)
    assert plain.rung_epochs(10) == (2, 6, 18)
    value, expected = BUDGET_ROWS[field]
    assert replace(plain, **{field: value}).rung_epochs(10) == expected


@pytest.mark.parametrize(("eta", "kept"), [(2, 3), (3, 2), (5, 1)])
def test_one_in_eta_goes_on_at_a_rung(eta: int, kept: int) -> None:
    from searchkit.search.successive_halving import goes_on

    seen = {n: (float(n),) for n in range(5)}
    assert [n for n in seen if goes_on(n, seen, eta)] == list(range(kept))


def test_a_budget_is_spent_in_trials_and_seconds(ctx: Context) -> None:
    assert len(searched(ctx, budget=replace(SMALL, trials=3))) == 3
    config = RunConfig.from_options(space="tiny", time_budget=50)
    found = context(ctx.run, config, ctx.task, lambda name: TINY, print, spent=20.0)
    assert 29 < found.deadline.left() <= 30


class Recorded:
    """In the place of an executor: keeps what it was made with, and every job times out when it is cancelled."""

    capacity = 1
    made: list[dict[str, Any]]

    def __init__(self, *given: Any, **named: Any) -> None:
        Recorded.made.append(named)
        self.keys: list[str] = []
        self.cancelled: list[str] = []

    def submit(self, job: Any) -> None:
        self.keys.append(job.key)

    def wait(self, seconds: float) -> list[Outcome]:
        done, self.cancelled = self.cancelled, []
        return [Outcome(key, "timed-out", "it hung") for key in done]

    def cancel(self, key: str) -> None:
        self.cancelled.append(key)

    def close(self) -> None:
        self.keys.clear()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    from searchkit.search import executors_ray

    Recorded.made = []
    for owner, name in ((coordinator, "InProcess"), (coordinator, "Processes"), (executors_ray, "Ray")):
        monkeypatch.setattr(owner, name, type(name, (Recorded,), {}))
    return Recorded


def made_executor(ctx: Context, recorded: type[Recorded], **changes: Any) -> dict[str, Any]:
    with pytest.raises(SearchkitError):  # every job is killed as hung
        searched(ctx, hang_seconds=0.0, **changes)
    return recorded.made[0]


def test_an_executor_is_made_as_the_settings_say(ctx: Context, recorded: type[Recorded]) -> None:
    assert made_executor(ctx, recorded) == {}


@pytest.mark.parametrize("address", ["auto", "ray://host:1"])
def test_ray_is_told_its_address_and_workers(ctx: Context, recorded: type[Recorded], address: str) -> None:
    found = made_executor(ctx, recorded, executor="ray", address=address, workers=3)
    assert found == {"workers": 3, "address": address, "device": "cpu", "gpus_per_trial": None, "workers_per_trial": 1}


def test_processes_are_told_how_many(ctx: Context, recorded: type[Recorded]) -> None:
    assert made_executor(ctx, recorded, executor="processes", workers=5) == {"workers": 5}


def test_a_rung_that_hangs_for_longer_than_allowed_is_killed(ctx: Context, recorded: type[Recorded]) -> None:
    made_executor(ctx, recorded)
    assert {row["failure"] for row in history(ctx.run)} == {"timed-out"}


def test_the_sampler_chooses_the_candidates(ctx: Context) -> None:
    assert [row["way"] for row in searched(ctx, sampler="random")] == ["random", "random"]


@pytest.mark.parametrize("minimize", [None, "params", "macs"])
def test_what_is_minimized_is_an_objective_of_the_study(ctx: Context, minimize: str | None) -> None:
    import optuna

    searched(ctx, minimize=minimize)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{ctx.run.path / 'study.db'}")
    assert [d.name for d in study.directions] == ["MAXIMIZE"] + (["MINIMIZE"] if minimize else [])
    if minimize:
        assert [t.values[1] for t in study.trials] == [row["cost"][minimize] for row in history(ctx.run)]


def test_the_storage_is_where_the_study_lies(ctx: Context, tmp_path: Path) -> None:
    searched(ctx, storage=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert (tmp_path / "elsewhere.db").exists() and not (ctx.run.path / "study.db").exists()


def test_a_candidate_is_weighed_as_it_is_shipped(ctx: Context, tmp_path: Path) -> None:
    candidate, sizes = draw(TINY, ctx.task.spec, at(1.0), epochs=1, way="test"), []
    for int8 in (False, True):
        run = Run.create(tmp_path, f"int8 is {int8}", {})  # a run keeps what it has measured
        limited = replace(ctx, run=run, limits=Limits(size_bytes=10**9))
        sizes.append(CostModel(TINY, limited, cost=None, ship_int8=int8).cost(candidate)["size_bytes"])
    parameters = CostModel(TINY, ctx, cost=None, ship_int8=False).cost(candidate)["params"]
    assert sizes[0] - sizes[1] > 0.5 * parameters
    assert [CostModel(TINY, ctx, cost=None, ship_int8=int8).bytes_a_weight for int8 in (False, True)] == [4, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_is_asked_for_is_trained_in(ctx: Context, precision: str) -> None:
    assert make_time_plan(TINY, ctx, SearchSettings(precision=precision)).precision == precision


def test_few_rows_lengthen_the_training_only_where_the_user_chose_no_epochs(ctx: Context, tmp_path: Path) -> None:
    other = replace(ctx, run=Run.create(tmp_path, "other", {}))
    settings = SearchSettings(budget=SMALL, precision="fp32")
    assert make_time_plan(TINY, ctx, settings).epochs == 1
    assert make_time_plan(TINY, other, replace(settings, plans_epochs=True)).epochs > 50


def test_each_field_of_the_search_settings_has_a_test() -> None:
    named = "budget sampler minimize workers executor address gpus_per_trial workers_per_trial storage ship_int8"
    named += " precision plans_epochs hang_seconds"
    named += " strategy final_seconds"  # test_starts.py, test_supernet.py, test_final.py
    require_a_row_for_each_field(SearchSettings, dict.fromkeys(named.split()))
